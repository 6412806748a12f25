package spans

import (
	"cmp"
	"slices"
)

// maxDepth bounds how deep a trace is drawn; deeper spans are drawn at this depth.
const maxDepth = 64

// Node is a span with the spans below it.
type Node struct {
	*Span
	Depth    int
	Children []*Node
}

// Tree returns the trace's roots, with siblings sorted by start. A span whose parent is missing is a root too.
func (t *Trace) Tree() []*Node {
	spans := slices.SortedStableFunc(slices.Values(t.Spans), func(a, b *Span) int {
		return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	byID := map[string]*Span{}
	for _, s := range spans {
		if byID[s.ID] == nil {
			byID[s.ID] = s
		}
	}
	children := map[*Span][]*Span{}
	var tops []*Span
	for _, s := range spans {
		if parent := byID[s.ParentID]; parent != nil {
			children[parent] = append(children[parent], s)
		} else {
			tops = append(tops, s)
		}
	}

	seen := map[*Span]bool{}
	var build func(s *Span, depth int) *Node
	build = func(s *Span, depth int) *Node {
		seen[s] = true
		n := &Node{Span: s, Depth: min(depth, maxDepth)}
		for _, child := range children[s] {
			if !seen[child] {
				n.Children = append(n.Children, build(child, depth+1))
			}
		}
		return n
	}
	var roots []*Node
	for _, s := range tops {
		roots = append(roots, build(s, 0))
	}
	// Spans that are each other's parents have no root above them: begin anywhere.
	for _, s := range spans {
		if !seen[s] {
			roots = append(roots, build(s, 0))
		}
	}
	return roots
}

// walk calls f for each node, parents before children.
func walk(nodes []*Node, f func(*Node)) {
	for _, n := range nodes {
		f(n)
		walk(n.Children, f)
	}
}

// Key identifies a span across all traces.
type Key struct{ Trace, Span string }

// Index returns the traces' spans by key.
func Index(traces []*Trace) map[Key]*Span {
	spans := map[Key]*Span{}
	for _, t := range traces {
		for _, s := range t.Spans {
			spans[Key{t.ID, s.ID}] = s
		}
	}
	return spans
}
