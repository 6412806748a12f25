package pkg

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"go.opentelemetry.io/contrib/propagators/autoprop"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
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
