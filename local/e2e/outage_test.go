package e2e

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"otel-demo/local/load"
	"otel-demo/local/spans"
)

var everyOutage = flag.Bool("outages", false, "with -long: every outage at every rate and size, which takes some 25 minutes")

// outageCase is a next hop that is down for a while, under load.
type outageCase struct {
	down    string // the service
	durable bool   // the agent's queue is on disk
	rate    int    // requests a second
	size    int    // of the baggage, in bytes: 900 makes spans of about 700 bytes, 6 about 200
	lasts   time.Duration
}

func (c outageCase) String() string {
	name := c.down
	if c.durable {
		name += ", durable agent"
	}
	return fmt.Sprintf("%s down for %v at %d requests a second with %d bytes of baggage", name, c.lasts, c.rate, c.size)
}

// The next hop of the agent, or of the collector, is down for minutes, with spans of a realistic size. No span is lost.
// By default each hop has the longest outage at the highest rate; -outages adds the others.
func TestOutages(t *testing.T) {
	needsLong(t)
	cases := []outageCase{
		{"otel-collector", false, 300, 900, 3 * time.Minute},
		{"otel-collector", true, 300, 900, 3 * time.Minute},
		{"jaeger", false, 300, 900, 3 * time.Minute},
		{"zipkin", false, 300, 900, 3 * time.Minute},
	}
	if *everyOutage {
		for _, hop := range cases {
			for _, lasts := range []time.Duration{time.Minute, 3 * time.Minute} {
				for _, rate := range []int{100, 300} {
					for _, size := range []int{6, 900} {
						if c := (outageCase{hop.down, hop.durable, rate, size, lasts}); c != hop {
							cases = append(cases, c)
						}
					}
				}
			}
		}
	}
	for _, c := range cases {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			c.losesNothing(t)
		})
	}
}

func (c outageCase) losesNothing(t *testing.T) {
	overlays := []string{`services: {server: {environment: {WORK_DURATION: 1ms}}, worker: {environment: {WORK_DURATION: 1ms}}}`}
	if c.durable {
		recipe, err := os.ReadFile(filepath.Join(projectRoot(t), "recipes", "durable-agent", "docker-compose.yml"))
		if err != nil {
			t.Fatal(err)
		}
		overlays = append(overlays, string(recipe))
	}
	d, log := startServices(t, overlays...)
	received := map[string]*load.Arrivals{}
	came := map[string]*atomic.Int64{"jaeger": {}, "zipkin": {}} // spans, including those that came twice
	for name, store := range map[string]*spans.Store{"jaeger": d.Jaeger(), "zipkin": d.Zipkin()} {
		a := load.NewArrivals()
		received[name] = a
		store.Divert(func(parts []*spans.Trace) {
			a.Take(parts)
			for _, part := range parts {
				came[name].Add(int64(len(part.Spans)))
			}
		})
	}
	r := load.Start(address(t, d, "server", 8080), c.rate, 0, "username="+strings.Repeat("x", c.size))
	t.Cleanup(r.Stop)
	eventuallyWithin(t, 20*time.Second, "requests", func() bool { return len(r.Ended()) >= 5*c.rate })
	if err := d.StopService(c.down); err != nil {
		t.Fatal(err)
	}
	time.Sleep(c.lasts)
	if err := d.StartService(t.Context(), c.down); err != nil {
		t.Fatal(err)
	}
	held := load.SpansPerRequest * load.Answered(r.Ended())
	all := func(spans int) func() bool {
		return func() bool { return received["jaeger"].Count() >= spans && received["zipkin"].Count() >= spans }
	}
	backlog := eventuallyWithin(t, 3*time.Minute, "the backlog", all(held))
	sent := len(r.Ended())
	eventuallyWithin(t, 20*time.Second, "requests after the outage", func() bool { return len(r.Ended()) >= sent+5*c.rate })
	r.Stop()
	ended := r.Ended()
	// On a busy machine the server may respond 503, with one span fewer. That is not tested here.
	spans := load.SpansPerRequest * load.Answered(ended)
	for _, result := range ended {
		if result.Code == http.StatusServiceUnavailable {
			spans += load.SpansPerRequest - 1
		}
	}
	eventuallyWithin(t, time.Minute, "all spans", all(spans))
	if strings.Contains(log.String(), "spans were lost") || strings.Contains(log.String(), "Dropping data") {
		t.Errorf("the log reports that spans were lost")
	}
	t.Logf("measured: %v: %d requests, 0 of %d spans lost at Jaeger and at Zipkin; the backlog was delivered %v after the return; "+
		"%d and %d came twice; the agent took up to %d MB, the collector %d MB", c, len(ended), spans, backlog,
		int(came["jaeger"].Load())-spans, int(came["zipkin"].Load())-spans,
		peakMemory(t, d, "otel-agent"), peakMemory(t, d, "otel-collector"))
}
