// Package spans holds what the demo shows: spans and traces, the store that keeps them, what a trace still lacks, and a
// trace as a tree on the terminal and as text that a test can compare.
package spans

import (
	"slices"
	"sync"
	"time"
)

// KeptTraces is how many traces a store keeps; a new one beyond that evicts the oldest.
const KeptTraces = 10_000

// Trace is all spans that arrived with one trace id, in order of arrival. It never changes: when more spans arrive, the
// store creates a new Trace.
type Trace struct {
	ID    string // 32 lower-case hex digits
	Spans []*Span
}

// Span is one span, whichever format it arrived in.
type Span struct {
	TraceID    string // 32 lower-case hex digits
	ID         string // 16 lower-case hex digits
	ParentID   string // empty in a root
	Service    string
	Name       string
	Kind       string // internal, server, client, producer, consumer; empty if the span has none
	Start, End time.Time
	Attributes []Attribute
	Events     []Event
	Links      []Link
	Status     Status
	Resource   []Attribute // Zipkin's format has none: there the translator derives it from the span's endpoints
	Scope      string      // the instrumentation that made the span, with its version
}

// Attribute is one attribute, with its value as text.
type Attribute struct{ Key, Value string }

// Event is something that happened during a span.
type Event struct {
	Time       time.Time
	Name       string
	Attributes []Attribute
}

// Link points to a related span, in this trace or another.
type Link struct {
	TraceID, SpanID string
	Attributes      []Attribute
}

// Status is a span's outcome.
type Status struct {
	Code    string // unset, ok or error
	Message string
}

// Failed reports whether the span's status is an error.
func (s *Span) Failed() bool { return s.Status.Code == "error" }

// Duration is zero for a span that ends before it starts.
func (s *Span) Duration() time.Duration { return max(0, s.End.Sub(s.Start)) }

// Attribute returns the attribute's value, or "".
func (s *Span) Attribute(key string) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			return a.Value
		}
	}
	return ""
}

// Start returns the earliest start of a span.
func (t *Trace) Start() time.Time {
	return slices.MinFunc(t.Spans, func(a, b *Span) int { return a.Start.Compare(b.Start) }).Start
}

// End returns the latest end of a span, but not before Start.
func (t *Trace) End() time.Time {
	end := slices.MaxFunc(t.Spans, func(a, b *Span) int { return a.End.Compare(b.End) }).End
	if start := t.Start(); end.Before(start) {
		return start
	}
	return end
}

// Duration is the time from the first start to the last end.
func (t *Trace) Duration() time.Duration { return t.End().Sub(t.Start()) }

// Failed reports whether any span of the trace failed.
func (t *Trace) Failed() bool { return slices.ContainsFunc(t.Spans, (*Span).Failed) }

// Services returns the names of the services that have a span in the trace, ordered by the start of their first span.
func (t *Trace) Services() []string {
	spans := slices.SortedStableFunc(slices.Values(t.Spans), func(a, b *Span) int { return a.Start.Compare(b.Start) })
	var names []string
	for _, s := range spans {
		if !slices.Contains(names, s.Service) {
			names = append(names, s.Service)
		}
	}
	return names
}

// Store keeps the newest traces and counts all spans. Its methods may be called from any goroutine.
type Store struct {
	mu     sync.Mutex
	traces map[string]*Trace
	order  []string // trace ids, oldest first
	spans  int
	divert func(parts []*Trace)
}

// NewStore returns an empty store.
func NewStore() *Store { return &Store{traces: map[string]*Trace{}} }

// Traces returns the kept traces, in the order in which their first spans arrived.
func (s *Store) Traces() []*Trace {
	s.mu.Lock()
	defer s.mu.Unlock()
	traces := make([]*Trace, 0, len(s.order))
	for _, id := range s.order {
		traces = append(traces, s.traces[id])
	}
	return traces
}

// Trace returns the trace with this id of 32 lower-case hex digits, or nil.
func (s *Store) Trace(id string) *Trace {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.traces[id]
}

// Spans returns how many spans have arrived, including those of traces that are no longer kept.
func (s *Store) Spans() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spans
}

// Divert makes the store pass arriving spans to take instead of keeping them, which would be too many under load. Each
// part is a trace that holds only the newly arrived spans.
func (s *Store) Divert(take func(parts []*Trace)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.divert = take
}

// Add adds parts of traces, each with only its new spans.
func (s *Store) Add(parts []*Trace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.divert != nil {
		s.divert(parts)
		return
	}
	for _, part := range parts {
		s.spans += len(part.Spans)
		old, ok := s.traces[part.ID]
		if !ok {
			s.traces[part.ID] = part
			s.order = append(s.order, part.ID)
			continue
		}
		// A reader that holds the old trace doesn't see what is appended, so they can share the array.
		s.traces[part.ID] = &Trace{ID: part.ID, Spans: append(old.Spans, part.Spans...)}
	}
	for len(s.order) > KeptTraces {
		delete(s.traces, s.order[0])
		s.order = s.order[1:]
	}
}
