package trace

import (
	"cmp"
	"slices"
)

// maxDepth bounds how deep a trace is drawn; what is deeper is drawn at this depth.
const maxDepth = 64

// node is a span with what is below it.
type node struct {
	*Span
	depth    int
	children []*node
}

// tree returns the trace's roots, siblings by start. A span whose parent isn't here is a root too.
func (t *Trace) tree() []*node {
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
	var build func(s *Span, depth int) *node
	build = func(s *Span, depth int) *node {
		seen[s] = true
		n := &node{Span: s, depth: min(depth, maxDepth)}
		for _, child := range children[s] {
			if !seen[child] {
				n.children = append(n.children, build(child, depth+1))
			}
		}
		return n
	}
	var roots []*node
	for _, s := range tops {
		roots = append(roots, build(s, 0))
	}
	// Spans that are each other's parents hang below no root: begin anywhere.
	for _, s := range spans {
		if !seen[s] {
			roots = append(roots, build(s, 0))
		}
	}
	return roots
}

// walk calls f for each node, parents before children.
func walk(nodes []*node, f func(*node)) {
	for _, n := range nodes {
		f(n)
		walk(n.children, f)
	}
}

// spanKey names a span among those of all traces.
type spanKey struct{ trace, span string }

func index(traces []*Trace) map[spanKey]*Span {
	spans := map[spanKey]*Span{}
	for _, t := range traces {
		for _, s := range t.Spans {
			spans[spanKey{t.ID, s.ID}] = s
		}
	}
	return spans
}
