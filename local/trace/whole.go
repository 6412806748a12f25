package trace

import "fmt"

// Missing returns, by trace id, what each incomplete trace still lacks. A trace is complete if each parent that a span
// names is there, each published message was received (a consumer's span is a child of the producer's, or links to it
// from any trace; a failed publish has none), and each HTTP client span with a response has a server's span below it.
func Missing(all []*Trace) map[string]string {
	consumed, served := map[Key]bool{}, map[Key]bool{} // spans with a consumer's or a server's span below them
	for _, t := range all {
		for _, s := range t.Spans {
			switch s.Kind {
			case "consumer":
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
			case s.Kind == "client" && s.Attribute("http.response.status_code") != "" && !served[Key{t.ID, s.ID}]:
				what = "server"
			default:
				continue
			}
			missing[t.ID] = fmt.Sprintf("the %s of %s %q", what, s.Service, s.Name)
		}
	}
	return missing
}
