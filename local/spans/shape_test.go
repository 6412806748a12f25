package spans_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"otel-demo/local/spans"
	"otel-demo/local/spans/spantest"
)

func TestShapeIsAsTheDesignWritesIt(t *testing.T) {
	want := strings.Join([]string{spantest.BlockOf(spantest.DemoShape, "make request"), spantest.BlockOf(spantest.DemoShape, "example error"), spantest.BlockOf(spantest.DemoShape, "wait for server")}, "\n")
	all := traces(demo())
	for range 2 {
		if got := spans.Shape(all); got != want {
			t.Errorf("the shape is\n%s\nwant\n%s", got, want)
		}
		slices.Reverse(all) // in whatever order they come
	}
	if got := spans.Shape(nil); got != "" {
		t.Errorf("the shape of nothing is %q", got)
	}
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
		if got := spans.Shape(all); got != c.want {
			t.Errorf("%s: the shape is\n%s\nwant\n%s", name, got, c.want)
		}
	}
}

func TestADeepTraceStaysReadable(t *testing.T) {
	var deep []testSpan
	for i := range 20_000 {
		deep = append(deep, testSpan{1, i, "a", "deep", internal, time.Duration(i), ms, "", nil, nil})
	}
	all, longest := traces(deep), 0
	for line := range strings.Lines(spans.Shape(all)) {
		longest = max(longest, len(line))
	}
	if longest > 2*64+50 {
		t.Errorf("a line of the shape is %d long", longest)
	}
}

func TestMissing(t *testing.T) {
	rooted := request(2, 1)
	// The worker's span as the root of its own trace, which only links to the message.
	linked := slices.Clone(rooted)
	linked[5].Trace, linked[5].Parent = 3, 0
	child := slices.Clone(rooted)
	child[5].Link = nil
	without := func(place int) []*spans.Trace {
		all := traces(rooted)
		all[0].Spans = slices.Delete(slices.Clone(all[0].Spans), place-1, place)
		return all
	}
	// The context was injected that Start had got, not the one that it returned; with and without an id of the message.
	under := func(parent, inTrace int, messageID string) []*spans.Trace {
		moved := slices.Clone(rooted)
		moved[5].Trace, moved[5].Parent, moved[5].Link = inTrace, parent, nil
		for _, i := range []int{4, 5} {
			moved[i].Attributes = maps.Clone(moved[i].Attributes)
			moved[i].Attributes["messaging.message.id"] = messageID
		}
		return traces(moved)
	}
	unpublished := slices.Clone(rooted[:5])
	unpublished[4].Failed = "no Redis"
	refused := []testSpan{{2, 0, "client", "HTTP GET", client, 0, ms, "connection refused", nil, nil}}
	for name, c := range map[string]struct {
		traces []*spans.Trace
		want   string
	}{
		"all is there":                   {traces(rooted), ""},
		"the worker links only":          {traces(linked), ""},
		"the worker is a child only":     {traces(child), ""},
		"no span of the worker":          {without(6), `missing the consumer of server "publish work"`},
		"no root":                        {without(1), `missing the parent of client "HTTP GET"`},
		"the linking trace is not there": {traces(linked)[:1], `missing the consumer of server "publish work"`},
		"no span of the server":          {traces(rooted[:2]), `missing the server of client "HTTP GET"`},
		"the worker is elsewhere":        {under(4, 2, ""), `the consumer of server "publish work" is there, but under server "handle request"`},
		"the same, with a message id":    {under(4, 2, "m"), `the consumer of server "publish work" is there, but under server "handle request"`},
		"the context was lost":           {under(0, 3, "m"), `the consumer of server "publish work" is there, but in another trace, 01000000`},
		"the context, and no message id": {under(0, 3, ""), `missing the consumer of server "publish work"`},
		"nobody answered":                {traces(refused), ""},
		"publishing failed":              {traces(unpublished), ""},
	} {
		got := spans.Missing(c.traces)[c.traces[0].ID]
		if got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func ExampleShape() {
	fmt.Print(spans.Shape(traces(request(2, 1))))
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
