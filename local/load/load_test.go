package load

import (
	"strings"
	"testing"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"

	"otel-demo/local/spans"
)

// Latency counts from when a request should have been sent, even if the sender itself was late.
func TestLatencyIsFromTheIntendedStart(t *testing.T) {
	began := time.Now()
	r := &Requests{began: began, interval: 10 * time.Millisecond}
	// The third was intended after 30 ms, was sent 70 ms later, and took 5 ms.
	result := &vegeta.Result{Seq: 2, Timestamp: began.Add(100 * time.Millisecond), Latency: 5 * time.Millisecond}
	if got := r.late(result); got != 75*time.Millisecond {
		t.Errorf("got %v, want 75ms", got)
	}
}

func TestArrivals(t *testing.T) {
	end := time.Now().Add(-time.Second)
	a := NewArrivals()
	part := func(id string, ids ...string) *spans.Trace {
		p := &spans.Trace{ID: id}
		for _, span := range ids {
			p.Spans = append(p.Spans, &spans.Span{ID: span, End: end})
		}
		return p
	}
	a.Take([]*spans.Trace{part("one", "1", "2", "3"), part("two", "1")})
	a.Take([]*spans.Trace{part("one", "3", "4", "5")}) // 3 was sent twice
	got := a.report([]string{"one", "two", "three"})
	if got.Arrived != 6 || got.Lost != 9 || got.WholeP50 < 1000 {
		t.Errorf("got %+v, want 6 of 15, and one whole trace a second after its end", got)
	}
}

func TestWhatGave(t *testing.T) {
	if got := (sideReport{Sent: 100, Answered: 100}).failures(100); got != "" {
		t.Errorf("got %q, want nothing", got)
	}
	got := sideReport{Sent: 90, Answered: 80, SpansMade: 400, Latency: quantiles{P99: 1500},
		Backends: map[string]backendReport{"jaeger": {Lost: 3}}}.failures(100)
	for _, want := range []string{"10 of 100 requests could not be sent", "10 requests failed", "p99", "jaeger lacks 3 of 400 spans"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %s in it", got, want)
		}
	}
}
