package pkg_test

import (
	"context"
	"fmt"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// withoutProbes is a sampler of your own. It leaves out the spans of health checks, and asks another sampler for the
// rest.
//
// A sampler decides before the span begins: it sees the parent, the name, and the attributes that Start was given. How
// long the span will take, and whether it will fail, nobody knows yet. So "keep all errors" can't be decided here. It
// can where whole traces come together: in the collector, by its tail_sampling processor.
type withoutProbes struct{ sdktrace.Sampler }

func (s withoutProbes) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if p.Name == "GET /healthz" {
		// The trace state of the parent is passed on, whatever the decision.
		return sdktrace.SamplingResult{
			Decision:   sdktrace.Drop,
			Tracestate: trace.SpanContextFromContext(p.ParentContext).TraceState(),
		}
	}
	return s.Sampler.ShouldSample(p)
}

func (s withoutProbes) Description() string { return "WithoutProbes{" + s.Sampler.Description() + "}" }

// A sampler of your own. ParentBased asks it for root spans alone; all others do as their parent did, in this process or
// in another, so that a trace is whole or not there at all.
func Example_sampler() {
	sampler := sdktrace.ParentBased(withoutProbes{sdktrace.AlwaysSample()})
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSampler(sampler)).Tracer("example")

	for _, name := range []string{"GET /hello", "GET /healthz"} {
		ctx, span := tracer.Start(context.Background(), name)
		_, child := tracer.Start(ctx, "handle request")
		fmt.Println(name, "sampled:", span.SpanContext().IsSampled(), "its child:", child.SpanContext().IsSampled())
	}

	// Output:
	// GET /hello sampled: true its child: true
	// GET /healthz sampled: false its child: false
}
