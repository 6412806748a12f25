package cmd_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"go/format"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

func text(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", filepath.FromSlash(file)))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// tracer.go compiles alone, with the change that its comment names. The next test compiles it with batcher.go.
func TestTheTracerCompilesAlone(t *testing.T) {
	t.Parallel()
	alone := strings.ReplaceAll(text(t, "pkg/tracer.go"), "processor, err := newProcessor(ctx)\n", "\n")
	alone = strings.NewReplacer("//\texporter, err := ", "exporter, err := ", "//\tprocessor := ", "processor := ",
		"import (", "import (\n\t\"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc\"").Replace(alone)
	compile(t, "alone", "vet", map[string]string{"tracer.go": alone})
}

// compile has go build or go vet a package of these files, and removes them at the end of the test.
func compile(t *testing.T, name, command string, files map[string]string, flags ...string) {
	t.Helper()
	folder := filepath.Join(programs, "_copied", name) // go vet ./... leaves _ out
	t.Cleanup(func() { os.RemoveAll(folder) })
	for file, content := range files {
		path := filepath.Join(folder, filepath.FromSlash(file))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("go", slices.Concat([]string{command}, flags, []string{folder})...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// broker is what docs/own-system.md leaves to the reader: the broker, the bank's address, and the work.
const broker = `package main

import (
	"context"
	"os"
	"time"
)

var bank, messages = os.Getenv("BANK_URL"), make(chan message, 10)

func send(ctx context.Context, m message) error {
	messages <- m
	background.Go(func() {
		_, span := tracer.Start(context.WithoutCancel(ctx), "mail receipt")
		defer span.End()
		wait("MAILING")
	})
	return nil
}

func subscribe(callback func(message)) (unsubscribe func(), err error) {
	go func() {
		for m := range messages {
			callback(m)
		}
	}()
	return func() {}, nil
}

func ship(context.Context, string) error { wait("SHIPPING"); return nil }

func wait(variable string) {
	duration, _ := time.ParseDuration(os.Getenv(variable))
	time.Sleep(duration)
}
`

// The code of docs/own-system.md is a program. Its checks hold: the log line has the caller's trace id, a failed span has
// an error.type to count by, and SIGTERM loses no span of what is in progress.
func TestThePageOfYourOwnSystem(t *testing.T) {
	t.Parallel()
	page, address := text(t, "docs/own-system.md"), freeAddress(t)
	files, imports, code := map[string]string{"broker.go": broker}, map[string]bool{}, ""
	for _, name := range []string{"tracer.go", "batcher.go"} {
		files["tracing/"+name] = strings.Replace(text(t, "pkg/"+name), "package pkg\n", "package tracing\n", 1)
	}
	for _, block := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(page, -1) {
		if formatted, err := format.Source([]byte(block[1])); err != nil || string(formatted) != block[1] {
			t.Errorf("%v; gofmt would change this:\n%s", err, block[1])
		}
		if own, ok := strings.CutPrefix(block[1], "package tracing\n"); ok {
			files["tracing/log.go"] = block[1]
			_, own, _ = strings.Cut(own, ")\n\n")
			for part := range strings.SplitSeq(strings.Replace(own, "NewTraceHandler", "newTraceHandler", 1), "\n\n") {
				if !strings.Contains(text(t, "pkg/program.go"), part) {
					t.Errorf("this isn't in pkg/program.go:\n%s", part)
				}
			}
			continue
		}
		head, body, _ := strings.Cut(strings.TrimPrefix(block[1], "import (\n"), "\n)\n")
		for line := range strings.Lines(head) {
			line, _, _ = strings.Cut(line, " //")
			imports[strings.TrimSpace(line)] = true
		}
		code += body
	}
	code = "package main\n\nimport (\n" + strings.Join(slices.Sorted(maps.Keys(imports)), "\n") + "\n)\n" + code
	files["main.go"] = strings.NewReplacer("localhost:8000", address,
		"example.com/shop", "otel-demo/out/test/_copied/orders").Replace(code)
	compile(t, "orders", "build", files, "-o", programs)

	for _, required := range regexp.MustCompile(`([\w.-]+\.[\w./-]+)@(v[\w.]+)`).FindAllStringSubmatch(page, -1) {
		if !strings.Contains(text(t, "go.mod"), fmt.Sprintf("\t%s %s\n", required[1], required[2])) {
			t.Errorf("go.mod doesn't have %s", required[0])
		}
	}

	if runtime.GOOS == "windows" {
		t.Skip("Windows has no signals to send to a process")
	}
	for _, lasts := range []string{"SHIPPING=1s", "MAILING=1s"} {
		t.Run(lasts, func(t *testing.T) { order(t, address, lasts) })
	}
}

// order starts the page's program, orders three times, and stops it while the third request is in progress, and also
// the consumer or the goroutines, whichever lasts.
func order(t *testing.T, address, lasts string) {
	calls, respond := make(chan string, 1), make(chan string)
	bank := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls <- r.URL.Path + " " + r.Header.Get("traceparent")
		select {
		case answer := <-respond:
			fmt.Fprint(w, answer)
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(bank.Close)
	a := startAgent(t)
	p := start(t, "orders", "BANK_URL="+bank.URL, lasts, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+a.address)
	eventually(t, "program", func() bool { return dial(address) })
	send := func(id, answer string, want int, meanwhile func()) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		request, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/orders/"+id, nil)
		request.Header.Set("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
		status := make(chan string, 1)
		go func() {
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				status <- err.Error()
				return
			}
			response.Body.Close()
			status <- response.Status
		}()
		select {
		case call := <-calls:
			if !strings.Contains(call, "/charge/"+id+" 00-4bf92f3577b34da6a3ce929d0e0e4736-") {
				t.Errorf("the bank got %s", call)
			}
		case got := <-status:
			t.Fatalf("order %s: the response is %s before the bank was called", id, got)
		}
		meanwhile()
		respond <- answer
		if got := <-status; !strings.HasPrefix(got, fmt.Sprint(want)) {
			t.Errorf("order %s: the response is %s, want %d", id, got, want)
		}
	}
	send("7", "ok", 200, func() {})
	send("13", "no", 503, func() {})
	send("8", "ok", 200, func() {
		if err := p.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		eventually(t, "closed port", func() bool { return !dial(address) })
	})
	if status := p.status(t, 10*time.Second); status != 0 {
		t.Errorf("exit status %d", status)
	}
	log := p.stderr.String()
	if !regexp.MustCompile(`(?m)^time=\S+ level=INFO msg=ordered trace_id=4bf92f3577b34da6a3ce929d0e0e4736 span_id=\w+ order=7$`).MatchString(log) ||
		strings.Contains(log, "OpenTelemetry") || strings.Contains(log, "stop tracing") {
		t.Errorf("logged\n%s", log)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var received coltracepb.ExportTraceServiceRequest
	if err := proto.Unmarshal([]byte(a.bytes), &received); err != nil { // requests one after the other are one request
		t.Fatal(err)
	}
	var spans []*tracepb.Span
	names, got := map[string]string{}, map[string]int{}
	for _, resource := range received.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			spans = append(spans, scope.Spans...)
		}
	}
	for _, span := range spans {
		names[string(span.SpanId)] = span.Name
	}
	for _, span := range spans {
		line := cmp.Or(names[string(span.ParentSpanId)], "?") + " > " + span.Name
		for _, attribute := range span.Attributes {
			if attribute.Key == "error.type" || attribute.Key == "messaging.destination.template" {
				line += " " + attribute.Value.GetStringValue()
			}
		}
		got[line]++
	}
	// The message of order 8 is sent after the consumer has stopped.
	want := map[string]int{"? > GET /orders/{id}": 3, "GET /orders/{id} > charge card": 2,
		"GET /orders/{id} > charge card declined": 1, "charge card > HTTP GET": 3,
		"GET /orders/{id} > publish orders/{id} orders/{id}": 2, "publish orders/{id} > mail receipt": 2,
		"publish orders/{id} > process orders/{id} orders/{id}": 1}
	if !maps.Equal(got, want) {
		t.Errorf("the spans are %v, want %v", got, want)
	}
}
