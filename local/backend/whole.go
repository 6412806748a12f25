package backend

import "fmt"

// Whole says whether nothing of the trace is known to be missing, as Missing finds it.
func Whole(t *Trace, all []*Trace) bool {
	return Missing(all)[t.ID] == ""
}

// Missing says, by trace id, what each trace that isn't whole still lacks. A trace is whole if each parent that a span
// names is there, each message that was published was received (a consumer's span is the child of the producer's, or
// links to it from any trace), and each HTTP client that got an answer has a span of the server below it.
func Missing(all []*Trace) map[string]string {
	below := map[spanKey]map[string]bool{} // the kinds of a span's children, and of the spans that link to it
	note := func(trace, span, kind string) {
		key := spanKey{trace, span}
		if below[key] == nil {
			below[key] = map[string]bool{}
		}
		below[key][kind] = true
	}
	for _, t := range all {
		for _, s := range t.Spans {
			note(t.ID, s.ParentID, s.Kind)
			if s.Kind == "consumer" {
				for _, link := range s.Links {
					note(link.TraceID, link.SpanID, s.Kind)
				}
			}
		}
	}

	spans, missing := index(all), map[string]string{}
	for _, t := range all {
		for _, s := range t.Spans {
			name, kinds := fmt.Sprintf("%s %q", s.Service, s.Name), below[spanKey{t.ID, s.ID}]
			switch {
			case s.ParentID != "" && spans[spanKey{t.ID, s.ParentID}] == nil:
				missing[t.ID] = "the parent of " + name
			case s.Kind == "producer" && !kinds["consumer"]:
				missing[t.ID] = "the consumer of " + name
			case s.Kind == "client" && s.Attribute("http.response.status_code") != "" && !kinds["server"]:
				missing[t.ID] = "the server of " + name
			}
		}
	}
	return missing
}
