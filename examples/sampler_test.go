package examples_test

// You need this where some requests are not worth a trace, and only their attributes tell which.

import (
	"context"
	"fmt"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// withoutAdmin is your own sampler. It drops requests to one path, and leaves the rest to another sampler. (For health
// checks you need no sampler: otelhttp.WithFilter creates no span for them in the first place.)
//
// A sampler decides before the span begins: it sees the parent, the name, and the attributes that Start was given. It
// can't know how long the span will take, or whether it will fail, so it can't "keep all errors". The collector can,
// where whole traces come together, with its tail_sampling processor.
type withoutAdmin struct{ sdktrace.Sampler }

// otelhttp starts a server's span with the request's path as an attribute. Don't match the name: outside a mux it
// becomes `GET /admin` only later, when the route is known.
var admin = semconv.URLPath("/admin")

func (s withoutAdmin) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if slices.Contains(p.Attributes, admin) {
		// The trace state of the parent is passed on, whatever the decision.
		return sdktrace.SamplingResult{
			Decision:   sdktrace.Drop,
			Tracestate: trace.SpanContextFromContext(p.ParentContext).TraceState(),
		}
	}
	return s.Sampler.ShouldSample(p)
}

func (s withoutAdmin) Description() string { return "WithoutAdmin{" + s.Sampler.Description() + "}" }

// Your own sampler. ParentBased uses it only for root spans; all others follow their parent, in this process or in
// another, so that a trace is whole or not there at all.
func Example_sampler() {
	sampler := sdktrace.ParentBased(withoutAdmin{sdktrace.AlwaysSample()})
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSampler(sampler)).Tracer("example")

	for _, path := range []attribute.KeyValue{semconv.URLPath("/hello"), admin} {
		ctx, span := tracer.Start(context.Background(), "GET", trace.WithAttributes(path))
		_, child := tracer.Start(ctx, "handle request")
		fmt.Println(path.Value.String(), "sampled:", span.SpanContext().IsSampled(), "its child:", child.SpanContext().IsSampled())
		child.End()
		span.End()
	}

	// Output:
	// /hello sampled: true its child: true
	// /admin sampled: false its child: false
}
