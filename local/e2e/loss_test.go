package e2e

import (
	"fmt"
	"regexp"
	"strconv"
	"testing"
	"time"

	"otel-demo/local/runner"
)

// The number that a program logs is exactly what is missing at the other end.
func TestLostSpansAreReported(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(t *testing.T, d *runner.Demo, requests func(n int)){
		"the queue is full": func(t *testing.T, d *runner.Demo, requests func(n int)) {
			stopService(t, d, "otel-agent")
			requests(100) // 400 spans, and room for 200
			startService(t, d, "otel-agent")
		},
		"the agent is gone for good": func(t *testing.T, d *runner.Demo, requests func(n int)) {
			stopService(t, d, "otel-agent")
			requests(20)
		},
		"the agent is gone at the end": func(t *testing.T, d *runner.Demo, requests func(n int)) {
			requests(20)
			eventually(t, "80 spans of the server", func() bool { return spansOf(d, "server") == 80 })
			stopService(t, d, "otel-agent")
			requests(30)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, log := startServices(t, `services: {server: {environment: {WORK_DURATION: 1ms, OTEL_BSP_MAX_QUEUE_SIZE: "200"}}}`)
			server := "http://" + address(t, d, "server", 8080) + "/hello"
			run(t, d, func(n int) {
				for range n {
					if got := getURL(server); got.status != 200 {
						t.Fatalf("a request got %d %s", got.status, got.body)
					}
				}
			})
			status, took := terminateService(t, d, "server", 10*time.Second)
			if err := d.Stop(); err != nil { // so that everything that will arrive has arrived
				t.Error(err)
			}
			said := regexp.MustCompile(`server \| .*msg="stop tracing" error="(\d+) of (\d+) spans were lost`).FindStringSubmatch(log.String())
			if said == nil {
				t.Fatalf("the server did not report that spans were lost:\n%s", lastLines(log.String(), "server"))
			}
			lost, _ := strconv.Atoi(said[1])
			recorded, _ := strconv.Atoi(said[2])
			if arrived := spansOf(d, "server"); lost == 0 || status != 0 || arrived != recorded-lost {
				t.Errorf("exit %d, and the server reports that %d of %d spans were lost; %d arrived", status, lost, recorded, arrived)
			}
			t.Logf("measured: %s: %d of %d spans were lost, and %d arrived; exit after %v", name, lost, recorded, spansOf(d, "server"), took)
		})
	}
}

// spansOf counts the spans of a service at Jaeger.
func spansOf(d *runner.Demo, service string) (n int) {
	for _, trace := range d.Jaeger().Traces() {
		for _, span := range trace.Spans {
			if span.Service == service {
				n++
			}
		}
	}
	return n
}

func stopService(t *testing.T, d *runner.Demo, name string) {
	t.Helper()
	if err := d.StopService(name); err != nil {
		t.Fatal(fmt.Errorf("stop %s: %w", name, err))
	}
}

func startService(t *testing.T, d *runner.Demo, name string) {
	t.Helper()
	if err := d.StartService(t.Context(), name); err != nil {
		t.Fatal(fmt.Errorf("start %s: %w", name, err))
	}
}
