package backend

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"
)

func TestShapeIsAsTheDesignWritesIt(t *testing.T) {
	want := strings.Join([]string{blockOf(demoShape, "make request"), blockOf(demoShape, "example error"), blockOf(demoShape, "wait for server")}, "\n")
	all := traces(demo())
	for range 2 {
		if got := Shape(all); got != want {
			t.Errorf("the shape is\n%s\nnot\n%s", got, want)
		}
		slices.Reverse(all) // in whatever order they come
	}
	if got := Shape(nil); got != "" {
		t.Errorf("the shape of nothing is %q", got)
	}
}

func blockOf(shape, name string) string {
	for block := range strings.SplitSeq(shape, "\n\n") {
		if strings.Contains(block, name) {
			return strings.TrimSpace(block) + "\n"
		}
	}
	return ""
}

func TestShapeOfWhatIsNotSimple(t *testing.T) {
	for name, c := range map[string]struct {
		spans []testSpan
		want  string
	}{
		"a link to another trace, and to none": {
			[]testSpan{
				{1, 0, "server", "publish work", producer, 0, ms, "", nil, nil},
				{2, 0, "worker", "process work", consumer, ms, ms, "", nil, []int{1, 3}},
				{3, 0, "else", "not here", consumer, ms, ms, "", nil, nil},
			},
			"1 trace\nserver  publish work  producer\n\n1 trace\nworker  process work  consumer  link=publish work (other trace)  link=? (other trace)\n",
		},
		"a parent that is missing": {
			[]testSpan{{1, 9, "server", "GET /", server, 0, ms, "", nil, nil}},
			"1 trace\nserver  GET /  server\n",
		},
		"siblings by start, and by name where that is equal": {
			[]testSpan{
				{1, 0, "a", "root", internal, 0, ms, "", nil, nil},
				{1, 1, "a", "last", internal, 3, ms, "", nil, nil},
				{1, 1, "a", "y", internal, 2, ms, "", nil, nil},
				{1, 1, "a", "x", internal, 2, ms, "", nil, nil},
			},
			"1 trace\na  root  internal\n  a  x  internal\n  a  y  internal\n  a  last  internal\n",
		},
		"spans that are each other's parents": {
			[]testSpan{
				{1, 2, "a", "one", internal, 0, ms, "", nil, nil},
				{1, 1, "a", "two", internal, 1, ms, "", nil, nil},
				{1, 3, "a", "own", internal, 2, ms, "", nil, nil},
			},
			"1 trace\na  one  internal\n  a  two  internal\na  own  internal\n",
		},
		"names that would break the text": {
			[]testSpan{{1, 0, "a\nb", "\x1b[31mred", ptrace.SpanKindUnspecified, 0, ms, "", map[string]any{"user.name": "x\u202ey"}, nil}},
			`1 trace` + "\n" + `a\nb  \x1b[31mred  user.name=x\u202ey` + "\n",
		},
	} {
		all := traces(c.spans)
		if name == "a link to another trace, and to none" {
			all = all[:2]
		}
		if got := Shape(all); got != c.want {
			t.Errorf("%s: the shape is\n%s\nnot\n%s", name, got, c.want)
		}
	}
}

func TestADeepTraceStaysReadable(t *testing.T) {
	var spans []testSpan
	for i := range 20_000 {
		spans = append(spans, testSpan{1, i, "a", "deep", internal, time.Duration(i), ms, "", nil, nil})
	}
	all, longest := traces(spans), 0
	for line := range strings.Lines(Shape(all)) {
		longest = max(longest, len(line))
	}
	if longest > 2*maxDepth+50 {
		t.Errorf("a line of the shape is %d long", longest)
	}
}

func TestMatch(t *testing.T) {
	all := traces(demo())
	for want, match := range map[string]bool{
		demoShape: true,
		strings.ReplaceAll(demoShape, "\n", "\r\n"):             true,
		strings.Replace(demoShape, "5 traces", "5-5 traces", 1): true,
		strings.Replace(demoShape, "5 traces", "0-9 traces", 1): true,
		demoShape + "\n0-2 traces\nclient  maybe  internal\n":   true,
		strings.Replace(demoShape, "5 traces", "0-4 traces", 1): false,
		strings.Replace(demoShape, "5 traces", "6-9 traces", 1): false,
		strings.Replace(demoShape, "5 traces", "4 traces", 1):   false,
		demoShape + "\n1-2 traces\nclient  maybe  internal\n":   false,
		strings.Replace(demoShape, "donuts", "bagels", 1):       false,
		blockOf(demoShape, "make request"):                      false, // and nothing else
		"":                                                      false,
	} {
		if err := Match(want, all); (err == nil) != match {
			t.Errorf("Match says %v to\n%s", err, want)
		}
	}
	if err := Match("", nil); err != nil {
		t.Errorf("nothing does not match nothing: %v", err)
	}
}

func TestMatchShowsWhatDiffers(t *testing.T) {
	spans := demo()
	spans[5].attributes = map[string]any{"messaging.destination.name": "jobs"}
	err := Match(strings.Replace(demoShape, "1 trace\nclient  wait", "2 traces\nclient  wait", 1), traces(spans))
	if err == nil {
		t.Fatal("it matches")
	}
	for _, line := range []string{
		"\n-5 traces\n", "\n+4 traces\n", "\n-2 traces\n", "\n+1 trace\n", "\n client  wait for server  internal\n",
		"\n+        server  publish work  producer  messaging.destination.name=jobs\n",
	} {
		if !strings.Contains(err.Error(), line) {
			t.Errorf("no line %q in\n%v", line, err)
		}
	}
}

func TestMatchShowsTheMostSimilarShapeOpposite(t *testing.T) {
	want := strings.Join([]string{
		strings.Replace(blockOf(demoShape, "make request"), "donuts", "bagels", 1),
		"1 trace\nclient  wait for server  internal  user.name=nobody\n",
		"1 trace\nclient  example error  internal\n",
	}, "\n")
	err := Match(want, traces(demo()))
	if err == nil {
		t.Fatal("it matches")
	}
	for _, sign := range []string{"\n-", "\n+"} {
		if n := strings.Count(err.Error(), sign); n != 4 { // the file's name, and a line of each block
			t.Errorf("%d lines begin with %q in\n%v", n, sign, err)
		}
	}
}

func TestMatchRefusesATextThatIsNoShape(t *testing.T) {
	for _, want := range []string{
		"client  make request\n", "five traces\na  b\n", "2-1 traces\na  b\n", "1 trace\n", "-1 traces\na  b\n",
		"1 trace\na  b\n\n2 traces\na  b\n", "99999999999999999999 traces\na  b\n",
	} {
		if err := Match(want, nil); err == nil || !strings.Contains(err.Error(), "cannot read") {
			t.Errorf("%q: %v", want, err)
		}
	}
}

func TestMissing(t *testing.T) {
	rooted := request(2, 1)
	// The worker's span as the root of a trace of its own, that only links to the message.
	linked := slices.Clone(rooted)
	linked[5].trace, linked[5].parent = 3, 0
	child := slices.Clone(rooted)
	child[5].link = nil
	without := func(place int) []*Trace {
		all := traces(rooted)
		all[0].Spans = slices.Delete(slices.Clone(all[0].Spans), place-1, place)
		return all
	}
	refused := []testSpan{{2, 0, "client", "HTTP GET", client, 0, ms, "connection refused", nil, nil}}
	for name, c := range map[string]struct {
		traces []*Trace
		want   string
	}{
		"all is there":                   {traces(rooted), ""},
		"the worker links only":          {traces(linked), ""},
		"the worker is a child only":     {traces(child), ""},
		"no span of the worker":          {without(6), `the consumer of server "publish work"`},
		"no root":                        {without(1), `the parent of client "HTTP GET"`},
		"the linking trace is not there": {traces(linked)[:1], `the consumer of server "publish work"`},
		"no span of the server":          {traces(rooted[:2]), `the server of client "HTTP GET"`},
		"nobody answered":                {traces(refused), ""},
	} {
		got := Missing(c.traces)[c.traces[0].ID]
		if got != c.want {
			t.Errorf("%s: missing is %q, not %q", name, got, c.want)
		}
		if whole := Whole(c.traces[0], c.traces); whole != (c.want == "") {
			t.Errorf("%s: whole is %v", name, whole)
		}
	}
}

func ExampleShape() {
	fmt.Print(Shape(traces(request(2, 1))))
	// Output:
	// 1 trace
	// client  make request  internal
	//   client  HTTP GET  client  http.response.status_code=200
	//     server  GET /hello  server  http.route=/hello  http.response.status_code=200
	//       server  handle request  internal
	//         server  publish work  producer  messaging.destination.name=work
	//           server  publish  client
	//           worker  process work  consumer  messaging.destination.name=work  user.name=donuts  link=publish work
}
