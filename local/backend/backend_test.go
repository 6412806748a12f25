package backend

import (
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// began is when all traces of these tests begin.
var began = time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)

// testSpan is a span as the tests write it; its id is its place in the list, its parent the place of another.
type testSpan struct {
	trace, parent int
	service, name string
	kind          ptrace.SpanKind
	at, took      time.Duration
	failed        string
	attributes    map[string]any
	link          []int // places
}

func traceID(n int) pcommon.TraceID { return pcommon.TraceID{14: byte(n >> 8), 15: byte(n), 0: 1} }
func spanID(n int) pcommon.SpanID   { return pcommon.SpanID{6: byte(n >> 8), 7: byte(n), 0: 1} }

// otlp makes each span one ResourceSpans of its own, as spans of many processes come.
func otlp(spans []testSpan) ptrace.Traces {
	traces := ptrace.NewTraces()
	for i, from := range spans {
		resourceSpans := traces.ResourceSpans().AppendEmpty()
		resourceSpans.Resource().Attributes().PutStr("service.name", from.service)
		scopeSpans := resourceSpans.ScopeSpans().AppendEmpty()
		scopeSpans.Scope().SetName("otel-demo")
		span := scopeSpans.Spans().AppendEmpty()
		span.SetTraceID(traceID(from.trace))
		span.SetSpanID(spanID(i + 1))
		if from.parent > 0 {
			span.SetParentSpanID(spanID(from.parent))
		}
		span.SetName(from.name)
		span.SetKind(from.kind)
		span.SetStartTimestamp(pcommon.NewTimestampFromTime(began.Add(from.at)))
		span.SetEndTimestamp(pcommon.NewTimestampFromTime(began.Add(from.at + from.took)))
		if from.failed != "" {
			span.Status().SetCode(ptrace.StatusCodeError)
			span.Status().SetMessage(from.failed)
		}
		if err := span.Attributes().FromRaw(from.attributes); err != nil {
			panic(err)
		}
		for _, to := range from.link {
			link := span.Links().AppendEmpty()
			link.SetSpanID(spanID(to))
			link.SetTraceID(traceID(spans[to-1].trace))
		}
	}
	return traces
}

const (
	internal = ptrace.SpanKindInternal
	server   = ptrace.SpanKindServer
	client   = ptrace.SpanKindClient
	producer = ptrace.SpanKindProducer
	consumer = ptrace.SpanKindConsumer
	ms       = time.Millisecond
)

// request is the demo's trace of a request, as the trace n, whose first span is at place first.
func request(n, first int) []testSpan {
	status, queue := map[string]any{"http.response.status_code": 200}, map[string]any{"messaging.destination.name": "work"}
	route := map[string]any{"http.response.status_code": 200, "http.route": "/hello"}
	work := map[string]any{"messaging.destination.name": "work", "user.name": "donuts"}
	at := time.Duration(n) * time.Second
	return []testSpan{
		{n, 0, "client", "make request", internal, at, 12 * ms, "", nil, nil},
		{n, first, "client", "HTTP GET", client, at + 1*ms, 10 * ms, "", status, nil},
		{n, first + 1, "server", "GET /hello", server, at + 2*ms, 8 * ms, "", route, nil},
		{n, first + 2, "server", "handle request", internal, at + 3*ms, 6 * ms, "", nil, nil},
		{n, first + 3, "server", "publish work", producer, at + 4*ms, 3 * ms, "", queue, nil},
		{n, first + 4, "worker", "process work", consumer, at + 6*ms, 200 * ms, "", work, []int{first + 4}},
		{n, first + 4, "server", "publish", client, at + 5*ms, 1 * ms, "", nil, nil},
	}
}

// demo is what the demo makes by default.
func demo() []testSpan {
	var spans []testSpan
	spans = append(spans, testSpan{1, 0, "client", "wait for server", internal, 0, 30 * ms, "", nil, nil})
	for n := range 5 {
		spans = append(spans, request(n+2, len(spans)+1)...)
	}
	return append(spans, testSpan{7, 0, "client", "example error", internal, 8 * time.Second, 2 * ms, "no reason", nil, nil})
}

func traces(spans []testSpan) []*Trace {
	all, _ := fromOTLP(otlp(spans))
	return all
}

// demoShape is how the design writes it.
const demoShape = `5 traces
client  make request  internal
  client  HTTP GET  client  http.response.status_code=200
    server  GET /hello  server  http.route=/hello  http.response.status_code=200
      server  handle request  internal
        server  publish work  producer  messaging.destination.name=work
          server  publish  client
          worker  process work  consumer  messaging.destination.name=work  user.name=donuts  link=publish work

1 trace
client  example error  internal  error

1 trace
client  wait for server  internal
`

// everything is a trace that has all that OTLP has.
func everything() ptrace.Traces {
	all := otlp(request(2, 1))
	span := func(i int) ptrace.Span { return all.ResourceSpans().At(i).ScopeSpans().At(0).Spans().At(0) }
	resource := all.ResourceSpans().At(2).Resource().Attributes()
	resource.PutStr("service.name", "Server")
	resource.PutStr("host.name", "H")
	all.ResourceSpans().At(2).ScopeSpans().At(0).Scope().SetVersion("v1")
	get := span(1)
	get.TraceState().FromRaw("a=b")
	get.SetFlags(257)
	get.Status().SetCode(ptrace.StatusCodeOk)
	get.Attributes().PutStr("service.peer.name", "Redis")
	event := get.Events().AppendEmpty()
	event.SetName("Retry <b>")
	event.SetTimestamp(pcommon.NewTimestampFromTime(began.Add(2005 * ms)))
	event.Attributes().PutEmptyBytes("b").Append(1, 2, 3)
	event.Attributes().PutDouble("f", 1.5)
	event.Attributes().PutInt("n", 3)
	event.Attributes().PutBool("ok", true)
	event.Attributes().PutEmptySlice("s").AppendEmpty().SetStr("x")
	earlier := get.Events().AppendEmpty()
	earlier.SetName("plain")
	earlier.SetTimestamp(pcommon.NewTimestampFromTime(began.Add(2003 * ms)))
	span(2).SetKind(ptrace.SpanKindUnspecified)
	failed := span(3)
	failed.Status().SetCode(ptrace.StatusCodeError)
	failed.Status().SetMessage("no <reason>")
	span(5).Links().At(0).Attributes().PutStr("why", "it published")
	return all
}
