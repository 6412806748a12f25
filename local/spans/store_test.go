package spans_test

import (
	"fmt"
	"slices"
	"testing"

	"otel-demo/local/spans"
	"otel-demo/local/spans/spantest"
)

func TestStoreKeepsTheNewestTracesAndCountsAllSpans(t *testing.T) {
	s := spans.NewStore()
	id := func(n int) string { return fmt.Sprintf("%032x", n+1) }
	part := func(n int) *spans.Trace { return &spans.Trace{ID: id(n), Spans: []*spans.Span{{TraceID: id(n)}}} }
	for n := range spans.KeptTraces {
		s.Add([]*spans.Trace{part(n)})
	}
	s.Add([]*spans.Trace{part(0)}) // more spans don't make a trace newer
	if got := len(s.Trace(id(0)).Spans); got != 2 {
		t.Errorf("the trace has %d spans, want 2", got)
	}
	s.Add([]*spans.Trace{part(spans.KeptTraces), part(spans.KeptTraces + 1)})

	all := s.Traces()
	if len(all) != spans.KeptTraces || all[0].ID != id(2) || all[len(all)-1].ID != id(spans.KeptTraces+1) {
		t.Errorf("%d traces are kept, from %s to %s", len(all), all[0].ID, all[len(all)-1].ID)
	}
	if s.Trace(id(0)) != nil || s.Trace(id(1)) != nil || s.Trace(id(2)) == nil {
		t.Error("want the two oldest traces gone")
	}
	if got := s.Spans(); got != spans.KeptTraces+3 {
		t.Errorf("%d spans are counted, want %d", got, spans.KeptTraces+3)
	}
}

func TestATraceThatWasReadDoesNotChange(t *testing.T) {
	s, parts := spans.NewStore(), spantest.Traces(spantest.Request(2, 1))
	s.Add(spantest.Traces(spantest.Request(2, 1)[:2]))
	before := s.Trace(parts[0].ID)
	s.Add(parts)
	s.Add(parts)
	if len(before.Spans) != 2 || len(s.Trace(before.ID).Spans) != 16 {
		t.Errorf("the trace has %d spans, and had %d", len(s.Trace(before.ID).Spans), len(before.Spans))
	}
}

func TestATraceKnowsItsServicesAndTimes(t *testing.T) {
	tr := spantest.Traces(spantest.Request(2, 1))[0]
	slices.Reverse(tr.Spans)
	if got := tr.Services(); !slices.Equal(got, []string{"client", "server", "worker"}) {
		t.Errorf("the services are %v", got)
	}
	if !tr.Start().Equal(spantest.Began.Add(2000*ms)) || tr.Duration() != 206*ms || tr.Failed() {
		t.Errorf("it starts at %v, takes %v, failed is %v", tr.Start(), tr.Duration(), tr.Failed())
	}
	backwards := spantest.Traces([]spantest.Span{{Trace: 1, Service: "a", Name: "b", Kind: "internal", At: 5 * ms, Took: -2 * ms, Failed: "why"}})[0]
	if backwards.Duration() != 0 || backwards.Spans[0].Duration() != 0 || !backwards.Failed() {
		t.Errorf("a span that ends before it starts takes %v, failed is %v", backwards.Duration(), backwards.Failed())
	}
}
