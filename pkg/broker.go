package pkg

// This is file 5 of 6: how the broker injects and extracts the trace context.
//
// Most brokers have no instrumentation library, or one that stops at the broker. This file shows the three things
// that such a library does, so that you can do them for any broker:
//
//  1. Publish starts a span of the kind producer, and injects the context into the message's headers.
//  2. Receive extracts the context from the headers, and starts a span of the kind consumer with it.
//  3. Both describe the message by OpenTelemetry's messaging conventions, so that backends know what they see.
//
// For Kafka, RabbitMQ or NATS the calls to Redis change, and the carrier is made of their own headers. Spans,
// attributes, Inject and Extract stay as they are.

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
)

const channel = "work"

// ErrNoListener is returned when nobody is subscribed to the channel. Pub/sub keeps nothing: the message is gone.
var ErrNoListener = errors.New("nobody listens on the channel " + channel)

var tracer = otel.Tracer("otel-demo/pkg")

// Broker sends and receives messages over Redis pub/sub. NewBroker is in pkg/program.go.
type Broker struct {
	redis *redis.Client
	// What can't be decoded is counted, but makes one span and one log line a second at most: a stranger can send
	// many.
	undecoded atomic.Int64
	report    rate.Sometimes
}

// attributes describe a message, on both sides. Names and values are those of OpenTelemetry's messaging conventions,
// so that a backend knows what it sees: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
func attributes(operation string, operationType attribute.KeyValue, message Message) trace.SpanStartEventOption {
	return trace.WithAttributes(
		semconv.MessagingSystemKey.String("redis"),
		semconv.MessagingDestinationName(channel),
		semconv.MessagingOperationName(operation),
		operationType,
		semconv.MessagingMessageID(message.ID),
		semconv.MessagingMessageBodySize(len(message.Body)),
		// The broker makes no spans. This name puts it on Zipkin's map of the services, between server and worker.
		semconv.ServicePeerName("redis"),
	)
}

// Publish sends body to whoever listens on the channel. It fails with ErrNoListener if nobody does, and with Redis's
// error if it can't be reached; ctx limits how long it tries. A message is sent once and never again, since Redis
// could not tell a second one from a new one.
func (b *Broker) Publish(ctx context.Context, body string) error {
	message := Message{ID: rand.Text(), Headers: propagation.MapCarrier{}, Body: body}
	ctx, span := tracer.Start(ctx, "publish "+channel, trace.WithSpanKind(trace.SpanKindProducer),
		attributes("publish", semconv.MessagingOperationTypeSend, message))
	defer span.End()

	// The heart of the matter. The propagator writes the context's trace id, span id and baggage as headers. It is
	// the global one, which pkg/tracer.go sets from OTEL_PROPAGATORS; otelhttp uses the same for HTTP. ctx must be
	// the one that Start returned: with the one before, the worker's span would hang on the wrong parent.
	otel.GetTextMapPropagator().Inject(ctx, message.Headers)

	encoded, err := json.Marshal(message)
	if err != nil {
		return Fail(span, err)
	}
	// redisotel traces the command itself, as the child span `publish` (see pkg/program.go).
	listeners, err := b.redis.Publish(ctx, channel, encoded).Result()
	if err != nil {
		return Fail(span, fmt.Errorf("publish: %w", err))
	}
	if listeners == 0 {
		return Fail(span, ErrNoListener)
	}
	return nil
}

// Handler works on one message. The span `process work` is in ctx, and an error makes that span an error.
type Handler func(ctx context.Context, message Message) error

// Receive hands each message to handle, 100 at once at most, until ctx is done. Then it takes no new ones, waits for
// those that it has received, and returns nil. While Redis is away it tries again, without end. The error is
// ErrRefused if Redis refuses the user or the password. The options are for the span of each message.
func (b *Broker) Receive(ctx context.Context, handle Handler, options ...trace.SpanStartOption) error {
	subscription, err := b.subscribe(ctx)
	if err != nil {
		return err
	}
	// When it is time to stop, ask Redis for no more. Redis confirms that, and what it sent before comes before that.
	// If it doesn't confirm within 3 s, it is away.
	context.AfterFunc(ctx, func() {
		time.AfterFunc(3*time.Second, func() { subscription.Close() })
		subscription.Unsubscribe(context.Background())
	})
	var underWay sync.WaitGroup
	slots := make(chan struct{}, 100)
	for received := range subscription.ChannelWithSubscriptions(redis.WithChannelSize(10)) {
		switch received := received.(type) {
		case *redis.Subscription:
			slog.Info(received.Kind, "channel", received.Channel)
			if received.Kind == "unsubscribe" {
				subscription.Close() // which ends the loop
			}
		case *redis.Message:
			slots <- struct{}{}
			underWay.Go(func() {
				b.process(received.Payload, handle, options)
				<-slots
			})
		}
	}
	underWay.Wait()
	return nil
}

// process handles one message, as the other end of Publish.
func (b *Broker) process(payload string, handle Handler, options []trace.SpanStartOption) {
	message, err := DecodeMessage(payload)
	if err != nil {
		b.skip(err)
		return
	}
	// Extract is the opposite of Inject. The context that it returns holds the remote span, as the parent of the next
	// one that is started, and the baggage. Where headers are missing or broken it holds none, and the span below
	// starts a new trace. Mind that this is not Receive's context, which ends on SIGTERM: what has been received is
	// finished.
	ctx := otel.GetTextMapPropagator().Extract(context.Background(), message.Headers)
	ctx, span := tracer.Start(ctx, "process "+channel, append([]trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindConsumer),
		attributes("process", semconv.MessagingOperationTypeProcess, message),
		// A parent says "part of", a link says "because of". Jaeger shows it under "References".
		trace.WithLinks(trace.LinkFromContext(ctx)),
	}, options...)...)
	defer span.End()
	// A message that makes the handler panic must not end the work on the others. A panic alone leaves the span
	// without an error, too.
	defer func() {
		if reason := recover(); reason != nil {
			err := Fail(span, fmt.Errorf("panic: %v", reason), trace.WithStackTrace(true))
			slog.ErrorContext(ctx, "process message", "error", err)
		}
	}()
	if err := handle(ctx, message); err != nil {
		slog.ErrorContext(ctx, "process message", "error", Fail(span, err))
	}
}

// skip leaves out a message that can't be decoded. Its span has no parent: the trace context could not be read
// either.
func (b *Broker) skip(err error) {
	count := b.undecoded.Add(1)
	b.report.Do(func() {
		ctx, span := tracer.Start(context.Background(), "process "+channel, trace.WithSpanKind(trace.SpanKindConsumer))
		defer span.End()
		slog.ErrorContext(ctx, "skip message", "error", Fail(span, err), "so far", count)
	})
}

// subscribe returns a subscription that Redis has confirmed, tries until it has one, and gives up only when ctx is
// done or Redis refuses the user or the password. If the connection breaks later, go-redis renews it.
func (b *Broker) subscribe(ctx context.Context) (*redis.PubSub, error) {
	away := rate.Sometimes{First: 1}
	return backoff.Retry(ctx, func() (*redis.PubSub, error) {
		subscription := b.redis.Subscribe(ctx, channel)
		_, err := subscription.Receive(ctx)
		if err = explain(err); errors.Is(err, ErrRefused) {
			err = backoff.Permanent(err)
		}
		if err != nil {
			away.Do(func() { slog.Warn("subscribe, and try again until it works", "error", err) })
			subscription.Close()
		}
		return subscription, err
	}, backoff.WithBackOff(Backoff()), backoff.WithMaxElapsedTime(0))
}

// Ready returns nil if Redis answers and somebody listens, otherwise ErrNoListener, ErrRefused or Redis's own error.
func (b *Broker) Ready(ctx context.Context) error {
	listeners, err := b.redis.PubSubNumSub(ctx, channel).Result()
	if err == nil && listeners[channel] == 0 {
		return ErrNoListener
	}
	return explain(err)
}

// Close closes the connections to Redis.
func (b *Broker) Close() error { return b.redis.Close() }

// You have seen how a trace crosses a broker. Next: pkg/tracer.go, the set-up that makes all of this work.
