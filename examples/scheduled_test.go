package examples_test

// You need this where a job runs on a schedule and processes many messages at once. Nobody calls it, so each run has
// its own trace. A span has only one parent, so the span that processes the messages links to each of their traces.

import (
	"context"
	"fmt"
	"slices"

	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// run is one run. If ctx holds a span, that of the scheduler for example, WithNewRoot still starts a new trace.
func run(ctx context.Context, tracer trace.Tracer, headers []propagation.MapCarrier) {
	ctx, job := tracer.Start(ctx, "summarize readings", trace.WithNewRoot())
	defer job.End()
	// By default, LinkCountLimit is 128: a span keeps its last 128 links, and drops the others silently. Either raise it
	// with OTEL_SPAN_LINK_COUNT_LIMIT, or start a span for every 128 messages, as here.
	for batch := range slices.Chunk(headers, sdktrace.DefaultLinkCountLimit) {
		var links []trace.Link
		for _, carrier := range batch {
			links = append(links, trace.LinkFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier)))
		}
		_, span := tracer.Start(ctx, "process readings", trace.WithSpanKind(trace.SpanKindConsumer), trace.WithLinks(links...))
		span.End()
	}
}

// The first run processes 2 messages. The second one processes 200, whose spans the recorder no longer has.
func Example_scheduled() {
	spans, recorder := record()
	tracer := spans.Tracer("example")
	publish := func(count int) (headers []propagation.MapCarrier) {
		for range count {
			ctx, span := tracer.Start(context.Background(), "publish reading", trace.WithSpanKind(trace.SpanKindProducer))
			headers = append(headers, propagation.MapCarrier{})
			propagation.TraceContext{}.Inject(ctx, headers[len(headers)-1])
			span.End()
		}
		return headers
	}
	ctx, _ := tracer.Start(context.Background(), "scheduler") // never ends
	run(ctx, tracer, publish(2))
	fmt.Print(shape(recorder))
	many := publish(200)
	recorder.Reset()
	run(ctx, tracer, many)
	fmt.Print(shape(recorder))
	// Output:
	// publish reading  producer
	// publish reading  producer
	// summarize readings  internal
	//   process readings  consumer  link=publish reading ×2
	// summarize readings  internal
	//   process readings  consumer  link=? ×128
	//   process readings  consumer  link=? ×72
}
