package backend

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/pmezard/go-difflib/difflib"
)

// shapeAttributes are the attributes that a shape shows, in this order.
var shapeAttributes = []string{"http.route", "http.response.status_code", "messaging.destination.name", "user.name"}

// Shape writes what is the same in every run of the demo: which spans there are and how they hang together, without
// times and ids. Traces of equal shape are one block, with their number in its first line. The block of most traces is
// first, then that of most spans, then as the alphabet has it.
func Shape(traces []*Trace) string {
	var blocks []string
	for _, b := range shapes(traces) {
		blocks = append(blocks, b.String())
	}
	return strings.Join(blocks, "\n")
}

// block is a shape and how many traces may have it.
type block struct {
	min, max int
	shape    string // lines, each ended
}

func (b block) String() string {
	count := strconv.Itoa(b.min)
	if b.max != b.min {
		count = fmt.Sprintf("%d-%d", b.min, b.max)
	}
	if b.max == 1 && b.min == 1 {
		return count + " trace\n" + b.shape
	}
	return count + " traces\n" + b.shape
}

func shapes(traces []*Trace) []block {
	spans, counts := index(traces), map[string]int{}
	for _, t := range traces {
		counts[shape(t, spans)]++
	}
	var blocks []block
	for shape, n := range counts {
		blocks = append(blocks, block{n, n, shape})
	}
	slices.SortFunc(blocks, func(a, b block) int {
		return cmp.Or(
			cmp.Compare(b.min, a.min),
			cmp.Compare(strings.Count(b.shape, "\n"), strings.Count(a.shape, "\n")),
			cmp.Compare(a.shape, b.shape),
		)
	})
	return blocks
}

func shape(t *Trace, spans map[spanKey]*Span) string {
	var b strings.Builder
	walk(t.tree(), func(n *node) {
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
			if to := spans[spanKey{link.TraceID, link.SpanID}]; to != nil {
				field = "link=" + to.Name
			}
			if link.TraceID != t.ID {
				field += " (other trace)"
			}
			fields = append(fields, field)
		}
		b.WriteString(strings.Repeat("  ", n.depth) + printable(strings.Join(fields, "  ")) + "\n")
	})
	return b.String()
}

// printable escapes what would break a line or steer a terminal: a span's name is foreign text.
func printable(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return s
	}
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}

// Match compares traces with a text as Shape writes it, in which a block's number may be a range ("0-2 traces") and
// the blocks may have any order. The error shows both, line by line.
func Match(want string, traces []*Trace) error {
	return match(want, traces, func(s string) string { return s })
}

// MatchFold is Match for traces that come from Zipkin, which writes all names in lower case.
func MatchFold(want string, traces []*Trace) error {
	return match(want, traces, strings.ToLower)
}

func match(want string, traces []*Trace, fold func(string) string) error {
	wanted, err := parseShape(want)
	if err != nil {
		return fmt.Errorf("cannot read the expected shape: %w", err)
	}
	got := map[string]int{}
	for _, b := range shapes(traces) {
		got[fold(b.shape)] += b.min
	}

	// Each block that was wanted stands opposite what came instead of it: that with another number, or the most similar.
	var left, right []string
	var unmet []block
	for _, w := range wanted {
		w.shape = fold(w.shape)
		n, came := got[w.shape]
		delete(got, w.shape)
		switch {
		case w.min <= n && n <= w.max:
			left, right = append(left, w.String()), append(right, w.String())
		case came:
			left, right = append(left, w.String()), append(right, block{n, n, w.shape}.String())
		default:
			unmet = append(unmet, w)
		}
	}
	for _, w := range unmet {
		left = append(left, w.String())
		if shape := mostSimilar(w.shape, got); shape != "" {
			right = append(right, block{got[shape], got[shape], shape}.String())
			delete(got, shape)
		}
	}
	for _, shape := range slices.Sorted(maps.Keys(got)) {
		right = append(right, block{got[shape], got[shape], shape}.String())
	}
	if slices.Equal(left, right) {
		return nil
	}
	diff, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: difflib.SplitLines(strings.Join(left, "\n")), FromFile: "want",
		B: difflib.SplitLines(strings.Join(right, "\n")), ToFile: "got",
		Context: 100,
	})
	return cmp.Or(err, errors.New("the traces have not the expected shape:\n"+diff))
}

// mostSimilar returns the shape that shares most lines with another, or "" if none shares any.
func mostSimilar(to string, shapes map[string]int) (found string) {
	best := 0.0
	for _, shape := range slices.Sorted(maps.Keys(shapes)) {
		if ratio := difflib.NewMatcher(strings.Split(to, "\n"), strings.Split(shape, "\n")).Ratio(); ratio > best {
			best, found = ratio, shape
		}
	}
	return found
}

var firstLine = regexp.MustCompile(`^(\d{1,9})(?:-(\d{1,9}))? traces?$`)

func parseShape(text string) ([]block, error) {
	var blocks []block
	seen := map[string]bool{}
	text = strings.ReplaceAll(text, "\r\n", "\n") // a checkout on Windows
	for _, lines := range regexp.MustCompile(`\n{2,}`).Split(strings.Trim(text, "\n"), -1) {
		if lines == "" {
			continue // no trace at all is a shape too
		}
		first, shape, _ := strings.Cut(lines, "\n")
		found := firstLine.FindStringSubmatch(first)
		if found == nil {
			return nil, fmt.Errorf("%q is not like \"5 traces\" or \"0-2 traces\"", first)
		}
		if shape == "" || seen[shape] {
			return nil, fmt.Errorf("%q is followed by no span, or by spans that stand in the text twice", first)
		}
		seen[shape] = true
		b := block{shape: shape + "\n"}
		b.min, _ = strconv.Atoi(found[1])
		b.max, _ = strconv.Atoi(cmp.Or(found[2], found[1]))
		if b.max < b.min {
			return nil, fmt.Errorf("%q ends before it begins", first)
		}
		blocks = append(blocks, b)
	}
	return blocks, nil
}
