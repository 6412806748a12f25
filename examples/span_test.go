package examples_test

// You need this where you call something that has no instrumentation library.

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"otel-demo/pkg"
)

// charge stands for a client of some service that has no instrumentation library.
func charge(_ context.Context, cents int) error {
	if cents > 10_000 {
		return pkg.Error{Type: "declined", Text: "card declined"}
	}
	return nil
}

// tracedCharge adds your own span, and does all that an instrumentation library would do.
func tracedCharge(ctx context.Context, tracer trace.Tracer, cents int) error {
	// The name says what kind of call it is, never which one: few names, many spans. What differs is an attribute. The
	// kind client tells backends that the time is spent elsewhere.
	ctx, span := tracer.Start(ctx, "charge card", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("service.peer.name", "payments"),
		attribute.Int("demo.amount.cents", cents), // your own namespace; never record the card's number
	))
	defer span.End()
	// Pass the new ctx on: what the client calls in turn becomes a child.
	if err := charge(ctx, cents); err != nil {
		return pkg.Fail(span, err) // sets the status, which makes the span red, and the attribute error.type
	}
	return nil
}

// A span around a dependency that has no instrumentation, with attributes and errors.
func Example_span() {
	// A recorder, in place of an exporter, shows what was made.
	recorder := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)).Tracer("example")

	fmt.Println(tracedCharge(context.Background(), tracer, 500))
	fmt.Println(tracedCharge(context.Background(), tracer, 20_000))
	for _, span := range recorder.Ended() {
		fmt.Println(span.Name(), span.SpanKind(), span.Status().Code)
		for _, attribute := range span.Attributes() {
			fmt.Printf("  %s=%s\n", attribute.Key, attribute.Value.String())
		}
	}

	// Output:
	// <nil>
	// card declined
	// charge card client Unset
	//   service.peer.name=payments
	//   demo.amount.cents=500
	// charge card client Error
	//   service.peer.name=payments
	//   demo.amount.cents=20000
	//   error.type=declined
}
