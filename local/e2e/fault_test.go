package e2e

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"otel-demo/local/load"
	"otel-demo/local/runner"
)

// The demo without its client. The tests send the requests.
const noClient = `services: {client: {scale: 0}}`

// startServices starts the demo without its client, and waits until the server is healthy, so that a worker listens.
func startServices(t *testing.T, overlays ...string) (*runner.Demo, *safeBuffer) {
	t.Helper()
	d, log := startDemo(t, append(overlays, noClient)...)
	isWell(t, d)
	return d, log
}

func isWell(t *testing.T, d *runner.Demo) {
	t.Helper()
	health := "http://" + address(t, d, "server", 8080) + "/healthz"
	eventually(t, "the server to be healthy", func() bool { return getURL(health).status == http.StatusOK })
}

func needsLong(t *testing.T) {
	t.Helper()
	if !*long {
		t.Skip("takes more than 10 s: run it with -long")
	}
}

func TestServerStopsInOrder(t *testing.T) {
	t.Parallel()
	d, _ := startServices(t)
	load := startLoad(t, address(t, d, "server", 8080), 50)
	load.wait(100)
	status, took := terminateService(t, d, "server", 10*time.Second)
	load.wait(10)
	load.Stop()
	answered, refused := load.answeredOrRefused()
	if status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
	allArrive(t, d, answered, 20*time.Second)
	t.Logf("measured: SIGTERM to the server at 50 requests/s: %d got 200, %d refused, exit %d after %v, all spans arrived",
		len(answered), refused, status, took)
}

func TestWorkerStopsInOrder(t *testing.T) {
	t.Parallel()
	// The worker processes 100 messages at once, so in the second case 20 wait for their turn.
	for _, underWay := range []int{20, 100} {
		t.Run(fmt.Sprint(underWay, " under way"), func(t *testing.T) {
			t.Parallel()
			d, log := startServices(t, `services: {worker: {environment: {WORK_DURATION: 2s}}}`)
			broker := goredis.NewClient(&goredis.Options{Addr: address(t, d, "redis", 6379)})
			defer broker.Close()
			var ids []string
			publish := func(n int) {
				t.Helper()
				for range n {
					id := load.RandomHex(16)
					if heard := broker.Publish(t.Context(), "work", goodMessage(id)).Val(); heard != 1 {
						t.Fatalf("%d subscribers, want only the worker", heard)
					}
					ids = append(ids, id)
				}
			}
			publish(underWay)
			publish(20)
			status, took := terminateService(t, d, "worker", 10*time.Second)
			if status != 0 {
				t.Errorf("exit status %d, want 0", status)
			}
			processed := strings.Count(log.String(), "msg=processed")
			if processed != len(ids) {
				t.Errorf("%d of %d messages were processed", processed, len(ids))
			}
			eventually(t, "all spans", func() bool { n, _ := lost(d.Jaeger(), ids, []string{"worker process work"}); return n == 0 })
			t.Logf("measured: SIGTERM to the worker with %d messages in progress and 20 more: %d processed, exit %d after %v, all spans arrived",
				underWay, processed, status, took)
		})
	}
}

// goodMessage is what the server publishes, in its own trace.
func goodMessage(trace string) string {
	return fmt.Sprintf(`{"id":"x","headers":{"traceparent":%q,"baggage":"username=donuts"},"body":"hello, world"}`, load.Traceparent(trace))
}

var clientLine = regexp.MustCompile(`(?m)^client \| (\d+) ([0-9a-f]{32}) `)

func TestClientStopsInOrder(t *testing.T) {
	t.Parallel()
	d, log := startDemo(t, `services: {client: {environment: {REQUESTS: "1000"}}}`)
	eventually(t, "3 requests", func() bool { return len(clientLine.FindAllString(log.String(), -1)) >= 3 })
	status, took := terminateService(t, d, "client", 10*time.Second)
	if status != 143 {
		t.Errorf("exit status %d, want 143", status)
	}
	var ids []string
	lines := clientLine.FindAllStringSubmatch(log.String(), -1)
	for _, line := range lines {
		ids = append(ids, line[2])
	}
	// The request that the signal cut off has its span too.
	eventually(t, "the client's spans", func() bool { n, _ := lost(d.Jaeger(), ids, []string{"client make request"}); return n == 0 })
	allArrive(t, d, ids[:len(ids)-1], 20*time.Second)
	t.Logf("measured: SIGTERM to the client after %d requests: exit %d after %v, all spans arrived", len(ids), status, took)
}

// Stop is what the runner does on Ctrl+C.
func TestTheWholeStackStopsInOrder(t *testing.T) {
	t.Parallel()
	d, _ := startServices(t)
	load := startLoad(t, address(t, d, "server", 8080), 50)
	load.wait(100)
	start := time.Now()
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	took := time.Since(start)
	load.Stop()
	answered, refused := load.answeredOrRefused()
	for _, name := range []string{"server", "worker", "otel-agent", "otel-collector"} {
		if status, err := d.Wait(t.Context(), name); status != 0 || err != nil {
			t.Errorf("%s exited with %d, %v", name, status, err)
		}
	}
	allArrive(t, d, answered, 0) // nothing runs anymore, so nothing more can arrive
	t.Logf("measured: the whole stack stopped at 50 requests/s: %d got 200, %d refused, stopped after %v, all spans at both backends",
		len(answered), refused, took.Round(10*time.Millisecond))
}

// The same with a real signal to the runner's process, which writes each trace as a tree.
func TestTheRunnerStopsInOrder(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			r := startRunner(t, "-f", overlay(t, noClient))
			r.says("all services have started")
			load := startLoad(t, r.ports[0], 50)
			load.wait(100)
			children := r.children()
			if err := r.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if status := r.status(); status != 128+int(signal) {
				t.Errorf("exit status %d", status)
			}
			r.left(children)
			load.Stop()
			answered, refused := load.answeredOrRefused()
			missing := 0
			for _, id := range answered {
				_, tree, _ := strings.Cut(r.stdout.String(), id)
				tree, _, _ = strings.Cut(tree, "\n\n")
				for _, span := range []string{"GET /hello", "handle request", "publish work", "process work"} {
					if !strings.Contains(tree, span) {
						missing++
					}
				}
			}
			if missing > 0 {
				t.Errorf("%d spans of %d requests are missing", missing, len(answered))
			}
			t.Logf("measured: %v to the runner at 50 requests/s: %d got 200, %d refused, all spans arrived", signal, len(answered), refused)
		})
	}
}

type answer struct {
	status  int // 0 if there was no response
	body    string
	took    time.Duration
	traceID string // the header Trace-Id
}

// getURL sends one request.
func getURL(url string) answer {
	start := time.Now()
	client := &http.Client{Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	response, err := client.Get(url)
	if err != nil {
		return answer{body: err.Error(), took: time.Since(start)}
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body) // a partial body counts too
	return answer{response.StatusCode, string(body), time.Since(start), response.Header.Get("Trace-Id")}
}
