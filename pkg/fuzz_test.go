package pkg

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"go.opentelemetry.io/contrib/propagators/autoprop"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Whatever the headers of a request or a message contain, in any format that OTEL_PROPAGATORS supports, extracting
// makes a usable context, and what is injected from it can be extracted again.
func FuzzExtract(f *testing.F) {
	const traceID, spanID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	f.Add("00-"+traceID+"-"+spanID+"-01", "a=b,c=d", "username=donuts;p=1,x=%20", traceID+"-"+spanID+"-1", traceID+":"+spanID+":0:1",
		"Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent="+spanID+";Sampled=1")
	f.Add("", "", "", "0", "::::", "Root=;;")
	f.Fuzz(func(t *testing.T, traceparent, tracestate, bag, b3, jaeger, xray string) {
		for _, names := range []string{"tracecontext,baggage", "b3", "b3multi", "jaeger", "ottrace", "xray", "tracecontext,baggage,b3,jaeger,xray"} {
			propagator, err := autoprop.TextMapPropagator(strings.Split(names, ",")...)
			if err != nil {
				t.Fatal(err)
			}
			ctx := propagator.Extract(context.Background(), propagation.MapCarrier{
				"traceparent": traceparent, "tracestate": tracestate, "baggage": bag,
				"b3": b3, "x-b3-traceid": traceparent, "x-b3-spanid": b3, "x-b3-sampled": tracestate, "x-b3-flags": bag,
				"uber-trace-id": jaeger, "ot-tracer-traceid": traceparent, "ot-tracer-spanid": b3, "ot-tracer-sampled": jaeger,
				"x-amzn-trace-id": xray,
			})
			span := trace.SpanContextFromContext(ctx)
			if span.HasTraceID() != span.HasSpanID() {
				t.Errorf("%s: half a span context: %v", names, span)
			}
			_ = fmt.Sprint(baggage.FromContext(ctx), span)
			carrier := propagation.MapCarrier{}
			propagator.Inject(ctx, carrier)
			again := trace.SpanContextFromContext(propagator.Extract(context.Background(), carrier))
			if names == "tracecontext,baggage" && span.IsValid() && (again.TraceID() != span.TraceID() || again.SpanID() != span.SpanID()) {
				t.Errorf("%s: %v came back as %v", names, span, again)
			}
		}
	})
}

// These headers are valid, and the propagators of OTEL_PROPAGATORS don't read all of them. recipes/b3 and
// recipes/old-formats say so: when a library changes, these pages must too.
func TestHeadersThatThePropagatorsDoNotRead(t *testing.T) {
	const traceID, spanID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	const traceparent = "00-" + traceID + "-" + spanID + "-01"
	byDefault := sdktrace.ParentBased(sdktrace.AlwaysSample())
	ours := sdktrace.ParentBased(sdktrace.AlwaysSample(), sdktrace.WithRemoteParentNotSampled(sdktrace.AlwaysSample()))
	for _, test := range []struct {
		what, format     string
		headers          http.Header
		sampler          sdktrace.Sampler
		continues, is    bool // it continues the trace; it is recorded
		tracestateHasTwo bool
	}{
		{"b3", "b3", http.Header{"B3": {traceID + "-" + spanID + "-1"}}, byDefault, true, true, false},
		{"b3 without a decision", "b3", http.Header{"B3": {traceID + "-" + spanID}}, byDefault, true, false, false},
		{"b3 without a decision, with the sampler", "b3", http.Header{"B3": {traceID + "-" + spanID}}, ours, true, true, false},
		{"b3multi without a decision", "b3multi", http.Header{"X-B3-Traceid": {traceID}, "X-B3-Spanid": {spanID}}, byDefault, true, false, false},
		{"X-Ray", "xray", http.Header{"X-Amzn-Trace-Id": {"Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=" + spanID + ";Sampled=1"}},
			byDefault, true, true, false},
		{"X-Ray, only the root", "xray", http.Header{"X-Amzn-Trace-Id": {"Root=1-4bf92f35-77b34da6a3ce929d0e0e4736"}},
			byDefault, false, true, false},
		{"uber-trace-id", "jaeger", http.Header{"Uber-Trace-Id": {traceID + ":" + spanID + ":0:1"}}, byDefault, true, true, false},
		{"uber-trace-id, encoded", "jaeger", http.Header{"Uber-Trace-Id": {traceID + "%3A" + spanID + "%3A0%3A1"}}, byDefault, false, true, false},
		{"tracestate", "tracecontext", http.Header{"Traceparent": {traceparent}, "Tracestate": {"a=1,b=2"}}, byDefault, true, true, true},
		{"tracestate in two fields", "tracecontext", http.Header{"Traceparent": {traceparent}, "Tracestate": {"a=1", "b=2"}},
			byDefault, true, true, false},
	} {
		propagator, err := autoprop.TextMapPropagator(test.format)
		if err != nil {
			t.Fatal(err)
		}
		tracer := sdktrace.NewTracerProvider(sdktrace.WithSampler(test.sampler)).Tracer("")
		_, span := tracer.Start(propagator.Extract(t.Context(), propagation.HeaderCarrier(test.headers)), "GET /hello")
		got := span.SpanContext()
		span.End()
		if got.TraceID().String() == traceID != test.continues || got.IsSampled() != test.is || got.TraceState().Len() == 2 != test.tracestateHasTwo {
			t.Errorf("%s: got %v", test.what, got)
		}
	}
}
