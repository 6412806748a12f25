package trace

import (
	"fmt"
	"strconv"
)

// Missing returns, by trace id, why each incomplete trace is incomplete. A trace is complete if each parent that a span
// names is there, each published message was received (a consumer's span is a child of the producer's, or links to it
// from any trace; a failed publish has none), and each HTTP client span with a response has a server's span below it.
func Missing(all []*Trace) map[string]string {
	consumed, served := map[Key]bool{}, map[Key]bool{} // spans with a consumer's or a server's span below them
	byMessage := map[string]*Span{}                    // the consumers' spans
	for _, t := range all {
		for _, s := range t.Spans {
			switch s.Kind {
			case "consumer":
				byMessage[messageID(s)] = s
				consumed[Key{t.ID, s.ParentID}] = true
				for _, link := range s.Links {
					consumed[Key{link.TraceID, link.SpanID}] = true
				}
			case "server":
				served[Key{t.ID, s.ParentID}] = true
			}
		}
	}

	missing := map[string]string{}
	for _, t := range all {
		here := map[string]bool{"": true}
		for _, s := range t.Spans {
			here[s.ID] = true
		}
		for _, s := range t.Spans {
			what := ""
			switch {
			case !here[s.ParentID]:
				what = "parent"
			case s.Kind == "producer" && !s.Failed() && !consumed[Key{t.ID, s.ID}]:
				what = "consumer"
				consumer := byMessage[messageID(s)]
				if consumer == nil || messageID(s) == "" {
					consumer = t.strayConsumer(s)
				}
				if consumer != nil {
					missing[t.ID] = fmt.Sprintf("the consumer of %s is there, but %s", s.title(), t.placeOf(consumer))
					continue
				}
			case s.Kind == "client" && s.Attribute("http.response.status_code") != "" && !served[Key{t.ID, s.ID}]:
				what = "server"
			default:
				continue
			}
			missing[t.ID] = fmt.Sprintf("missing the %s of %s", what, s.title())
		}
	}
	return missing
}

func messageID(s *Span) string { return s.Attribute("messaging.message.id") }

func (s *Span) title() string { return Printable(s.Service) + " " + strconv.Quote(s.Name) }

// strayConsumer returns a consumer's span of this trace that no producer's span is the parent of, for a message without
// an id.
func (t *Trace) strayConsumer(producer *Span) *Span {
	const destination = "messaging.destination.name"
	for _, s := range t.Spans {
		if s.Kind != "consumer" || messageID(s) != "" || s.Attribute(destination) != producer.Attribute(destination) {
			continue
		}
		if parent := t.span(s.ParentID); parent != nil && parent.Kind != "producer" {
			return s
		}
	}
	return nil
}

// placeOf says where a span is that should be below another one of this trace.
func (t *Trace) placeOf(s *Span) string {
	if s.TraceID != t.ID {
		return "in another trace, " + ShortID(s.TraceID)
	}
	if parent := t.span(s.ParentID); parent != nil {
		return "under " + parent.title()
	}
	return "under a span that isn't"
}

// span returns a span of the trace by its id, or nil.
func (t *Trace) span(id string) *Span {
	for _, s := range t.Spans {
		if s.ID == id {
			return s
		}
	}
	return nil
}
