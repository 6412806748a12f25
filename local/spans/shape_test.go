package spans_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"otel-demo/local/spans"
	"otel-demo/local/spans/spantest"
)

const ms = time.Millisecond

func TestShapeIsTheSameInWhateverOrderTracesArrive(t *testing.T) {
	all := spantest.Traces(spantest.Demo())
	for range 2 {
		if got := spans.Shape(all); got != spantest.DemoShape {
			t.Errorf("the shape is\n%s\nwant\n%s", got, spantest.DemoShape)
		}
		slices.Reverse(all)
	}
	if got := spans.Shape(nil); got != "" {
		t.Errorf("the shape of nothing is %q", got)
	}
}

func TestShapeOfWhatIsNotSimple(t *testing.T) {
	for name, c := range map[string]struct {
		spans []spantest.Span
		want  string
	}{
		"a link to another trace, and to none": {
			[]spantest.Span{
				{Trace: 1, Service: "server", Name: "publish work", Kind: "producer", Took: ms},
				{Trace: 2, Service: "worker", Name: "process work", Kind: "consumer", At: ms, Took: ms, Link: []int{1, 3}},
				{Trace: 3, Service: "else", Name: "not here", Kind: "consumer", At: ms, Took: ms},
			},
			"1 trace\nserver  publish work  producer\n\n1 trace\nworker  process work  consumer  link=publish work (other trace)  link=? (other trace)\n",
		},
		"a parent that is missing": {
			[]spantest.Span{{Trace: 1, Parent: 9, Service: "server", Name: "GET /", Kind: "server", Took: ms}},
			"1 trace\nserver  GET /  server\n",
		},
		"siblings by start, and by name where that is equal": {
			[]spantest.Span{
				{Trace: 1, Service: "a", Name: "root", Kind: "internal", Took: ms},
				{Trace: 1, Parent: 1, Service: "a", Name: "last", Kind: "internal", At: 3, Took: ms},
				{Trace: 1, Parent: 1, Service: "a", Name: "y", Kind: "internal", At: 2, Took: ms},
				{Trace: 1, Parent: 1, Service: "a", Name: "x", Kind: "internal", At: 2, Took: ms},
			},
			"1 trace\na  root  internal\n  a  x  internal\n  a  y  internal\n  a  last  internal\n",
		},
		"receivers of one message by service": {
			[]spantest.Span{
				{Trace: 1, Service: "server", Name: "publish", Kind: "producer", Took: ms},
				{Trace: 1, Parent: 1, Service: "worker-b", Name: "process", Kind: "consumer", At: 2, Took: ms},
				{Trace: 1, Parent: 1, Service: "worker-a", Name: "process", Kind: "consumer", At: 3, Took: ms},
				{Trace: 1, Parent: 1, Service: "server", Name: "send", Kind: "client", At: 1, Took: ms},
			},
			"1 trace\nserver  publish  producer\n  server  send  client\n  worker-a  process  consumer\n  worker-b  process  consumer\n",
		},
		"spans that are each other's parents": {
			[]spantest.Span{
				{Trace: 1, Parent: 2, Service: "a", Name: "one", Kind: "internal", Took: ms},
				{Trace: 1, Parent: 1, Service: "a", Name: "two", Kind: "internal", At: 1, Took: ms},
				{Trace: 1, Parent: 3, Service: "a", Name: "own", Kind: "internal", At: 2, Took: ms},
			},
			"1 trace\na  one  internal\n  a  two  internal\na  own  internal\n",
		},
		"names that would break the text": {
			[]spantest.Span{{Trace: 1, Service: "a\nb", Name: "\x1b[31mred", Took: ms, Attributes: map[string]any{"user.name": "x\u202ey"}}},
			`1 trace` + "\n" + `a\nb  \x1b[31mred  user.name=x\u202ey` + "\n",
		},
	} {
		all := spantest.Traces(c.spans)
		if name == "a link to another trace, and to none" {
			all = all[:2]
		}
		if got := spans.Shape(all); got != c.want {
			t.Errorf("%s: the shape is\n%s\nwant\n%s", name, got, c.want)
		}
	}
}

func TestMissing(t *testing.T) {
	rooted := spantest.Request(2, 1)
	// The worker's span as the root of its own trace, which only links to the message.
	linked := slices.Clone(rooted)
	linked[5].Trace, linked[5].Parent = 3, 0
	child := slices.Clone(rooted)
	child[5].Link = nil
	without := func(place int) []*spans.Trace {
		all := spantest.Traces(rooted)
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
		return spantest.Traces(moved)
	}
	unpublished := slices.Clone(rooted[:5])
	unpublished[4].Failed = "no Redis"
	refused := []spantest.Span{{Trace: 2, Service: "client", Name: "HTTP GET", Kind: "client", Took: ms, Failed: "connection refused"}}
	for name, c := range map[string]struct {
		traces []*spans.Trace
		want   string
	}{
		"all is there":                   {spantest.Traces(rooted), ""},
		"the worker links only":          {spantest.Traces(linked), ""},
		"the worker is a child only":     {spantest.Traces(child), ""},
		"no span of the worker":          {without(6), `missing the consumer of server "publish work"`},
		"no root":                        {without(1), `missing the parent of client "HTTP GET"`},
		"the linking trace is not there": {spantest.Traces(linked)[:1], `missing the consumer of server "publish work"`},
		"no span of the server":          {spantest.Traces(rooted[:2]), `missing the server of client "HTTP GET"`},
		"the worker is elsewhere":        {under(4, 2, ""), `the consumer of server "publish work" is there, but under server "handle request"`},
		"the same, with a message id":    {under(4, 2, "m"), `the consumer of server "publish work" is there, but under server "handle request"`},
		"the context was lost":           {under(0, 3, "m"), `the consumer of server "publish work" is there, but in another trace, 01000000`},
		"the context, and no message id": {under(0, 3, ""), `missing the consumer of server "publish work"`},
		"nobody answered":                {spantest.Traces(refused), ""},
		"publishing failed":              {spantest.Traces(unpublished), ""},
	} {
		got := spans.Missing(c.traces)[c.traces[0].ID]
		if got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}
