// Package spantest compares traces with the shape that a test expects.
package spantest

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pmezard/go-difflib/difflib"

	"otel-demo/local/spans"
)

// Match compares traces with text as spans.Shape returns it, in which a block's number may be a range ("0-2 traces")
// and the blocks may be in any order. The error shows the differences, line by line.
func Match(want string, traces []*spans.Trace) error {
	return match(want, spans.Shape(traces))
}

// MatchFold is Match for traces from Zipkin, which converts all names to lower case.
func MatchFold(want string, traces []*spans.Trace) error {
	return match(strings.ToLower(want), strings.ToLower(spans.Shape(traces)))
}

// counts are how many traces may have a shape.
type counts struct{ min, max int }

// text writes shapes with their counts, sorted, so that similar ones face each other when two texts are compared.
func text(blocks map[string]counts) string {
	var all []string
	for _, shape := range slices.Sorted(maps.Keys(blocks)) {
		n := blocks[shape]
		first := fmt.Sprintf("%d-%d traces", n.min, n.max)
		if n.min == 1 && n.max == 1 {
			first = "1 trace"
		} else if n.min == n.max {
			first = fmt.Sprintf("%d traces", n.min)
		}
		all = append(all, first+"\n"+shape)
	}
	return strings.Join(all, "\n")
}

func match(want, got string) error {
	wanted, err := parse(want)
	if err != nil {
		return fmt.Errorf("cannot read the expected shape: %w", err)
	}
	came, err := parse(got)
	if err != nil {
		return err
	}
	for shape, want := range wanted {
		if n := came[shape].min; want.min <= n && n <= want.max {
			came[shape] = want
		}
	}
	if maps.Equal(wanted, came) {
		return nil
	}
	diff, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: difflib.SplitLines(text(wanted)), FromFile: "want",
		B: difflib.SplitLines(text(came)), ToFile: "got",
		Context: 100,
	})
	return cmp.Or(err, errors.New("the traces don't have the expected shape:\n"+diff))
}

var firstLine = regexp.MustCompile(`^(\d{1,9})(?:-(\d{1,9}))? traces?$`)

// parse returns the shapes in a text, each with its counts.
func parse(text string) (map[string]counts, error) {
	blocks := map[string]counts{}
	text = strings.ReplaceAll(text, "\r\n", "\n") // a checkout on Windows
	for _, lines := range regexp.MustCompile(`\n{2,}`).Split(strings.Trim(text, "\n"), -1) {
		if lines == "" {
			continue // no traces at all is a shape too
		}
		first, shape, _ := strings.Cut(lines, "\n")
		found := firstLine.FindStringSubmatch(first)
		if found == nil {
			return nil, fmt.Errorf("%q: want a line such as \"5 traces\" or \"0-2 traces\"", first)
		}
		if _, seen := blocks[shape+"\n"]; seen || shape == "" {
			return nil, fmt.Errorf("%q is followed by no spans, or by spans that appear in the text twice", first)
		}
		var n counts
		n.min, _ = strconv.Atoi(found[1])
		n.max, _ = strconv.Atoi(cmp.Or(found[2], found[1]))
		if n.max < n.min {
			return nil, fmt.Errorf("%q: the range ends before it begins", first)
		}
		blocks[shape+"\n"] = n
	}
	return blocks, nil
}
