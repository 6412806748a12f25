package spans

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// shapeAttributes are the attributes that a shape shows, in this order.
var shapeAttributes = []string{"http.route", "http.response.status_code", "messaging.destination.name", "user.name"}

// Shape returns what is the same in every run of the demo: which spans there are and how they are related, without
// times and ids. Traces of the same shape are one block, with their number in its first line. Blocks with more traces
// come first, then those with more spans, then in alphabetical order.
func Shape(traces []*Trace) string {
	spans, counts := Index(traces), map[string]int{}
	for _, t := range traces {
		counts[shape(t, spans)]++
	}
	shapes := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(
			cmp.Compare(counts[b], counts[a]),
			cmp.Compare(strings.Count(b, "\n"), strings.Count(a, "\n")),
			cmp.Compare(a, b),
		)
	})
	for i, shape := range shapes {
		shapes[i] = fmt.Sprintf("%d traces\n%s", counts[shape], shape)
		if counts[shape] == 1 {
			shapes[i] = "1 trace\n" + shape
		}
	}
	return strings.Join(shapes, "\n")
}

func shape(t *Trace, spans map[Key]*Span) string {
	var b strings.Builder
	roots := t.Tree()
	walk(roots, func(n *Node) {
		slices.SortStableFunc(n.Children, func(a, b *Node) int { return cmp.Compare(a.receiver(), b.receiver()) })
	})
	walk(roots, func(n *Node) {
		fields := []string{n.Service, n.Name}
		if n.Kind != "" {
			fields = append(fields, n.Kind)
		}
		if n.Failed() {
			fields = append(fields, "error")
		}
		for _, key := range shapeAttributes {
			if value := n.Attribute(key); value != "" {
				fields = append(fields, key+"="+value)
			}
		}
		for _, link := range n.Links {
			field := "link=?"
			if to := spans[Key{link.TraceID, link.SpanID}]; to != nil {
				field = "link=" + to.Name
			}
			if link.TraceID != t.ID {
				field += " (other trace)"
			}
			fields = append(fields, field)
		}
		b.WriteString(strings.Repeat("  ", n.Depth) + Printable(strings.Join(fields, "  ")) + "\n")
	})
	return b.String()
}

// receiver is the service that received a message, or "". Services that receive the same one start in an order that is
// up to chance, so they are sorted by it.
func (n *Node) receiver() string {
	if n.Kind == "consumer" {
		return n.Service
	}
	return ""
}

// Printable escapes what would break a line or control a terminal: a span's name is untrusted text.
func Printable(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return s
	}
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}
