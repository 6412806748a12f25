// Package cmd_test starts the three programs as a user would, and checks what they print and how they exit.
package cmd_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

var programs string // the folder with the three programs

const version = "12 (bookworm)" // as in the shell of someone who has sourced /etc/os-release

func TestMain(m *testing.M) {
	folder, err := filepath.Abs(filepath.Join("..", "out", "test")) // kept, so that the next run links only what has changed
	if err != nil {
		panic(err)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		panic(err)
	}
	programs = folder
	dockerfile, err := os.ReadFile(filepath.Join("..", "Dockerfile"))
	if err != nil {
		panic(err)
	}
	flags := regexp.MustCompile(`-ldflags "(.*?)"`).FindSubmatch(dockerfile)[1]
	build := exec.Command("go", "build", "-buildvcs=false", "-tags", "grpcnotrace",
		"-ldflags", strings.ReplaceAll(string(flags), "${VERSION}", version), "-o", folder+string(filepath.Separator), "./client", "./server", "./worker")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	status := m.Run()
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(); err != nil && status == 0 {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

// process is a running program.
type process struct {
	*exec.Cmd
	stdout, stderr bytes.Buffer
	ended          chan struct{}
}

// start starts a program with an environment of just these variables. It is killed at the end of the test.
func start(t *testing.T, program string, env ...string) *process {
	t.Helper()
	name, arguments, _ := strings.Cut(program, " ")
	p := &process{Cmd: exec.Command(filepath.Join(programs, name), strings.Fields(arguments)...), ended: make(chan struct{})}
	p.Env = append(env, "SYSTEMROOT="+os.Getenv("SYSTEMROOT"))
	p.Stdout, p.Stderr = &p.stdout, &p.stderr
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.Wait(); close(p.ended) }()
	t.Cleanup(func() { p.Process.Kill(); <-p.ended })
	return p
}

// status waits for the program to exit, and returns its exit status.
func (p *process) status(t *testing.T, within time.Duration) int {
	t.Helper()
	select {
	case <-p.ended:
		return p.ProcessState.ExitCode()
	case <-time.After(within):
		t.Fatalf("%s is still running after %v", p.Path, within)
		return -1
	}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("no %s within 10 s", what)
		}
	}
}

// ports are below those that systems give to anyone who asks for any: a parallel test can't be given one meanwhile.
var ports atomic.Int32

func freeAddress(t *testing.T) string {
	t.Helper()
	for {
		address := fmt.Sprint("localhost:", 10000+(uint32(os.Getpid())+uint32(ports.Add(1)))%10000)
		if listener, err := net.Listen("tcp", address); err == nil {
			listener.Close()
			return address
		}
	}
}

func TestAValueThatCannotBeUsedIsOneLineAndStatus1(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, test := range []struct{ program, variable, value, want string }{
		{"client", "SERVER_URL", "localhost:8080/hello", "http://localhost:8080/hello"},
		{"client", "SERVER_URL", "http://", "http://localhost:8080/hello"},
		{"client", "REQUESTS", "-1", "a whole number from 0"},
		{"client", "REQUESTS", "many", "a whole number from 0"},
		{"client", "REQUESTS", "99999999999999999999", "a whole number from 0"},
		{"client", "WORK_DURATION", "200", "a duration from 0, such as 200ms"},
		{"server", "WORK_DURATION", "-1s", "a duration from 0, such as 200ms"},
		{"worker", "WORK_DURATION", "soon", "a duration from 0, such as 200ms"},
		{"server", "LISTEN_ADDR", "8080", "host:port"},
		{"server", "LISTEN_ADDR", "localhost:99999", "host:port"},
		{"server", "LISTEN_ADDR", taken.Addr().String(), "a free host:port"},
		{"server", "REDIS_URL", "localhost:6379", "redis://localhost:6379/0"},
		{"worker", "REDIS_URL", "http://localhost", "redis://localhost:6379/0"},
		{"server", "REDIS_URL", "redis://:se#same@localhost:6379", "# as %23, / as %2F and % as %25"},
		{"worker", "REDIS_URL", "redis://:se/same@localhost:6379", "# as %23, / as %2F and % as %25"},
		{"worker", "REDIS_URL", "redis://:sesame%@localhost:6379", "# as %23, / as %2F and % as %25"},
		{"worker", "REDIS_URL", "redis://user:12#same@localhost:6379/0", "# as %23, / as %2F and % as %25"},
		{"worker", "PROCESS_SPAN", "parent", "child or root"},
		{"client", "OTEL_EXPORTER_OTLP_ENDPOINT", "otel-agent:4317", "http://localhost:4317"},
		{"server", "OTEL_EXPORTER_OTLP_ENDPOINT", "grpc://otel-agent", "http://localhost:4317"},
		{"server", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "otel-agent:4317", "http://localhost:4317"},
		{"worker", "OTEL_EXPORTER_OTLP_PROTOCOL", "http", "grpc, http/protobuf or http/json"},
		{"worker", "OTEL_TRACES_EXPORTER", "jaegr", "otlp, console or none"},
		{"worker", "OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "a whole number from 0, such as 10000 (in milliseconds)"},
		{"client", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "-1", "a whole number from 0"},
		{"server", "OTEL_BSP_SCHEDULE_DELAY", "-1", "a whole number from 0"},
		{"server", "OTEL_BSP_MAX_QUEUE_SIZE", "many", "a whole number from 1"},
		{"worker", "OTEL_TRACES_SAMPLER", "sometimes", "always_on, always_off or traceidratio"},
		{"client", "OTEL_TRACES_SAMPLER_ARG", "1.5", "a ratio from 0 to 1, such as 0.1"},
		{"client", "OTEL_TRACES_SAMPLER_ARG", "half", "a ratio from 0 to 1, such as 0.1"},
		{"worker", "OTEL_PROPAGATORS", "tracecontext,b4", "tracecontext, baggage, b3"},
		{"worker", "OTEL_PROPAGATORS", "tracecontextbaggage", "tracecontext, baggage, b3"},
		{"client", "OTEL_RESOURCE_ATTRIBUTES", "novalue", "key=value"},
		{"client", "OTEL_SDK_DISABLED", "yes", "false or true"},
	} {
		t.Run(test.program+" "+test.variable+"="+test.value, func(t *testing.T) {
			p := start(t, test.program, "LISTEN_ADDR=localhost:0", test.variable+"="+test.value)
			if status := p.status(t, 5*time.Second); status != 1 {
				t.Errorf("exit status %d, want 1", status)
			}
			line := p.stderr.String()
			if strings.Count(line, "\n") != 1 || p.stdout.Len() > 0 {
				t.Errorf("printed\n%s%swant one line on standard error", p.stdout.String(), line)
			}
			shown := test.value[strings.LastIndex(test.value, "@")+1:] // without a password
			for _, want := range []string{test.variable, shown, test.want} {
				if !strings.Contains(line, want) {
					t.Errorf("printed %q, want it to name %q", line, want)
				}
			}
		})
	}
}

func TestAPasswordIsNeverPrinted(t *testing.T) {
	t.Parallel()
	redis := miniredis.RunT(t)
	redis.RequireAuth("right")
	for _, url := range []string{
		"redis://user:sesame@" + redis.Addr() + "/0", "redis://:sesame@" + redis.Addr(), "redis://:sesame@host:x/0",
		"rodis://:sesame@host", "redis://:ses@sesame@host/x", "redis://:sesame%@host",
	} {
		for _, program := range []string{"server", "worker"} {
			p := start(t, program, "LISTEN_ADDR=localhost:0", "REDIS_URL="+url)
			if status := p.status(t, 10*time.Second); status != 1 {
				t.Errorf("%s with %s: exit status %d, want 1", program, url, status)
			}
			if out := p.stderr.String(); !strings.Contains(out, "REDIS_URL") || strings.Contains(out, "sesame") {
				t.Errorf("%s with %s printed %q", program, url, out)
			}
		}
	}
}

// agent receives OTLP over gRPC without decoding it: it keeps the bytes of each request, and its headers.
type agent struct {
	address string
	mu      sync.Mutex
	bytes   string
	headers metadata.MD
}

// raw is a codec that leaves messages as bytes.
type raw struct{}

func (raw) Name() string { return "raw" }
func (raw) Marshal(any) ([]byte, error) {
	return nil, nil // an empty response
}
func (raw) Unmarshal(data []byte, to any) error {
	*to.(*string) = string(data)
	return nil
}

func startAgent(t *testing.T) *agent {
	t.Helper()
	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{address: listener.Addr().String()}
	server := grpc.NewServer(grpc.ForceServerCodec(raw{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		var request string
		if err := stream.RecvMsg(&request); err != nil {
			return err
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.bytes += request
		a.headers, _ = metadata.FromIncomingContext(stream.Context())
		return stream.SendMsg(nil)
	}))
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return a
}

func (a *agent) has(text string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Contains(a.bytes, text)
}

// The programs read OpenTelemetry's standard variables: no option in code overrides one.
func TestStandardVariables(t *testing.T) {
	t.Parallel()
	a, unused := startAgent(t), startAgent(t)
	nobody := "http://" + freeAddress(t)
	for name, env := range map[string][]string{
		"the general endpoint":      {"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + a.address},
		"the endpoint for traces":   {"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + unused.address, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://" + a.address},
		"the headers":               {"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + a.address, "OTEL_EXPORTER_OTLP_HEADERS=x-tenant=donuts"},
		"the schedule and the size": {"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + a.address, "OTEL_BSP_SCHEDULE_DELAY=50", "OTEL_BSP_MAX_QUEUE_SIZE=10"},
		"no delay":                  {"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + a.address, "OTEL_BSP_SCHEDULE_DELAY=0"},
	} {
		service := "service-" + strings.ReplaceAll(name, " ", "-")
		url := fake(t, func(http.ResponseWriter, *http.Request) {})
		p := start(t, "client", append(env, url, "REQUESTS=1", "WORK_DURATION=1ms", "OTEL_SERVICE_NAME="+service)...)
		if status := p.status(t, 10*time.Second); status != 0 || !a.has(service) {
			t.Errorf("%s: exit status %d, and the agent got spans: %v; printed %s", name, status, a.has(service), &p.stderr)
		}
		if strings.Contains(name, "headers") && strings.Join(a.headers["x-tenant"], "") != "donuts" {
			t.Errorf("the headers are %v", a.headers)
		}
	}
	if unused.bytes != "" {
		t.Error("the general endpoint got spans though there is one for traces")
	}
	if !a.has(version) {
		t.Errorf("no span has the service.version %s", version)
	}

	// With the default of 2 minutes no program would give up within 10 s.
	url := fake(t, func(http.ResponseWriter, *http.Request) {})
	p := start(t, "client", url, "OTEL_EXPORTER_OTLP_ENDPOINT="+nobody, "OTEL_BSP_EXPORT_TIMEOUT=200", "REQUESTS=30",
		"WORK_DURATION=100ms", "OTEL_BSP_SCHEDULE_DELAY=100")
	p.status(t, 20*time.Second)
	if !strings.Contains(p.stderr.String(), "spans were lost so far") {
		t.Errorf("the batcher doesn't use the variable's timeout: %s", &p.stderr)
	}
}

// What the specification allows stops no program. What isn't read is named.
func TestAValueThatTheSpecificationAllows(t *testing.T) {
	t.Parallel()
	a := startAgent(t)
	url := fake(t, func(http.ResponseWriter, *http.Request) {})
	for setting, want := range map[string]string{
		"OTEL_TRACES_SAMPLER=ALWAYS_ON":          "",
		"OTEL_TRACES_SAMPLER=xray":               "unsupported sampler",
		"OTEL_TRACES_SAMPLER_ARG=1e-1":           "",
		"OTEL_PROPAGATORS=TraceContext,Baggage":  "",
		"OTEL_SDK_DISABLED=FALSE":                "",
		"OTEL_TRACES_EXPORTER=OTLP":              "",
		"OTEL_TRACES_EXPORTER=none":              "",
		"OTEL_TRACES_EXPORTER=zipkin":            "isn't read",
		"OTEL_EXPORTER_OTLP_PROTOCOL=GRPC":       "",
		"OTEL_EXPORTER_OTLP_TIMEOUT=0":           "",
		"OTEL_RESOURCE_ATTRIBUTES=a=b,":          "OTEL_RESOURCE_ATTRIBUTES",
		"OTEL_CONFIG_FILE=/etc/otel-config.yaml": "OTEL_CONFIG_FILE isn't read",
	} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			p := start(t, "client", setting, url, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+a.address, "REQUESTS=1", "WORK_DURATION=1ms")
			status := p.status(t, 10*time.Second)
			lines := strings.Count(p.stderr.String(), "\n")
			if status != 0 || want == "" && lines > 0 || want != "" && (lines != 1 || !strings.Contains(p.stderr.String(), want)) {
				t.Errorf("exit status %d, printed %s", status, &p.stderr)
			}
		})
	}
}

// OTLP over HTTP is what Kubernetes operators inject.
func TestProtocolAndExporter(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var posted []string
	http := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		posted = append(posted, r.Method+" "+r.URL.Path+" "+string(body))
	}))
	defer http.Close()
	p := start(t, "client", fake(t, ok), "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT="+http.URL, "REQUESTS=1")
	if status := p.status(t, 10*time.Second); status != 0 || p.stderr.Len() > 0 {
		t.Errorf("exit status %d, printed %s", status, &p.stderr)
	}
	if all := strings.Join(posted, ""); !strings.HasPrefix(all, "POST /v1/traces ") || !strings.Contains(all, "make request") {
		t.Errorf("posted %q", all)
	}
	p = start(t, "client", fake(t, ok), "OTEL_TRACES_EXPORTER=console", "REQUESTS=1")
	if status := p.status(t, 10*time.Second); status != 0 || !strings.Contains(p.stdout.String(), `"Name":"make request"`) {
		t.Errorf("exit status %d, printed %s%s", status, &p.stdout, &p.stderr)
	}
}

func ok(http.ResponseWriter, *http.Request) {}

// One header that isn't UTF-8 costs no span. It used to cost its whole batch, 224 of 244 spans.
func TestAHeaderThatIsNotUTF8(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no signals to send to a process")
	}
	a, redis, address := startAgent(t), miniredis.RunT(t), freeAddress(t)
	env := []string{"REDIS_URL=redis://" + redis.Addr(), "LISTEN_ADDR=" + address, "OTEL_EXPORTER_OTLP_ENDPOINT=http://" + a.address, "WORK_DURATION=1ms"}
	start(t, "worker", env...)
	server := start(t, "server", env...)
	eventually(t, "worker", func() bool { return redis.PubSubNumSub("work")["work"] > 0 })
	eventually(t, "server", func() bool { return dial(address) })
	for i := range 61 {
		agent := "curl"
		if i == 30 {
			agent = "Caf\xe9/1.0"
		}
		connection, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(connection, "GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nUser-Agent: %s\r\n\r\n", agent)
		response, err := io.ReadAll(connection)
		connection.Close()
		if err != nil || !strings.HasPrefix(string(response), "HTTP/1.1 200") {
			t.Fatalf("got %q, %v", response, err)
		}
	}
	if err := server.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := server.status(t, 10*time.Second); status != 0 || strings.Contains(server.stderr.String(), "lost") {
		t.Errorf("exit status %d, printed %s", status, &server.stderr)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := strings.Count(a.bytes, "handle request"); n != 61 || !strings.Contains(a.bytes, "Caf\uFFFD/1.0") {
		t.Errorf("%d of 61 spans `handle request` arrived, and Caf\uFFFD/1.0: %v", n, strings.Contains(a.bytes, "Caf\uFFFD/1.0"))
	}
}

// fake starts a healthy server that handles /hello with answer.
func fake(t *testing.T, answer http.HandlerFunc) (url string) {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/hello", answer)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return "SERVER_URL=" + server.URL + "/hello"
}

func TestClientPrintsALineARequest(t *testing.T) {
	t.Parallel()
	var ids []string
	url := fake(t, func(w http.ResponseWriter, r *http.Request) {
		ids = append(ids, strings.Split(r.Header.Get("Traceparent"), "-")[1])
		if r.Header.Get("Baggage") != "username=donuts" {
			t.Errorf("baggage %q", r.Header.Get("Baggage"))
		}
		if len(ids) == 2 {
			w.WriteHeader(500)
		}
	})
	p := start(t, "client", url, "REQUESTS=3", "WORK_DURATION=1ms") // no agent: it flushes for 5 s
	if status := p.status(t, 20*time.Second); status != 1 {
		t.Errorf("exit status %d, want 1, because a request failed", status)
	}
	if len(ids) != 3 {
		t.Fatalf("%d requests, want 3: one failure must not stop the others", len(ids))
	}
	want := fmt.Sprintf(`^200 %s \d+m?s\n500 %s \d+m?s\n200 %s \d+m?s\n$`, ids[0], ids[1], ids[2])
	if !regexp.MustCompile(want).Match(p.stdout.Bytes()) {
		t.Errorf("printed\n%swant\n%s", &p.stdout, want)
	}
	if !strings.Contains(p.stderr.String(), "1 of 3 requests failed") {
		t.Errorf("printed %q on standard error", &p.stderr)
	}
}

func TestClientWithoutRequests(t *testing.T) {
	url := fake(t, func(http.ResponseWriter, *http.Request) { t.Error("a request came") })
	p := start(t, "client", url, "REQUESTS=0", "OTEL_SDK_DISABLED=true")
	if status := p.status(t, 10*time.Second); status != 0 || p.stdout.Len() > 0 {
		t.Errorf("exit status %d, and printed %q", status, &p.stdout)
	}
}

func TestClientWaitsForTheServer(t *testing.T) {
	var tries atomic.Int32
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if tries.Add(1) < 3 {
			w.WriteHeader(503)
		}
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	p := start(t, "client", "SERVER_URL="+server.URL+"/hello", "REQUESTS=0", "OTEL_SDK_DISABLED=true")
	if status := p.status(t, 10*time.Second); status != 0 || tries.Load() != 3 {
		t.Errorf("exit status %d after %d tries, want 0 after 3", status, tries.Load())
	}
}

func TestSignals(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no signals to send to a process")
	}
	redis := miniredis.RunT(t)
	redisURL := "REDIS_URL=redis://" + redis.Addr()
	requested := make(chan struct{}, 10)
	url := fake(t, func(http.ResponseWriter, *http.Request) { requested <- struct{}{} })
	address := freeAddress(t)
	nobody, tries := broken(t) // a server or a Redis that never responds
	triedAgain := func() bool { return tries.Swap(0) > 0 }
	const off = "OTEL_SDK_DISABLED=true" // or each flushes for 5 s, because there is no agent
	for _, test := range []struct {
		program string
		env     []string
		ready   func() bool
		signal  syscall.Signal
		want    int
	}{
		{"client", []string{url, "REQUESTS=1000"}, func() bool { return len(requested) > 0 }, syscall.SIGTERM, 143},
		{"client", []string{url, "REQUESTS=1000", off}, func() bool { return len(requested) > 1 }, syscall.SIGINT, 130},
		{"client", []string{"SERVER_URL=http://" + nobody + "/hello", off}, triedAgain, syscall.SIGTERM, 143},
		{"worker", []string{redisURL}, func() bool { return redis.PubSubNumSub("work")["work"] > 0 }, syscall.SIGTERM, 0},
		{"worker", []string{"REDIS_URL=redis://" + nobody, off}, triedAgain, syscall.SIGINT, 0},
		{"server", []string{redisURL, "LISTEN_ADDR=" + address}, func() bool { return dial(address) }, syscall.SIGTERM, 0},
		{"server", []string{redisURL, "LISTEN_ADDR=" + address, off}, func() bool { return dial(address) }, syscall.SIGINT, 0},
	} {
		t.Run(fmt.Sprint(test.program, " ", test.signal), func(t *testing.T) {
			p := start(t, test.program, test.env...)
			eventually(t, "sign of life", test.ready)
			if err := p.Process.Signal(test.signal); err != nil {
				t.Fatal(err)
			}
			if status := p.status(t, 10*time.Second); status != test.want {
				t.Errorf("exit status %d, want %d; printed %s", status, test.want, &p.stderr)
			}
		})
	}
}

// broken accepts connections and closes each one at once. tries counts them.
func broken(t *testing.T) (address string, tries *atomic.Int32) {
	t.Helper()
	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	tries = new(atomic.Int32)
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			tries.Add(1)
			connection.Close()
		}
	}()
	return listener.Addr().String(), tries
}

func dial(address string) bool {
	connection, err := net.Dial("tcp", address)
	if err == nil {
		connection.Close()
	}
	return err == nil
}

// A handler that hangs doesn't keep the worker from stopping: it exits within 10 s, and logs how many messages it cut
// off. There is no agent either, so the last flush takes as long as it can.
func TestAWorkerWhoseHandlersHangStops(t *testing.T) {
	t.Parallel()
	redis := miniredis.RunT(t)
	p := start(t, "worker", "REDIS_URL=redis://"+redis.Addr(), "WORK_DURATION=1h")
	eventually(t, "worker", func() bool { return redis.PubSubNumSub("work")["work"] > 0 })
	for range 3 {
		redis.Publish("work", `{"id":"1","body":"hello"}`)
	}
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := p.status(t, 10*time.Second); status != 0 {
		t.Errorf("exit status %d", status)
	}
	for _, want := range []string{`msg="messages were cut off, since the program had to stop" messages=3`, "3 of 3 spans were lost"} {
		if !strings.Contains(p.stderr.String(), want) {
			t.Errorf("printed\n%swant %s", &p.stderr, want)
		}
	}
}

// When Redis comes back with a different password, only a new setting helps: one line, and exit status 1.
func TestAPasswordThatChangesEndsTheWorker(t *testing.T) {
	redis := miniredis.RunT(t)
	p := start(t, "worker", "REDIS_URL=redis://"+redis.Addr(), "OTEL_SDK_DISABLED=true")
	eventually(t, "worker", func() bool { return redis.PubSubNumSub("work")["work"] > 0 })
	redis.Close()
	redis.RequireAuth("sesame")
	if err := redis.Restart(); err != nil {
		t.Fatal(err)
	}
	if status := p.status(t, 10*time.Second); status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
	lines := strings.Split(strings.TrimSpace(p.stderr.String()), "\n")
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "REDIS_URL: Redis refuses the user") {
		t.Errorf("printed\n%s", &p.stderr)
	}
}

func TestHealthcheck(t *testing.T) {
	redis := miniredis.RunT(t)
	address := freeAddress(t)
	env := []string{"REDIS_URL=redis://" + redis.Addr(), "LISTEN_ADDR=" + address, "OTEL_SDK_DISABLED=true"}
	if status := start(t, "server -healthcheck", env...).status(t, 5*time.Second); status != 1 {
		t.Errorf("exit status %d without a server, want 1", status)
	}
	start(t, "server", env...)
	eventually(t, "server", func() bool { return dial(address) })
	if status := start(t, "server -healthcheck", env...).status(t, 5*time.Second); status != 1 {
		t.Errorf("exit status %d without a worker, want 1", status)
	}
	start(t, "worker", env...)
	eventually(t, "worker", func() bool { return redis.PubSubNumSub("work")["work"] > 0 })
	if status := start(t, "server -healthcheck", env...).status(t, 5*time.Second); status != 0 {
		t.Errorf("exit status %d with a worker, want 0", status)
	}
}

func TestServerAndWorkerStartWithoutRedis(t *testing.T) {
	t.Parallel()
	redis := miniredis.NewMiniRedis()
	redisAddress, address := freeAddress(t), freeAddress(t)
	env := []string{"REDIS_URL=redis://" + redisAddress, "LISTEN_ADDR=" + address, "OTEL_SDK_DISABLED=true"}
	start(t, "server", env...)
	start(t, "worker", env...)
	health := func() int {
		response, err := http.Get("http://" + address + "/healthz")
		if err != nil {
			return 0
		}
		response.Body.Close()
		return response.StatusCode
	}
	eventually(t, "503", func() bool { return health() == 503 })
	if err := redis.StartAddr(redisAddress); err != nil {
		t.Fatal(err)
	}
	defer redis.Close()
	eventually(t, "200", func() bool { return health() == 200 })
}
