package trace

import (
	"fmt"
	"slices"
	"sync"
	"testing"
)

func TestStoreKeepsTheNewestTracesAndCountsAllSpans(t *testing.T) {
	s := newStore()
	id := func(n int) string { return fmt.Sprintf("%032x", n+1) }
	part := func(n int) *Trace { return &Trace{ID: id(n), Spans: []*Span{{TraceID: id(n)}}} }
	for n := range KeptTraces {
		s.add([]*Trace{part(n)})
	}
	s.add([]*Trace{part(0)}) // more of a trace makes it no newer
	if got := len(s.Trace(id(0)).Spans); got != 2 {
		t.Errorf("the trace has %d spans, not 2", got)
	}
	s.add([]*Trace{part(KeptTraces), part(KeptTraces + 1)})

	all := s.Traces()
	if len(all) != KeptTraces || all[0].ID != id(2) || all[len(all)-1].ID != id(KeptTraces+1) {
		t.Errorf("%d traces are kept, from %s to %s", len(all), all[0].ID, all[len(all)-1].ID)
	}
	if s.Trace(id(0)) != nil || s.Trace(id(1)) != nil || s.Trace(id(2)) == nil {
		t.Error("not the two oldest traces are gone")
	}
	if got := s.Spans(); got != KeptTraces+3 {
		t.Errorf("%d spans are counted, not %d", got, KeptTraces+3)
	}
}

func TestATraceThatWasReadDoesNotChange(t *testing.T) {
	s, parts := newStore(), traces(request(2, 1))
	s.add(traces(request(2, 1)[:2]))
	before := s.Trace(parts[0].ID)
	s.add(parts)
	s.add(parts)
	if len(before.Spans) != 2 || len(s.Trace(before.ID).Spans) != 16 {
		t.Errorf("the trace has %d spans, and had %d", len(s.Trace(before.ID).Spans), len(before.Spans))
	}
}

func TestChangedTellsOfNewSpans(t *testing.T) {
	s := newStore()
	changed := s.Changed()
	s.add(nil)
	select {
	case <-changed:
		t.Error("nothing changed")
	default:
	}
	var wait sync.WaitGroup
	for range 3 {
		wait.Go(func() { <-changed })
	}
	s.add(traces(request(2, 1)))
	wait.Wait()
	if s.Changed() == changed {
		t.Error("the next change is not told")
	}
}

func TestATraceKnowsItsServicesAndTimes(t *testing.T) {
	tr := traces(request(2, 1))[0]
	slices.Reverse(tr.Spans)
	if got := tr.Services(); !slices.Equal(got, []string{"client", "server", "worker"}) {
		t.Errorf("the services are %v", got)
	}
	if !tr.Start().Equal(began.Add(2000*ms)) || tr.Duration() != 206*ms || tr.Failed() {
		t.Errorf("it starts at %v, takes %v, failed is %v", tr.Start(), tr.Duration(), tr.Failed())
	}
	backwards := traces([]testSpan{{1, 0, "a", "b", internal, 5 * ms, -2 * ms, "why", nil, nil}})[0]
	if backwards.Duration() != 0 || backwards.Spans[0].Duration() != 0 || !backwards.Failed() {
		t.Errorf("a span that ends before it starts takes %v, failed is %v", backwards.Duration(), backwards.Failed())
	}
}
