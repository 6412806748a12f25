package runner

import (
	"path/filepath"
	"sync"
	"testing"

	"otel-demo/local/compose"
)

func TestHopsNameWhatWasLost(t *testing.T) {
	h := Hops{
		sent: 40, services: []string{"agent", "collector", "zipkin"}, unknown: []string{"sampler"}, arrived: map[string]int{"zipkin": 20},
		kept: map[string]map[string]int{"zipkin": {"gateway": 12, "orders\x1b": 8}, "jaeger": {"gateway": 12}},
		hops: map[string]hop{
			"agent":     {{"", "accepted"}: 37, {"", "refused"}: 3, {"", "failed"}: 0, {"otlp_grpc", "sent"}: 30, {"otlp_grpc", "send_failed"}: 7},
			"collector": {{"", "accepted"}: 30, {"", "failed"}: 1, {"zipkin", "sent"}: 20, {"zipkin", "enqueue_failed"}: 10},
		},
	}
	if want := "spans: 40 sent by the programs, 37 accepted by agent, 30 by collector, 20 at zipkin; agent refused 3, " +
		"agent's exporter otlp_grpc failed to send 7, collector failed 1, collector's exporter zipkin dropped 10, " +
		"the metrics of sampler can't be read"; h.String() != want {
		t.Errorf("got  %s\nwant %s", h, want)
	}
	const want = `SPANS AT   ACCEPTED  REFUSED  FAILED  BY EXPORTER  SENT  FAILED  DROPPED
agent      37        3        0       otlp_grpc    30    7       0
collector  30        0        1       zipkin       20    0       10
zipkin     20
sampler    ?

SPANS OF    jaeger  zipkin
gateway     12      12
orders\x1b  0       8
`
	if got := h.Table(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := (Hops{sent: -1, services: []string{"jaeger"}, arrived: map[string]int{"jaeger": 5}}).String(); got != "spans: 5 at jaeger" {
		t.Errorf("without a collector: %s", got)
	}
}

// A page of /hops may be requested while services are still being started and probed.
func TestHopsCanBeReadWhileAServiceIsProbed(t *testing.T) {
	options := Options{Root: filepath.Join("..", ".."), Binaries: t.TempDir(), FreePorts: true}
	project, err := Load(t.Context(), options.Root, []string{compose.File})
	if err != nil {
		t.Fatal(err)
	}
	d := newDemo(options, project)
	d.dir, d.counted["otel-agent"] = t.TempDir(), hop{}
	if err := d.plan(project); err != nil {
		t.Fatal(err)
	}
	d.addresses.Release() // so that reading metrics fails at once
	var wait sync.WaitGroup
	wait.Go(func() { d.Hops() })
	for range 100 {
		_ = probeProgram(t.Context(), d, d.service("server")) // there is no such program; only the race matters
	}
	wait.Wait()
}
