// Package cmd_test starts the three programs as their user does, and looks at what they print and how they end.
package cmd_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"go.uber.org/goleak"
)

var programs string // the folder with the three programs

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "programs")
	if err != nil {
		panic(err)
	}
	programs = folder
	build := exec.Command("go", "build", "-o", folder+string(filepath.Separator), "./client", "./server", "./worker")
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
	os.RemoveAll(folder)
	os.Exit(status)
}

// process is a program that runs.
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

// status waits for the program's end, and returns its exit status.
func (p *process) status(t *testing.T, within time.Duration) int {
	t.Helper()
	select {
	case <-p.ended:
		return p.ProcessState.ExitCode()
	case <-time.After(within):
		t.Fatalf("%s still runs after %v", p.Path, within)
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

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func TestAValueThatCannotBeUsedIsOneLineAndStatus1(t *testing.T) {
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
		{"worker", "PROCESS_SPAN", "parent", "child or root"},
		{"client", "OTEL_EXPORTER_OTLP_ENDPOINT", "otel-agent:4317", "http://localhost:4317"},
		{"server", "OTEL_EXPORTER_OTLP_ENDPOINT", "grpc://otel-agent", "http://localhost:4317"},
		{"worker", "OTEL_PROPAGATORS", "tracecontext,b4", "tracecontext, baggage, b3"},
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
			for _, want := range []string{test.variable, test.value, test.want} {
				if !strings.Contains(line, want) {
					t.Errorf("printed %q, want it to name %q", line, want)
				}
			}
		})
	}
}

func TestAPasswordIsNeverPrinted(t *testing.T) {
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

// fake is a server that is well, and answers each request by answer.
func fake(t *testing.T, answer http.HandlerFunc) (url string) {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/hello", answer)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return "SERVER_URL=" + server.URL + "/hello"
}

func TestClientPrintsALineARequest(t *testing.T) {
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
		t.Errorf("exit status %d, want 1, since a request failed", status)
	}
	if len(ids) != 3 {
		t.Fatalf("%d requests, want 3: the others are sent although one failed", len(ids))
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
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no signals to send to a process")
	}
	redis := miniredis.RunT(t)
	redisURL := "REDIS_URL=redis://" + redis.Addr()
	requested := make(chan struct{}, 10)
	url := fake(t, func(http.ResponseWriter, *http.Request) { requested <- struct{}{} })
	address := freeAddress(t)
	nobody, tries := broken(t) // a server or a Redis that never answers
	triedAgain := func() bool { return tries.Swap(0) > 0 }
	const off = "OTEL_SDK_DISABLED=true" // or each flushes for 5 s, since there is no agent
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

// broken listens, and ends each connection at once. tries counts them.
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
