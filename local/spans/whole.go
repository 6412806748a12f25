package spans

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
		here := map[string]*Span{}
		for _, s := range t.Spans {
			here[s.ID] = s
		}
		// Consumers' spans that are under something else than a producer's, of messages without an id.
		strays := map[string]*Span{}
		for _, s := range t.Spans {
			if parent := here[s.ParentID]; s.Kind == "consumer" && messageID(s) == "" && parent != nil && parent.Kind != "producer" {
				strays[s.Attribute(destination)] = s
			}
		}
		for _, s := range t.Spans {
			what := ""
			switch {
			case s.ParentID != "" && here[s.ParentID] == nil:
				what = "missing the parent of "
			case s.Kind == "producer" && !s.Failed() && !consumed[Key{t.ID, s.ID}]:
				consumer := strays[s.Attribute(destination)]
				if messageID(s) != "" {
					consumer = byMessage[messageID(s)]
				}
				switch {
				case consumer == nil:
					what = "missing the consumer of "
				case consumer.TraceID != t.ID:
					missing[t.ID] = fmt.Sprintf("the consumer of %s is there, but in another trace, %s", title(s), ShortID(consumer.TraceID))
				case here[consumer.ParentID] != nil:
					missing[t.ID] = fmt.Sprintf("the consumer of %s is there, but under %s", title(s), title(here[consumer.ParentID]))
				default:
					missing[t.ID] = fmt.Sprintf("the consumer of %s is there, but its own parent is missing", title(s))
				}
			case s.Kind == "client" && s.Attribute("http.response.status_code") != "" && !served[Key{t.ID, s.ID}]:
				what = "missing the server of "
			}
			if what != "" {
				missing[t.ID] = what + title(s)
			}
		}
	}
	return missing
}

const destination = "messaging.destination.name"

func messageID(s *Span) string { return s.Attribute("messaging.message.id") }

func title(s *Span) string { return Printable(s.Service) + " " + strconv.Quote(s.Name) }
