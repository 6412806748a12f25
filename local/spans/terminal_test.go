package spans_test

import (
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"otel-demo/local/spans"
	"otel-demo/local/spans/spantest"
)

func tree(from []spantest.Span, opt spans.TreeOptions) string {
	return spans.TreeText(spantest.Traces(from)[0], opt)
}

func TestTree(t *testing.T) {
	for width, want := range map[int]string{
		100: `trace 01000000000000000000000000000002  7 spans  206 ms
client  make request            ███                                                          12.0 ms
  client  HTTP GET              ███                                                          10.0 ms
    server  GET /hello          ███                                                          8.00 ms
      server  handle request    ███                                                          6.00 ms
        server  publish work     █                                                           3.00 ms
          server  publish        █                                                           1.00 ms
          worker  process work   █████████████████████████████████████████████████████████    200 ms
`,
		60: `trace 01000000000000000000000000000002  7 spans  206 ms
client  make request          █                      12.0 ms
  client  HTTP GET            █                      10.0 ms
    server  GET /hello        █                      8.00 ms
      server  handle request  █                      6.00 ms
        server  publish work  █                      3.00 ms
          server  publish     █                      1.00 ms
          worker  process w…  ████████████████████    200 ms
`,
		40: `trace 01000000000000000000000000000002 …
client  make request             12.0 ms
  client  HTTP GET               10.0 ms
    server  GET /hello           8.00 ms
      server  handle request     6.00 ms
        server  publish work     3.00 ms
          server  publish        1.00 ms
          worker  process work    200 ms
`,
	} {
		if got := tree(spantest.Request(2, 1), spans.TreeOptions{Width: width}); got != want {
			t.Errorf("at width %d the tree is\n%s\nwant\n%s", width, got, want)
		}
	}
}

var ansi = regexp.MustCompile("\x1b\\[[0-9]*m")

func TestTreeInColorIsTheSameText(t *testing.T) {
	from := append(spantest.Request(2, 1), spantest.Span{Trace: 2, Parent: 1, Service: "worker", Name: "example error", Kind: "internal", At: 2100 * ms, Took: 2 * ms, Failed: "no reason"})
	for width := range 130 {
		plain, colored := tree(from, spans.TreeOptions{Width: width}), tree(from, spans.TreeOptions{Width: width, Color: true})
		if ansi.ReplaceAllString(colored, "") != plain || strings.Contains(plain, "\x1b") {
			t.Errorf("at width %d the tree in color is\n%s\nwant\n%s", width, colored, plain)
		}
		for line := range strings.Lines(plain) {
			if n := utf8.RuneCountInString(line) - 1; n > max(width, 12) && width > 0 {
				t.Errorf("at width %d a line has %d columns: %q", width, n, line)
			}
		}
	}
	colored := tree(from, spans.TreeOptions{Width: 100, Color: true})
	for _, want := range []string{
		"\x1b[36mclient\x1b[0m  make request", "\x1b[32m    server\x1b[0m  GET /hello", "\x1b[35m          worker\x1b[0m  process work",
		"\x1b[31m  worker  example error ✗ no reason\x1b[0m", "\x1b[31m 2.00 ms\x1b[0m",
	} {
		if !strings.Contains(colored, want) {
			t.Errorf("no %q in\n%s", want, colored)
		}
	}
}

func TestTreeShowsASpanThatTakesNoTime(t *testing.T) {
	for _, at := range []time.Duration{0, 50 * ms, 100 * ms} {
		from := []spantest.Span{{Trace: 2, Service: "a", Name: "b", Kind: "internal", Took: 100 * ms}, {Trace: 2, Parent: 1, Service: "a", Name: "b", Kind: "internal", At: at}}
		lines := strings.Split(tree(from, spans.TreeOptions{}), "\n")
		if strings.Count(lines[2], "█") != 1 || utf8.RuneCountInString(lines[2]) != 80 {
			t.Errorf("at %v: %q", at, lines[2])
		}
	}
}

func TestTreeNamesTheTraceThatASpanLinksTo(t *testing.T) {
	from := []spantest.Span{
		{Trace: 3, Service: "worker", Name: "process work", Kind: "consumer", Took: ms, Link: []int{2}},
		{Trace: 2, Service: "server", Name: "publish work", Kind: "producer", Took: ms},
	}
	if got := tree(from, spans.TreeOptions{}); !strings.Contains(got, "process work → trace 01000000") {
		t.Error(got)
	}
}

func TestTreeOfAHostileTrace(t *testing.T) {
	got := tree([]spantest.Span{{Trace: 1, Service: "a\x1b]0;title\a", Name: "\x1b[2J\n", Kind: "internal", Failed: "\r"}}, spans.TreeOptions{Width: 90})
	if strings.ContainsAny(got, "\x1b\a\r") || strings.Count(got, "\n") != 2 {
		t.Errorf("%q", got)
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0", 999: "0 µs", 5 * time.Microsecond: "5 µs", 1234 * time.Microsecond: "1.23 ms", 45678 * time.Microsecond: "45.7 ms",
		678 * ms: "678 ms", 1234 * ms: "1.23 s", 125 * time.Second: "2m5s",
	} {
		if got := spans.FormatDuration(d); got != want {
			t.Errorf("%d ns is written %q, want %q", d, got, want)
		}
	}
}
