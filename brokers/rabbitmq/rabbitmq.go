// Package rabbitmq is the lesson of pkg/broker.go for RabbitMQ.
//
// RabbitMQ messages have headers, and the broker keeps a message until you acknowledge or reject it. What differs from
// pkg/broker.go: header values can be of any type, there may be no headers at all, and a message can come again.
// rabbitmq_test.go shows what happens if you miss one of these.
package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"otel-demo/pkg"
)

// The dead letters are messages that could not be processed. They wait for someone to look at them.
const queue, dead = "work", "work.dead"

var (
	tracer     = otel.Tracer("otel-demo/brokers/rabbitmq")
	errNotText = pkg.Error{Type: "decode", Text: "want UTF-8"} // the type becomes the attribute error.type
)

// carrier lets a propagator write the headers of a message and read them. An amqp.Table is a map[string]any, and other
// programs put numbers, lists and nil in it: c[key].(string) without the second result would panic on their messages.
type carrier amqp.Table

// Keys is for propagators that look for a prefix, such as ottrace. The W3C's only get and set.
func (c carrier) Get(key string) string { value, _ := c[key].(string); return value }
func (c carrier) Set(key, value string) { c[key] = value }
func (c carrier) Keys() []string        { return slices.Collect(maps.Keys(c)) }

// Declare creates the two queues. A quorum queue counts how often it delivers a message, which a classic one doesn't.
// After the third failure it moves the message to the dead letters, with its headers: they lead you from a dead letter
// to the trace in which it was published.
func Declare(channel *amqp.Channel) error {
	_, err1 := channel.QueueDeclare(dead, true, false, false, false, nil)
	_, err2 := channel.QueueDeclare(queue, true, false, false, false, amqp.Table{
		"x-queue-type": "quorum", "x-delivery-limit": 2, // two more deliveries after the first
		"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead,
	})
	return errors.Join(err1, err2)
}

// attributes describe a message by OpenTelemetry's messaging conventions. The destination name combines exchange,
// routing key and queue, without repeats: here the exchange has no name, and the other two are the same.
func attributes(operation string, kind attribute.KeyValue, key string, body []byte) trace.SpanStartEventOption {
	return trace.WithAttributes(
		semconv.MessagingSystemRabbitMQ,
		semconv.MessagingDestinationName(queue),
		semconv.MessagingRabbitMQDestinationRoutingKey(key),
		semconv.MessagingOperationName(operation),
		kind,
		semconv.MessagingMessageBodySize(len(body)),
		semconv.ServicePeerName("rabbitmq"), // puts RabbitMQ on Zipkin's map
	)
}

// Publish sends a task, and returns nil once RabbitMQ has it. Call channel.Confirm first: without it a publish only
// fills a buffer, and the span would have no error, even if the message is lost.
func Publish(ctx context.Context, channel *amqp.Channel, task string) error {
	ctx, span := tracer.Start(ctx, "publish "+queue, trace.WithSpanKind(trace.SpanKindProducer),
		attributes("publish", semconv.MessagingOperationTypeSend, queue, []byte(task)))
	defer span.End()
	// In amqp.Publishing{} the headers are nil, and Inject would panic.
	// Use the ctx that Start returned. With the caller's, the worker's span would be a child of the span around this
	// one, and the link would lead there too.
	headers := amqp.Table{}
	otel.GetTextMapPropagator().Inject(ctx, carrier(headers))

	// The "" is the default exchange, which takes the routing key for the name of a queue. RabbitMQ confirms a message
	// for which there is no queue, and drops it. If that can happen, set the flag mandatory and use NotifyReturn.
	confirmation, err := channel.PublishWithDeferredConfirmWithContext(ctx, "", queue, false, false,
		amqp.Publishing{Headers: headers, DeliveryMode: amqp.Persistent, Body: []byte(task)})
	if err != nil {
		return pkg.Fail(span, fmt.Errorf("publish: %w", err))
	}
	confirmed, err := confirmation.WaitContext(ctx)
	if err == nil && !confirmed {
		err = errors.New("RabbitMQ or the connection has failed meanwhile")
	}
	if err != nil {
		return pkg.Fail(span, fmt.Errorf("wait for confirmation: %w", err))
	}
	return nil
}

// Handler works on one task. The span `process work` is in ctx, and so is the baggage. An error makes that span an
// error.
type Handler func(ctx context.Context, task string) error

// Receive passes each message to handle, one at a time, until ctx is canceled. Then it finishes what was delivered:
// RabbitMQ delivers up to 10 messages in advance. No span covers their wait in this process: in Jaeger, it is a gap
// before `process work`.
func Receive(ctx context.Context, channel *amqp.Channel, handle Handler) error {
	if err := channel.Qos(10, 0, false); err != nil {
		return fmt.Errorf("limit deliveries: %w", err)
	}
	deliveries, err := channel.ConsumeWithContext(ctx, queue, "", false, false, false, false, nil)
	if err != nil {
		return fmt.Errorf("consume: %w", err)
	}
	for delivery := range deliveries { // closed when ctx is canceled
		if err := process(delivery, handle); err != nil {
			return fmt.Errorf("settle: %w", err)
		}
	}
	if ctx.Err() == nil {
		return errors.New("consume: the channel or the queue is gone")
	}
	return nil
}

// process handles one delivery, and acknowledges or rejects it. A redelivered message still has its original headers.
// So each delivery has its own span, and all of them link to the span that published the message: in Jaeger you see the
// attempts side by side, in one trace.
func process(delivery amqp.Delivery, handle Handler) error {
	ctx := otel.GetTextMapPropagator().Extract(context.Background(), carrier(delivery.Headers))
	// How many deliveries failed before this one. The conventions have no attribute for that in RabbitMQ, so the name
	// below is our own. It doesn't begin with messaging., which belongs to the conventions.
	failed, _ := delivery.Headers["x-delivery-count"].(int64)
	ctx, span := tracer.Start(ctx, "process "+queue, trace.WithSpanKind(trace.SpanKindConsumer),
		attributes("process", semconv.MessagingOperationTypeProcess, delivery.RoutingKey, delivery.Body),
		trace.WithAttributes(
			semconv.MessagingRabbitMQMessageDeliveryTag(int(delivery.DeliveryTag)),
			attribute.Int64("work.delivery_count", failed+1)),
		// The producer's span is the parent, and there is a link to it too, as the conventions ask. If a message waits
		// for hours, make this span the root of a new trace (trace.WithNewRoot): the link still leads to the producer.
		trace.WithLinks(trace.LinkFromContext(ctx)))
	defer span.End()

	err := run(ctx, delivery.Body, handle)
	if err == nil {
		return delivery.Ack(false)
	}
	slog.ErrorContext(ctx, "process message", "error", pkg.Fail(span, err))
	// With requeue, RabbitMQ delivers the message again, until the queue's limit. What can't be decoded now can't be
	// decoded later: without requeue it goes to the dead letters at once.
	return delivery.Nack(false, !errors.Is(err, errNotText))
}

// run calls handle. A panic becomes an error, and an event with the stack. It must not stop the work on the other
// messages. A span that merely ends during a panic isn't an error.
func run(ctx context.Context, body []byte, handle Handler) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = pkg.Error{Type: "panic", Text: fmt.Sprint("panic: ", reason)}
			trace.SpanFromContext(ctx).RecordError(err, trace.WithStackTrace(true))
		}
	}()
	if !utf8.Valid(body) {
		return errNotText
	}
	return handle(ctx, string(body))
}

// Next: brokers/README.md, how to add this to your own program.
