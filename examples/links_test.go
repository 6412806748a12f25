package examples_test

// You need this where traces are sampled and a worker starts its own, with a link to the span that sent the message. If
// each trace were sampled by itself, one in ten, only one pair in a hundred would be there as a whole.

import (
	"context"
	"fmt"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// linked samples a root span if it has a link to a sampled span, so that both traces are there, or neither. A link
// carries the same flag as a parent. Roots without links are the other sampler's. A sampler sees all links, but the span
// keeps only the last 128 of them: see LinkCountLimit in scheduled_test.go.
type linked struct{ sdktrace.Sampler }

func (s linked) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if len(p.Links) == 0 {
		return s.Sampler.ShouldSample(p)
	}
	for _, link := range p.Links {
		if link.SpanContext.IsSampled() {
			return sdktrace.AlwaysSample().ShouldSample(p)
		}
	}
	return sdktrace.NeverSample().ShouldSample(p)
}

func (s linked) Description() string { return "Linked{" + s.Sampler.Description() + "}" }

// The worker's sampler. Set it in StartTracing (pkg/tracer.go). ParentBased leaves only root spans to it.
var sampler = sdktrace.ParentBased(linked{sdktrace.AlwaysSample()})

// One message from a trace that is recorded, and one from a trace that isn't.
func Example_links() {
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSampler(sampler)).Tracer("worker")
	for _, flags := range []trace.TraceFlags{trace.FlagsSampled, 0} {
		sender := trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, TraceFlags: flags})
		_, span := tracer.Start(context.Background(), "process work", trace.WithNewRoot(),
			trace.WithLinks(trace.Link{SpanContext: sender}))
		fmt.Println("the sender's trace:", sender.IsSampled(), " the worker's:", span.SpanContext().IsSampled())
		span.End()
	}
	// Output:
	// the sender's trace: true  the worker's: true
	// the sender's trace: false  the worker's: false
}
