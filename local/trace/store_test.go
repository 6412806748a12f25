package trace_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"otel-demo/local/trace"
	"otel-demo/local/trace/tracetest"
)

func TestStoreKeepsTheNewestTracesAndCountsAllSpans(t *testing.T) {
	s := trace.NewStore()
	id := func(n int) string { return fmt.Sprintf("%032x", n+1) }
	part := func(n int) *trace.Trace { return &trace.Trace{ID: id(n), Spans: []*trace.Span{{TraceID: id(n)}}} }
	for n := range trace.KeptTraces {
		s.Add([]*trace.Trace{part(n)})
	}
	s.Add([]*trace.Trace{part(0)}) // more spans don't make a trace newer
	if got := len(s.Trace(id(0)).Spans); got != 2 {
		t.Errorf("the trace has %d spans, want 2", got)
	}
	s.Add([]*trace.Trace{part(trace.KeptTraces), part(trace.KeptTraces + 1)})

	all := s.Traces()
	if len(all) != trace.KeptTraces || all[0].ID != id(2) || all[len(all)-1].ID != id(trace.KeptTraces+1) {
		t.Errorf("%d traces are kept, from %s to %s", len(all), all[0].ID, all[len(all)-1].ID)
	}
	if s.Trace(id(0)) != nil || s.Trace(id(1)) != nil || s.Trace(id(2)) == nil {
		t.Error("want the two oldest traces gone")
	}
	if got := s.Spans(); got != trace.KeptTraces+3 {
		t.Errorf("%d spans are counted, want %d", got, trace.KeptTraces+3)
	}
}

func TestATraceThatWasReadDoesNotChange(t *testing.T) {
	s, parts := trace.NewStore(), traces(request(2, 1))
	s.Add(traces(request(2, 1)[:2]))
	before := s.Trace(parts[0].ID)
	s.Add(parts)
	s.Add(parts)
	if len(before.Spans) != 2 || len(s.Trace(before.ID).Spans) != 16 {
		t.Errorf("the trace has %d spans, and had %d", len(s.Trace(before.ID).Spans), len(before.Spans))
	}
}

func TestChangedTellsOfNewSpans(t *testing.T) {
	s := trace.NewStore()
	changed := s.Changed()
	s.Add(nil)
	select {
	case <-changed:
		t.Error("nothing changed")
	default:
	}
	var wait sync.WaitGroup
	for range 3 {
		wait.Go(func() { <-changed })
	}
	s.Add(traces(request(2, 1)))
	wait.Wait()
	if s.Changed() == changed {
		t.Error("the next change is not reported")
	}
}

func TestATraceKnowsItsServicesAndTimes(t *testing.T) {
	tr := traces(request(2, 1))[0]
	slices.Reverse(tr.Spans)
	if got := tr.Services(); !slices.Equal(got, []string{"client", "server", "worker"}) {
		t.Errorf("the services are %v", got)
	}
	if !tr.Start().Equal(tracetest.Began.Add(2000*ms)) || tr.Duration() != 206*ms || tr.Failed() {
		t.Errorf("it starts at %v, takes %v, failed is %v", tr.Start(), tr.Duration(), tr.Failed())
	}
	backwards := traces([]testSpan{{1, 0, "a", "b", internal, 5 * ms, -2 * ms, "why", nil, nil}})[0]
	if backwards.Duration() != 0 || backwards.Spans[0].Duration() != 0 || !backwards.Failed() {
		t.Errorf("a span that ends before it starts takes %v, failed is %v", backwards.Duration(), backwards.Failed())
	}
}
