package pkg

// This is file 5 of 6: how the trace context gets into a message, and out of it again.
//
// First look in https://opentelemetry.io/ecosystem/registry: there may be an instrumentation library for your broker's
// client. If there is none, or if it does only part of the job, do what it would do:
//
//  1. The producer starts a span of kind producer, and injects the context into the message's headers.
//  2. The consumer extracts the context from the headers, and starts a span of kind consumer with it.
//  3. Both describe the message, following OpenTelemetry's messaging conventions, which backends understand.
//
// For another broker, replace the Redis calls, the two constants, and the carrier: use the broker's own headers. The
// brokers folder does so for NATS, Kafka, RabbitMQ, MQTT and others, and shows the usual mistakes.

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
)

const (
	system  = "redis" // the broker's name in the conventions
	channel = "work"
)

var tracer = otel.Tracer("otel-demo/pkg")

// Broker sends and receives messages over Redis pub/sub. Its methods send, Receive and run are in pkg/redis.go.
type Broker struct {
	// NewRoot starts a new trace for each message, linked to the producer's span. By default, that span is the parent.
	NewRoot bool

	redis  *redis.Client
	cutOff atomic.Int64 // messages in progress when the program had to stop
	// Messages that can't be decoded are counted. They produce at most one span and one log line a second.
	undecoded atomic.Int64
	report    rate.Sometimes
}

// Handler processes one message. Its ctx holds the span `process work` and the baggage, and is canceled 4.5 s after
// SIGTERM. If it returns an error, the span is marked as failed.
type Handler func(ctx context.Context, message Message) error

// messageAttributes describe a message on both sides, following OpenTelemetry's conventions:
// https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
func messageAttributes(operation string, operationType attribute.KeyValue, message ...attribute.KeyValue,
) trace.SpanStartEventOption {
	return trace.WithAttributes(append(message,
		semconv.MessagingSystemKey.String(system),
		semconv.MessagingDestinationName(channel),
		semconv.MessagingOperationName(operation),
		operationType,
		// Redis creates no spans itself; this attribute makes Zipkin draw it, between server and worker.
		semconv.ServicePeerName(system),
	)...)
}

// Publish sends body to every worker that listens on the channel. It fails with ErrNoListener if there is none, with
// ErrRefused if Redis refuses the user or the password, or with Redis's error. ctx limits how long it tries.
func (b *Broker) Publish(ctx context.Context, body string) error {
	message := Message{ID: rand.Text(), Headers: propagation.MapCarrier{}, Body: body}
	ctx, span := tracer.Start(ctx, "publish "+channel, trace.WithSpanKind(trace.SpanKindProducer),
		messageAttributes("publish", semconv.MessagingOperationTypeSend,
			semconv.MessagingMessageID(message.ID), semconv.MessagingMessageBodySize(len(body))))
	defer span.End()

	// This is the key line. The propagator writes the trace id, the span id and the baggage from ctx as headers. It is
	// the global propagator, which pkg/tracer.go sets and otelhttp uses too. ctx must be the one that Start returned.
	// Try it: above, replace `ctx, span :=` with `_, span :=` and run `go run -C local . -once -shape`. `process work`
	// is now a child of `handle request`.
	otel.GetTextMapPropagator().Inject(ctx, message.Headers)

	// redisotel traces the command itself, as the child span `publish`. It follows an older version of the conventions.
	if err := b.send(ctx, message); err != nil {
		return Fail(span, err)
	}
	return nil
}

// process, the other end of Publish, handles one message. Receive runs up to 100 calls of process concurrently.
func (b *Broker) process(ctx context.Context, payload string, handle Handler) {
	message, err := decodeMessage(payload)
	if err != nil {
		b.skip(ctx, err)
		return
	}
	// Extract is the opposite of Inject. The context that it returns holds the baggage, and the producer's span: the
	// next span's parent. If headers are missing or invalid, the span below has no parent and
	// starts a new trace.
	ctx = otel.GetTextMapPropagator().Extract(ctx, message.Headers)
	options := []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindConsumer),
		// The parent puts this span in the producer's trace. The link keeps the connection even with NewRoot.
		trace.WithLinks(trace.LinkFromContext(ctx)),
		messageAttributes("process", semconv.MessagingOperationTypeProcess,
			semconv.MessagingMessageID(message.ID), semconv.MessagingMessageBodySize(len(message.Body))),
	}
	if b.NewRoot {
		options = append(options, trace.WithNewRoot())
	}
	ctx, span := tracer.Start(ctx, "process "+channel, options...)
	defer span.End()
	if err := b.run(ctx, handle, message); err != nil {
		slog.ErrorContext(ctx, "process message", "error", Fail(span, err))
	}
}

// skip reports a message that can't be decoded. Its span has no parent, since the trace context can't be read either.
func (b *Broker) skip(ctx context.Context, err error) {
	count := b.undecoded.Add(1)
	b.report.Do(func() {
		ctx, span := tracer.Start(ctx, "process "+channel, trace.WithSpanKind(trace.SpanKindConsumer),
			messageAttributes("process", semconv.MessagingOperationTypeProcess))
		defer span.End()
		slog.ErrorContext(ctx, "skip message", "error", Fail(span, Error{"undecodable", err.Error()}), "so far", count)
	})
}

// You have seen how a trace crosses a broker. Next: pkg/tracer.go, the setup that makes all of this work.
