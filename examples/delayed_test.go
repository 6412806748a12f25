package examples_test

// You need this where a message may wait for hours, because a worker is down or the message is scheduled. As a child,
// its span would join a trace that ended long ago, which a tail sampler has decided on. So a recent message continues
// its trace, and an old one starts a new trace with a link.

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

type reminder struct {
	headers propagation.MapCarrier
	sent    time.Time // by the sender's clock, which may be ahead of yours
}

// recent is shorter than the time that a tail sampler waits for the spans of a trace: decision_wait, 30 s by default.
const recent = 20 * time.Second

func process(tracer trace.Tracer, m reminder, now time.Time) {
	ctx := propagation.TraceContext{}.Extract(context.Background(), m.headers)
	waited := max(0, now.Sub(m.sent))
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithLinks(trace.LinkFromContext(ctx)), // in both cases
		trace.WithAttributes(attribute.Float64("demo.message.waited", waited.Seconds()))}
	if waited > recent {
		options = append(options, trace.WithNewRoot())
	}
	_, span := tracer.Start(ctx, "process reminder", options...)
	defer span.End()
}

// One message that waited for 2 s, and one that waited for 8 hours.
func Example_delayed() {
	spans, recorder := record()
	tracer := spans.Tracer("example")
	for _, waited := range []time.Duration{2 * time.Second, 8 * time.Hour} {
		ctx, span := tracer.Start(context.Background(), "publish reminder", trace.WithSpanKind(trace.SpanKindProducer))
		m := reminder{propagation.MapCarrier{}, time.Now()}
		propagation.TraceContext{}.Inject(ctx, m.headers)
		span.End()
		process(tracer, m, m.sent.Add(waited))
	}
	fmt.Print(shape(recorder, "demo.message.waited"))
	// Output:
	// process reminder  consumer  demo.message.waited=28800  link=publish reminder
	// publish reminder  producer
	//   process reminder  consumer  demo.message.waited=2  link=publish reminder
	// publish reminder  producer
}
