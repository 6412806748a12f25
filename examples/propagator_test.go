package examples_test

// You need this where an older system sends its trace ids in its own header, and its requests and yours are to be in
// one trace.

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// oldSystem is your own propagator. It reads and writes the one header that the older system knows, which has no span
// id and no sampling decision.
type oldSystem struct{}

const header = "x-trace-id"

func (oldSystem) Inject(ctx context.Context, carrier propagation.TextMapCarrier) {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		carrier.Set(header, span.TraceID().String())
	}
}

func (oldSystem) Extract(ctx context.Context, carrier propagation.TextMapCarrier) context.Context {
	id, err := trace.TraceIDFromHex(carrier.Get(header))
	// A propagator never fails: it ignores what it can't read. W3C's headers say more, so they win.
	if err != nil || trace.SpanContextFromContext(ctx).IsValid() {
		return ctx
	}
	return trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: id,
		SpanID:  trace.SpanID(id[8:]), // a context is valid only with a span id: no span has this one
		Remote:  true,
		// Not sampled, because the old system has not decided that. Your sampler decides: see below.
	}))
}

// Fields returns the headers that Inject sets. They are cleared from a carrier that is reused.
func (oldSystem) Fields() []string { return []string{header} }

// Your own propagator, in addition to the W3C's: an old system sends its trace ids in a header x-trace-id. Set this
// composite with otel.SetTextMapPropagator, and otelhttp and the broker both use it.
//
// ParentBased has a separate sampler for a request from the old system: WithRemoteParentNotSampled. By default it would
// take the missing decision for a no, and record nothing.
func Example_propagator() {
	propagator := propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}, oldSystem{})
	sampler := sdktrace.ParentBased(sdktrace.AlwaysSample(), sdktrace.WithRemoteParentNotSampled(sdktrace.AlwaysSample()))
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSampler(sampler)).Tracer("example")

	// A request from the old system: its trace continues.
	ctx := propagator.Extract(context.Background(), propagation.MapCarrier{header: "4bf92f3577b34da6a3ce929d0e0e4736"})
	ctx, span := tracer.Start(ctx, "GET /hello")
	defer span.End()
	fmt.Println("trace", span.SpanContext().TraceID(), "sampled:", span.SpanContext().IsSampled())

	// A request to any system: it has both kinds of headers, and the receiver reads the one that it knows.
	carrier := propagation.MapCarrier{}
	propagator.Inject(ctx, carrier)
	fmt.Println("traceparent:", carrier["traceparent"][:36]+"<span id>"+carrier["traceparent"][52:])
	fmt.Println("x-trace-id: ", carrier[header])

	// Output:
	// trace 4bf92f3577b34da6a3ce929d0e0e4736 sampled: true
	// traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-<span id>-01
	// x-trace-id:  4bf92f3577b34da6a3ce929d0e0e4736
}
