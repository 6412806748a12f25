package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"otel-demo/brokers/server"
)

// The test binary is also the program.
func init() {
	if os.Getenv("RUN_PROGRAM") != "" {
		main()
	}
}

// command runs the program, with spans going to address. An argument such as NATS_URL=... is a variable for it.
func command(t *testing.T, address string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, log strings.Builder
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), "RUN_PROGRAM=1", "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+address, "OTEL_TRACES_EXPORTER=otlp")
	for _, d := range demos {
		cmd.Env = append(cmd.Env, d.variable+"=")
	}
	for _, argument := range args {
		if strings.Contains(argument, "=") {
			cmd.Env, cmd.Args = append(cmd.Env, argument), cmd.Args[:len(cmd.Args)-1]
		}
	}
	cmd.Stdout, cmd.Stderr = &out, &log
	err = cmd.Run()
	return out.String(), log.String(), err
}

// agent accepts spans as the demo's agent does.
type agent struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans []*tracepb.Span
}

func (a *agent) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, resource := range r.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			a.spans = append(a.spans, scope.Spans...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// Each demo prints the ids of traces that arrive, and each trace contains what its line says.
func TestEachBroker(t *testing.T) {
	const failed = tracepb.Status_STATUS_CODE_ERROR
	for _, test := range []struct {
		broker           string
		lines            int
		process          int // spans
		failed           int // of those
		linksOfTheBatch  int
		secondDeliveries int
	}{
		{"nats", 3, 5, 1, 0, 0},
		{"kafka", 7, 6, 1, 3, 0},
		{"rabbitmq", 4, 9, 4, 0, 2},
		{"redisstreams", 8, 8, 4, 3, 3},
		{"mqtt", 4, 6, 1, 0, 0},
		{"outbox", 4, 4, 1, 0, 0},
	} {
		t.Run(test.broker, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath("rabbitmq-server"); test.broker == "rabbitmq" && err != nil && os.Getenv("REQUIRE_RABBITMQ") == "" {
				t.Skip(err)
			}
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			a, s := &agent{}, grpc.NewServer()
			collector.RegisterTraceServiceServer(s, a)
			go s.Serve(listener)
			defer s.Stop()
			stdout, stderr, err := command(t, listener.Addr().String(), test.broker)
			if err != nil {
				t.Fatalf("%v\n%s%s", err, stdout, stderr)
			}

			arrived := map[string]bool{}
			process, failures, links, second := 0, 0, 0, 0
			for _, span := range a.spans {
				arrived[fmt.Sprintf("%x", span.TraceId)] = true
				if !strings.HasPrefix(span.Name, "process work") {
					continue
				}
				process++
				if span.Status.GetCode() == failed {
					failures++
				}
				if len(span.Links) > 1 {
					links = len(span.Links)
				}
				for _, attribute := range span.Attributes {
					if attribute.Key == "work.delivery_count" && attribute.Value.GetIntValue() == 2 {
						second++
					}
				}
			}
			ids := regexp.MustCompile(`(?m)^([0-9a-f]{32})  \w`).FindAllStringSubmatch(stdout, -1)
			for _, id := range ids {
				if !arrived[id[1]] {
					t.Errorf("no span of the trace %s has arrived", id[1])
				}
			}
			if !strings.Contains(stderr, "give up") {
				t.Errorf("no line says that a message is given up:\n%s", stderr)
			}
			if len(ids) != test.lines || process != test.process || failures != test.failed ||
				links != test.linksOfTheBatch || second != test.secondDeliveries {
				t.Errorf("%d ids, %d process spans, of which %d failed and %d were second deliveries, and a batch with %d links; want %+v\n%s%s",
					len(ids), process, failures, second, links, test, stdout, stderr)
			}
		})
	}
}

func TestWithoutAnAgentOneLineSaysHowToStartIt(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	stdout, stderr, err := command(t, address, "nats")
	if err == nil || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "go run -C local . -recipe own-program") {
		t.Errorf("%v, %q, %q", err, stdout, stderr)
	}
}

// The first line is what is wrong, and not where to look for traces.
func TestWithoutABrokerThereIsNothingToOpen(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // it looks like an agent
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, d := range demos {
		closed := map[string]string{"nats": "nats://127.0.0.1:1", "kafka": "127.0.0.1:1", "rabbitmq": "amqp://127.0.0.1:1/",
			"redisstreams": "redis://127.0.0.1:1/0"}[d.name]
		if closed == "" {
			continue
		}
		stdout, stderr, err := command(t, listener.Addr().String(), d.name, d.variable+"="+closed)
		if err == nil || strings.Contains(stdout, "Open http") || !strings.Contains(stderr, d.name+": ") {
			t.Errorf("%s: %v, %q, %q", d.name, err, stdout, stderr)
		}
	}
}

func TestABareCommandListsTheBrokers(t *testing.T) {
	stdout, stderr, err := command(t, "127.0.0.1:1")
	for _, d := range demos {
		if !strings.Contains(stdout, d.name) || !strings.Contains(stdout, d.variable) {
			t.Errorf("%s is not listed", d.name)
		}
	}
	if err != nil || stderr != "" {
		t.Errorf("%v, %q", err, stderr)
	}
	if _, stderr, err := command(t, "127.0.0.1:1", "pigeons"); err == nil || strings.Count(stderr, "\n") != 1 {
		t.Errorf("an unknown broker: %v, %q", err, stderr)
	}
}

// The test to copy must fail for a lesson that doesn't inject, injects the wrong ctx, or doesn't extract.
func TestTheTestToCopyFailsWhenTheContextIsLost(t *testing.T) {
	const lesson = "redisstreams/redisstreams.go"
	code, err := os.ReadFile(lesson)
	if err != nil {
		t.Fatal(err)
	}
	path, err := filepath.Abs(lesson)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"no inject":  {"\totel.GetTextMapPropagator().Inject(ctx, carrier(fields))\n", ""},
		"wrong ctx":  {`ctx, span := tracer.Start(ctx, "publish "+stream`, `_, span := tracer.Start(ctx, "publish "+stream`},
		"no extract": {"return otel.GetTextMapPropagator().Extract(context.Background(), carrier(entry.Values))", "return context.Background()"},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Count(string(code), change[0]) != 1 {
				t.Fatalf("%s: want this exactly once: %s", lesson, change[0])
			}
			changed, says := strings.Replace(string(code), change[0], change[1], 1), "the context was lost on the way to it"
			if name == "wrong ctx" {
				says = "was the wrong ctx injected?"
			}
			if name == "no extract" {
				changed += "\nvar _ = otel.GetTextMapPropagator\n"
			}
			directory := t.TempDir()
			overlay, _ := json.Marshal(map[string]any{"Replace": map[string]string{path: filepath.Join(directory, "lesson.go")}})
			if err := os.WriteFile(filepath.Join(directory, "lesson.go"), []byte(changed), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(directory, "overlay.json"), overlay, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("go", "test", "-overlay", filepath.Join(directory, "overlay.json"),
				"-run", "^TestTheTraceCrossesTheBroker$", ".").CombinedOutput()
			if err == nil || !strings.Contains(string(out), says) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// This is why the test to copy has one recorder for the package.
func TestTrapAPackageLevelTracerStaysOnItsFirstProvider(t *testing.T) {
	tracer := otel.Tracer("otel-demo/brokers") // TestMain has set the first provider
	tracer.Start(t.Context(), "first")
	first := otel.GetTracerProvider()
	defer otel.SetTracerProvider(first)
	own := tracetest.NewSpanRecorder()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(own)))
	_, span := tracer.Start(t.Context(), "second")
	span.End()
	if len(own.Started()) != 0 {
		t.Error("the tracer has moved to the second provider: this is no longer a trap")
	}
}

// As the README says, the lessons need two files of pkg. They are compiled as if pkg had no others.
func TestTheLessonsNeedTwoFilesOfPkg(t *testing.T) {
	files, err := filepath.Glob("../pkg/*.go")
	if err != nil {
		t.Fatal(err)
	}
	without := map[string]string{}
	for _, file := range files {
		if name := filepath.Base(file); name != "tracer.go" && name != "batcher.go" {
			absolute, _ := filepath.Abs(file)
			without[absolute] = "" // go takes it as deleted
		}
	}
	content, err := json.Marshal(map[string]any{"Replace": without})
	overlay := filepath.Join(t.TempDir(), "overlay.json")
	if err := errors.Join(err, os.WriteFile(overlay, content, 0o600)); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-overlay", overlay, "./nats", "./kafka", "./rabbitmq", "./redisstreams", "./mqtt", "./outbox")
	if out, err := build.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// The README's table of servers is the tests' own list.
func TestTheReadmeListsTheServersOfTheTests(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	want := "| lesson | server | required in CI by |\n|---|---|---|\n"
	for _, kind := range server.Kinds {
		required := "none: built in"
		if kind.Require != "" {
			required = "`" + kind.Require + "=1`"
		}
		want += fmt.Sprintf("| %s | %s | %s |\n", kind.Lesson, kind.Name, required)
	}
	if !strings.Contains(string(readme), "\n"+want+"\n") {
		t.Errorf("README.md lacks this table:\n%s", want)
	}
}

// Each lesson takes five minutes to read, and about a third of it is comments.
func TestEachLessonIsShortAndCommented(t *testing.T) {
	for _, d := range demos {
		file := filepath.Join(d.name, d.name+".go")
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines, comments := 0, 0
		for line := range strings.Lines(string(content)) {
			if width := len([]rune(strings.ReplaceAll(strings.TrimRight(line, "\n"), "\t", "    "))); width > 120 {
				t.Errorf("%s: %d columns, want at most 120: %s", file, width, line)
			}
			line = strings.TrimSpace(line)
			if line != "" {
				lines++
			}
			if strings.HasPrefix(line, "//") {
				comments++
			}
		}
		if share := 100 * comments / lines; lines > 150 || share < 25 || share > 35 {
			t.Errorf("%s: %d non-blank lines, %d %% of them comments; want at most 150, and 25 to 35 %%", file, lines, share)
		}
	}
}
