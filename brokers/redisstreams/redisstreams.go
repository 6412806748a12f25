// Package redisstreams is the lesson of pkg/broker.go for Redis Streams.
//
// Pub/sub, which the demo uses, delivers a message to every listening worker, and stores nothing. A stream stores its
// entries, and a consumer group delivers each entry to one worker. What is new for tracing: the fields of an entry are
// the carrier, one span can stand for a batch, and an entry is redelivered if its worker died. The commands that read
// the stream are in entries.go. redisstreams_test.go shows what happens if you miss one of these.
package redisstreams

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"otel-demo/pkg"
)

// Each entry of the stream goes to one member of the consumer group.
const stream, group = "work", "workers"

var tracer = otel.Tracer("otel-demo/brokers/redisstreams")

// carrier is the fields of an entry: the propagator's keys are next to "task". You need no envelope, and a program in
// another language reads the same keys.
type carrier map[string]any

// Keys is for propagators that look for a prefix, such as ottrace. The W3C's only get and set.
func (c carrier) Get(key string) string { value, _ := c[key].(string); return value }
func (c carrier) Set(key, value string) { c[key] = value }
func (c carrier) Keys() []string        { return slices.Collect(maps.Keys(c)) }

// attributes describe entries, following OpenTelemetry's messaging conventions. Their list of systems lacks "redis",
// but they allow other values.
func attributes(client *redis.Client, operation string, more ...attribute.KeyValue) trace.SpanStartEventOption {
	return trace.WithAttributes(append(more,
		semconv.MessagingSystemKey.String("redis"),
		semconv.MessagingDestinationName(stream),
		semconv.MessagingOperationName(operation),
		semconv.ServerAddress(host(client)),
		semconv.ServicePeerName("redis"))...) // not one of the messaging conventions: it puts Redis on Zipkin's map
}

// Publish adds an entry to the stream, which keeps about the newest 10,000.
func Publish(ctx context.Context, client *redis.Client, task string) error {
	ctx, span := tracer.Start(ctx, "publish "+stream, trace.WithSpanKind(trace.SpanKindProducer),
		attributes(client, "publish", semconv.MessagingOperationTypeSend))
	defer span.End()
	fields := map[string]any{"task": task}
	// Use the ctx that Start returned. With the caller's, the worker's span would be a child of the span around this
	// one, and the link would lead there too.
	otel.GetTextMapPropagator().Inject(ctx, carrier(fields))
	id, err := client.XAdd(ctx, &redis.XAddArgs{Stream: stream, MaxLen: 10_000, Approx: true, Values: fields}).Result()
	if err != nil {
		return pkg.Fail(span, fmt.Errorf("publish: %w", err))
	}
	span.SetAttributes(semconv.MessagingMessageID(id)) // Redis generates it, so it is set last
	return nil
}

// Worker is a consumer of the group.
type Worker struct {
	Client *redis.Client
	Name   string        // each worker needs its own
	Idle   time.Duration // after this time, other workers take over an entry: longer than 20 tasks take
}

// Handler works on one task. The span `process work` is in ctx, and an error marks that span as failed.
type Handler func(ctx context.Context, task string) error

// Receive passes each entry to handle, one at a time, until ctx is canceled. Then it finishes what it has read. It has
// no span for reading, which mostly waits, and none for an acknowledgment, except for an entry that is given up.
func (w Worker) Receive(ctx context.Context, handle Handler) error {
	return w.keepReading(ctx, func(entry redis.XMessage) error {
		// The parent is the producer's span. If the fields are missing or invalid, there is none, and the next span
		// starts a new trace: an entry without a context is still an entry.
		return w.process(extract(entry), []redis.XMessage{entry}, func(ctx context.Context) error {
			task, ok := entry.Values["task"].(string)
			if !ok {
				return pkg.Error{Type: "decode", Text: `want a field "task"`}
			}
			return handle(ctx, task)
		})
	})
}

// ReceiveBatch reads up to 100 entries and passes them to handle, in one span. Each comes from a different trace, and a
// span has only one parent. So this span starts a new trace and has a link to each producer: in Jaeger, click the span
// and open "Links". Why 100? By default, LinkCountLimit is 128: a span drops the links beyond it silently. A span for
// each entry, as above, costs more and tells more. Use one for all if the work is done for all at once, such as a bulk
// insert.
func (w Worker) ReceiveBatch(handle func(context.Context, []redis.XMessage) error) error {
	entries, err := w.read(100)
	if err != nil || len(entries) == 0 {
		return err
	}
	return w.process(context.Background(), entries, func(ctx context.Context) error { return handle(ctx, entries) })
}

// extract returns a context with the producer's span and baggage.
func extract(entry redis.XMessage) context.Context {
	return otel.GetTextMapPropagator().Extract(context.Background(), carrier(entry.Values))
}

// process creates one span for one or more entries, and acknowledges them unless handle fails. A redelivered entry has
// the same fields. So each delivery has its own span, and all link to the same producer: in Jaeger you see the attempts
// side by side, in one trace.
func (w Worker) process(ctx context.Context, entries []redis.XMessage, handle func(context.Context) error) error {
	var links []trace.Link
	var details []attribute.KeyValue
	deliveries := w.deliveries(entries) // a second delivery has the count 2
	for _, entry := range entries {
		// The conventions have no attributes for Redis's delivery count, or for how long an entry waited in the stream.
		// These names are our own. They don't begin with messaging., which belongs to the conventions.
		details = []attribute.KeyValue{semconv.MessagingMessageID(entry.ID),
			attribute.Int64("work.delivery_count", deliveries[entry.ID]),
			attribute.Int64("work.waited_ms", waited(entry).Milliseconds())}
		if link := trace.LinkFromContext(extract(entry), details...); link.SpanContext.IsValid() {
			links = append(links, link) // without this check, an entry without headers would link to nowhere
		}
	}
	// A single entry also gets a link, in addition to the parent, as the conventions ask.
	ctx, span := tracer.Start(ctx, "process "+stream, trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithLinks(links...), attributes(w.Client, "process", semconv.MessagingOperationTypeProcess,
			semconv.MessagingConsumerGroupName(group), semconv.MessagingClientID(w.Name)))
	defer span.End()
	// An attribute of one entry belongs on its link, and on the span only if there is just one entry: then you can
	// search for it, for example for second deliveries with work.delivery_count=2.
	if len(entries) == 1 {
		span.SetAttributes(details...)
	} else {
		span.SetAttributes(semconv.MessagingBatchMessageCount(len(entries)))
	}
	if err := pkg.CatchPanic(ctx, func() error { return handle(ctx) }); err != nil {
		slog.ErrorContext(ctx, "process entry", "error", pkg.Fail(span, err))
		return nil // the entry stays pending, and is redelivered after w.Idle
	}
	return w.acknowledge(entries)
}

// giveUp acknowledges an entry that has failed three times, or whose workers died, so that it isn't delivered anymore.
// It stays in the stream, for you to look at. This is the span that you will search for: it has failed, has the number
// of deliveries, and leads to the producer.
func (w Worker) giveUp(entry redis.XMessage, deliveries int64) error {
	ctx := extract(entry)
	ctx, span := tracer.Start(ctx, "ack "+stream, trace.WithSpanKind(trace.SpanKindClient),
		trace.WithLinks(trace.LinkFromContext(ctx)), attributes(w.Client, "ack", semconv.MessagingOperationTypeSettle,
			semconv.MessagingMessageID(entry.ID), attribute.Int64("work.delivery_count", deliveries)))
	defer span.End()
	if err := w.acknowledge([]redis.XMessage{entry}); err != nil {
		return pkg.Fail(span, err)
	}
	err := pkg.Fail(span, pkg.Error{Type: "given_up", Text: "the work has failed too often"})
	slog.ErrorContext(ctx, "give up entry", "id", entry.ID, "deliveries", deliveries, "error", err)
	return nil
}

// Next: brokers/README.md, how to add this to your own program.
