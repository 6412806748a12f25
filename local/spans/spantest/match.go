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

// block is a shape and how many traces may have it.
type block struct {
	min, max int
	shape    string // lines, each with its newline
}

func (b block) String() string {
	count, traces := strconv.Itoa(b.min), "traces"
	if b.max != b.min {
		count = fmt.Sprintf("%d-%d", b.min, b.max)
	} else if b.max == 1 {
		traces = "trace"
	}
	return count + " " + traces + "\n" + b.shape
}

func match(want, got string) error {
	wanted, err := parse(want)
	if err != nil {
		return fmt.Errorf("cannot read the expected shape: %w", err)
	}
	came := map[string]int{}
	blocks, err := parse(got)
	if err != nil {
		return err
	}
	for _, b := range blocks {
		came[b.shape] += b.min
	}

	// Each wanted block is paired with what came instead: the same shape in another number, or the most similar shape.
	var left, right []string
	var unmet []block
	for _, w := range wanted {
		n, ok := came[w.shape]
		delete(came, w.shape)
		switch {
		case w.min <= n && n <= w.max:
			left, right = append(left, w.String()), append(right, w.String())
		case ok:
			left, right = append(left, w.String()), append(right, block{n, n, w.shape}.String())
		default:
			unmet = append(unmet, w)
		}
	}
	for _, w := range unmet {
		left = append(left, w.String())
		if shape := mostSimilar(w.shape, came); shape != "" {
			right = append(right, block{came[shape], came[shape], shape}.String())
			delete(came, shape)
		}
	}
	for _, shape := range slices.Sorted(maps.Keys(came)) {
		right = append(right, block{came[shape], came[shape], shape}.String())
	}
	if slices.Equal(left, right) {
		return nil
	}
	diff, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: difflib.SplitLines(strings.Join(left, "\n")), FromFile: "want",
		B: difflib.SplitLines(strings.Join(right, "\n")), ToFile: "got",
		Context: 100,
	})
	return cmp.Or(err, errors.New("the traces don't have the expected shape:\n"+diff))
}

// mostSimilar returns the shape that shares the most lines with another, or "" if no shape shares any.
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

func parse(text string) ([]block, error) {
	var blocks []block
	seen := map[string]bool{}
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
		if shape == "" || seen[shape] {
			return nil, fmt.Errorf("%q is followed by no spans, or by spans that appear in the text twice", first)
		}
		seen[shape] = true
		b := block{shape: shape + "\n"}
		b.min, _ = strconv.Atoi(found[1])
		b.max, _ = strconv.Atoi(cmp.Or(found[2], found[1]))
		if b.max < b.min {
			return nil, fmt.Errorf("%q: the range ends before it begins", first)
		}
		blocks = append(blocks, b)
	}
	return blocks, nil
}
