package spans

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// TreeOptions are the options of TreeText.
type TreeOptions struct {
	Width int  // columns; 0 means 80
	Color bool // with ANSI colors
}

// ansiColors are the services' colors: no red, which is for errors.
var ansiColors = [Colors]string{"94", "33", "32", "34", "96", "95", "36", "35"}

// Colors is how many colors distinguish services, on the terminal and in the browser.
const Colors = 8

// ColorOf returns a service's color, which is the same everywhere, in whatever order services appear.
func ColorOf(service string) int {
	h := fnv.New32a()
	h.Write([]byte(service))
	return int(h.Sum32() % Colors)
}

// Paint returns a text in a service's color.
func Paint(service, text string) string {
	return "\x1b[" + ansiColors[ColorOf(service)] + "m" + text + "\x1b[0m"
}

// TreeText returns a trace as a tree, one line per span: its service and name, a bar on the trace's time axis, and its
// duration. A failed span is marked and, in color, red. What doesn't fit is cut off; a terminal too narrow for bars
// gets none.
func TreeText(t *Trace, opt TreeOptions) string {
	width := cmp.Or(max(opt.Width, 0), 80)
	paint := func(code, text string) string {
		if !opt.Color || text == "" {
			return text
		}
		return "\x1b[" + code + "m" + text + "\x1b[0m"
	}

	const gap, timeWidth, leastBar = 2, 8, 16
	type line struct {
		span   *Span
		indent int
		label  string
	}
	var lines []line
	widest := 0
	walk(t.Tree(), func(n *Node) {
		name := Printable(n.Name)
		if n.Failed() {
			name += " ✗"
			if n.Status.Message != "" {
				name += " " + Printable(n.Status.Message)
			}
		}
		for _, link := range n.Links {
			if link.TraceID != t.ID {
				name += " → trace " + ShortID(link.TraceID)
			}
		}
		l := line{n.Span, min(2*n.Depth, width/4), Printable(n.Service) + "  " + name}
		lines = append(lines, l)
		widest = max(widest, l.indent+utf8.RuneCountInString(l.label))
	})
	labelWidth := min(widest, (width-timeWidth-2*gap)*3/5)
	barWidth := width - labelWidth - timeWidth - 2*gap
	if barWidth < leastBar {
		barWidth, labelWidth = 0, max(min(widest, width-timeWidth-gap), 1)
	}

	var b strings.Builder
	spans := "spans"
	if len(t.Spans) == 1 {
		spans = "span"
	}
	head := fmt.Sprintf("trace %s  %d %s  %s", t.ID, len(t.Spans), spans, FormatDuration(t.Duration()))
	b.WriteString(paint("1", cut(head, width)) + "\n")
	start, total := t.Start(), t.Duration()
	for _, l := range lines {
		color := ansiColors[ColorOf(l.span.Service)]
		label := cut(strings.Repeat(" ", l.indent)+l.label, labelWidth)
		pad := strings.Repeat(" ", labelWidth-utf8.RuneCountInString(label))
		if l.span.Failed() {
			color = "31"
			label = paint(color, label)
		} else if service := l.indent + utf8.RuneCountInString(Printable(l.span.Service)); service < utf8.RuneCountInString(label) {
			runes := []rune(label)
			label = paint(color, string(runes[:service])) + string(runes[service:])
		}
		b.WriteString(label + pad)
		if barWidth > 0 {
			from, to := cells(l.span, start, total, barWidth)
			b.WriteString(strings.Repeat(" ", gap+from) + paint(color, strings.Repeat("█", to-from)) + strings.Repeat(" ", barWidth-to))
		}
		took := fmt.Sprintf("%*s", timeWidth, FormatDuration(l.span.Duration()))
		if l.span.Failed() {
			took = paint("31", took)
		}
		b.WriteString(strings.Repeat(" ", gap) + took + "\n")
	}
	return b.String()
}

// cells returns which of n cells of the trace's axis the span fills: at least one.
func cells(s *Span, start time.Time, total time.Duration, n int) (from, to int) {
	at, length := s.Share(start, total)
	from = min(int(at*float64(n)), n-1)
	to = min(int(math.Round((at+length)*float64(n))), n)
	return from, max(to, from+1)
}

// Share returns where on the trace's axis the span begins and how much of the axis it fills, each from 0 to 1.
func (s *Span) Share(start time.Time, total time.Duration) (at, length float64) {
	if total <= 0 {
		return 0, 1
	}
	at = min(float64(s.Start.Sub(start))/float64(total), 1)
	return at, min(float64(s.Duration())/float64(total), 1-at)
}

// FormatDuration formats a duration with up to three significant digits.
func FormatDuration(d time.Duration) string {
	switch {
	case d == 0:
		return "0"
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2f ms", d.Seconds()*1e3)
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1e3)
	case d < 100*time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// ShortID returns the first digits of a trace id, enough to tell traces apart.
func ShortID(id string) string { return id[:min(len(id), 8)] }

// cut shortens a text to n characters; an ellipsis shows that it did.
func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:max(n-1, 0)]) + "…"
}
