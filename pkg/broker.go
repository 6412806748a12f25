package pkg

// This file is file 5 of 6: how the broker injects the trace context into a message, and extracts it again.
//
// Look into OpenTelemetry's registry first: for your broker's client there may be an instrumentation library. Where
// there is none, or where it stops half way, do what it would do:
//
//  1. The producer starts a span of the kind producer, and injects the context into the message's headers.
//  2. The consumer extracts the context from the headers, and starts a span of the kind consumer with it.
//  3. Both describe the message by OpenTelemetry's messaging conventions, so that backends know what they see.
//
// For another broker, other than the calls to it, only the carrier changes (its own headers), and the two constants.
// The folder brokers shows it for NATS, Kafka, RabbitMQ and Redis Streams, with what goes wrong at first.

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
	system  = "redis" // the broker's name; the conventions list those of many brokers
	channel = "work"
)

var tracer = otel.Tracer("otel-demo/pkg")

// Broker sends and receives messages over Redis pub/sub. Its connection and its subscription are in pkg/redis.go.
type Broker struct {
	// NewRoot has each message processed in a trace of its own, linked to the producer's span. By default the span is
	// the producer's child as well.
	NewRoot bool

	redis  *redis.Client
	cutOff atomic.Int64 // messages that were under way when the program had to stop
	// What can't be decoded is counted, but makes at most one span and one log line a second: it may come fast.
	undecoded atomic.Int64
	report    rate.Sometimes
}

// Handler works on one message. Its ctx holds the span `process work` and the baggage, and is cancelled if the program
// must stop. An error makes the span an error.
type Handler func(ctx context.Context, message Message) error

// messageAttributes describe a message on both sides. Names and values are those of OpenTelemetry's conventions:
// https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
func messageAttributes(operation string, operationType attribute.KeyValue, message ...attribute.KeyValue,
) trace.SpanStartEventOption {
	return trace.WithAttributes(append(message,
		semconv.MessagingSystemKey.String(system),
		semconv.MessagingDestinationName(channel),
		semconv.MessagingOperationName(operation),
		operationType,
		// The broker makes no spans. This name puts it on Zipkin's map of the services, between server and worker.
		semconv.ServicePeerName(system),
	)...)
}

// Publish sends body to whoever listens on the channel. It fails with ErrNoListener if nobody does, with ErrRefused, or
// with Redis's error; ctx limits how long it tries.
func (b *Broker) Publish(ctx context.Context, body string) error {
	message := Message{ID: rand.Text(), Headers: propagation.MapCarrier{}, Body: body}
	ctx, span := tracer.Start(ctx, "publish "+channel, trace.WithSpanKind(trace.SpanKindProducer),
		messageAttributes("publish", semconv.MessagingOperationTypeSend,
			semconv.MessagingMessageID(message.ID), semconv.MessagingMessageBodySize(len(body))))
	defer span.End()

	// The heart of the matter. The propagator writes the context's trace id, span id and baggage as headers. It is
	// the global one, which pkg/tracer.go sets; otelhttp uses the same for HTTP. ctx must be the one that Start
	// returned: with the one before, the worker's span would have the wrong parent.
	otel.GetTextMapPropagator().Inject(ctx, message.Headers)

	// redisotel traces the command itself, as the child span `publish`. Its attributes are of an older version of the
	// conventions.
	if err := b.send(ctx, message); err != nil {
		return Fail(span, err)
	}
	return nil
}

// process works on one message: the other end of Publish. Receive calls it when one of its slots is free.
func (b *Broker) process(ctx context.Context, payload string, handle Handler) {
	message, err := DecodeMessage(payload)
	if err != nil {
		b.skip(ctx, err)
		return
	}
	// Extract is the opposite of Inject. The context that it returns holds the baggage, and the remote span as the
	// parent of the next span. Where headers are missing or broken, there is none, and the span below starts a new
	// trace.
	ctx = otel.GetTextMapPropagator().Extract(ctx, message.Headers)
	options := []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindConsumer),
		// A parent says "part of", a link says "because of". Jaeger shows it under "References".
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

// skip leaves out a message that can't be decoded. Its span has no parent: the trace context could not be read
// either.
func (b *Broker) skip(ctx context.Context, err error) {
	count := b.undecoded.Add(1)
	b.report.Do(func() {
		ctx, span := tracer.Start(ctx, "process "+channel, trace.WithSpanKind(trace.SpanKindConsumer),
			messageAttributes("process", semconv.MessagingOperationTypeProcess))
		defer span.End()
		slog.ErrorContext(ctx, "skip message", "error", Fail(span, Error{"undecodable", err.Error()}), "so far", count)
	})
}

// You have seen how a trace crosses a broker. Next: pkg/tracer.go, the set-up that makes all of this work.
