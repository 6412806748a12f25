package spantest

import (
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"otel-demo/local/spans"
)

// Began is when all traces of these tests start.
var Began = time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)

// Span is a span as the tests write it; its id is its position in the list, its parent the position of another.
type Span struct {
	Trace, Parent int
	Service, Name string
	Kind          string
	At, Took      time.Duration
	Failed        string
	Attributes    map[string]any
	Link          []int // positions
}

// TraceID returns the id of trace n.
func TraceID(n int) pcommon.TraceID { return pcommon.TraceID{14: byte(n >> 8), 15: byte(n), 0: 1} }
func spanID(n int) pcommon.SpanID   { return pcommon.SpanID{6: byte(n >> 8), 7: byte(n), 0: 1} }

var kinds = map[string]ptrace.SpanKind{"internal": ptrace.SpanKindInternal, "server": ptrace.SpanKindServer,
	"client": ptrace.SpanKindClient, "producer": ptrace.SpanKindProducer, "consumer": ptrace.SpanKindConsumer}

// OTLP puts each span into its own ResourceSpans, the way spans from many processes arrive.
func OTLP(spans []Span) ptrace.Traces {
	traces := ptrace.NewTraces()
	for i, from := range spans {
		resourceSpans := traces.ResourceSpans().AppendEmpty()
		resourceSpans.Resource().Attributes().PutStr("service.name", from.Service)
		scopeSpans := resourceSpans.ScopeSpans().AppendEmpty()
		scopeSpans.Scope().SetName("otel-demo")
		span := scopeSpans.Spans().AppendEmpty()
		span.SetTraceID(TraceID(from.Trace))
		span.SetSpanID(spanID(i + 1))
		if from.Parent > 0 {
			span.SetParentSpanID(spanID(from.Parent))
		}
		span.SetName(from.Name)
		span.SetKind(kinds[from.Kind])
		span.SetStartTimestamp(pcommon.NewTimestampFromTime(Began.Add(from.At)))
		span.SetEndTimestamp(pcommon.NewTimestampFromTime(Began.Add(from.At + from.Took)))
		if from.Failed != "" {
			span.Status().SetCode(ptrace.StatusCodeError)
			span.Status().SetMessage(from.Failed)
		}
		if err := span.Attributes().FromRaw(from.Attributes); err != nil {
			panic(err)
		}
		for _, to := range from.Link {
			link := span.Links().AppendEmpty()
			link.SetSpanID(spanID(to))
			link.SetTraceID(TraceID(spans[to-1].Trace))
		}
	}
	return traces
}

const ms = time.Millisecond

// Request returns the demo's trace of a request as trace n, whose first span is at position first.
func Request(n, first int) []Span {
	status, queue := map[string]any{"http.response.status_code": 200}, map[string]any{"messaging.destination.name": "work"}
	route := map[string]any{"http.response.status_code": 200, "http.route": "/hello"}
	work := map[string]any{"messaging.destination.name": "work", "user.name": "donuts"}
	at := time.Duration(n) * time.Second
	return []Span{
		{n, 0, "client", "make request", "internal", at, 12 * ms, "", nil, nil},
		{n, first, "client", "HTTP GET", "client", at + 1*ms, 10 * ms, "", status, nil},
		{n, first + 1, "server", "GET /hello", "server", at + 2*ms, 8 * ms, "", route, nil},
		{n, first + 2, "server", "handle request", "internal", at + 3*ms, 6 * ms, "", nil, nil},
		{n, first + 3, "server", "publish work", "producer", at + 4*ms, 3 * ms, "", queue, nil},
		{n, first + 4, "worker", "process work", "consumer", at + 6*ms, 200 * ms, "", work, []int{first + 4}},
		{n, first + 4, "server", "publish", "client", at + 5*ms, 1 * ms, "", nil, nil},
	}
}

// Demo returns the spans that the demo produces by default.
func Demo() []Span {
	var all []Span
	for n := range 5 {
		all = append(all, Request(n+2, len(all)+1)...)
	}
	return append(all, Span{7, 0, "client", "example error", "internal", 8 * time.Second, 2 * ms, "no reason", nil, nil})
}

// Traces returns spans as a store would receive them.
func Traces(all []Span) []*spans.Trace {
	traces, _ := spans.FromOTLP(OTLP(all))
	return traces
}

// DemoShape is the shape of Demo's traces.
const DemoShape = `5 traces
client  make request  internal
  client  HTTP GET  client  http.response.status_code=200
    server  GET /hello  server  http.route=/hello  http.response.status_code=200
      server  handle request  internal
        server  publish work  producer  messaging.destination.name=work
          server  publish  client
          worker  process work  consumer  messaging.destination.name=work  user.name=donuts  link=publish work

1 trace
client  example error  internal  error
`

// Everything returns a trace that uses everything that OTLP has.
func Everything() ptrace.Traces {
	all := OTLP(Request(2, 1))
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
	event.SetTimestamp(pcommon.NewTimestampFromTime(Began.Add(2005 * ms)))
	event.Attributes().PutEmptyBytes("b").Append(1, 2, 3)
	event.Attributes().PutDouble("f", 1.5)
	event.Attributes().PutInt("n", 3)
	event.Attributes().PutBool("ok", true)
	event.Attributes().PutEmptySlice("s").AppendEmpty().SetStr("x")
	earlier := get.Events().AppendEmpty()
	earlier.SetName("plain")
	earlier.SetTimestamp(pcommon.NewTimestampFromTime(Began.Add(2003 * ms)))
	span(2).SetKind(ptrace.SpanKindUnspecified)
	failed := span(3)
	failed.Status().SetCode(ptrace.StatusCodeError)
	failed.Status().SetMessage("no <reason>")
	span(5).Links().At(0).Attributes().PutStr("why", "it published")
	return all
}

// Nested returns an OTLP request of about that size, whose one attribute is nested as deep as fits.
func Nested(size int) []byte {
	var reversed []byte
	prepend := func(text ...byte) {
		slices.Reverse(text)
		reversed = append(reversed, text...)
	}
	wrap := func(field byte) { // what is there becomes the value of a field
		prepend(binary.AppendUvarint([]byte{field<<3 | 2}, uint64(len(reversed)))...)
	}
	for len(reversed) < size-50 {
		wrap(1) // ArrayValue.values
		wrap(5) // AnyValue.array_value
	}
	wrap(2) // KeyValue.value
	prepend([]byte("\x0a\x01k")...)
	wrap(9) // Span.attributes
	prepend([]byte("\x0a\x10" + strings.Repeat("\x01", 16) + "\x12\x08" + strings.Repeat("\x02", 8))...)
	wrap(2) // ScopeSpans.spans
	wrap(2) // ResourceSpans.scope_spans
	wrap(1) // ExportTraceServiceRequest.resource_spans
	slices.Reverse(reversed)
	return reversed
}
