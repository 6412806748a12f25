// Package rabbitmq is the lesson of pkg/broker.go for RabbitMQ.
//
// RabbitMQ's messages have headers, and the broker keeps a message until you say what became of it. What is different
// from pkg/broker.go: header values can be of any type, or there are no headers at all, and a message can come again.
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

const (
	queue = "work"
	dead  = "work.dead" // for messages that could not be processed, until somebody looks at them
)

var errNotText = pkg.Error{Type: "decode", Text: "want UTF-8"}

var tracer = otel.Tracer("otel-demo/brokers/rabbitmq")

// carrier lets a propagator write the headers of a message and read them. An amqp.Table is a map[string]any, and other
// programs put numbers, lists and nil in it: c[key].(string) without the second result would panic on their messages.
type carrier amqp.Table

func (c carrier) Get(key string) string { value, _ := c[key].(string); return value }
func (c carrier) Set(key, value string) { c[key] = value }
func (c carrier) Keys() []string        { return slices.Collect(maps.Keys(c)) }

// Declare creates the two queues. A quorum queue counts how often it delivers a message, which a classic one doesn't.
// After the third failure it moves the message to the dead letters, with the headers that it had: they lead you from
// a dead letter to the trace in which it was published.
func Declare(channel *amqp.Channel) error {
	_, err1 := channel.QueueDeclare(dead, true, false, false, false, nil)
	_, err2 := channel.QueueDeclare(queue, true, false, false, false, amqp.Table{
		"x-queue-type": "quorum", "x-delivery-limit": 2, // two more deliveries after the first
		"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead,
	})
	return errors.Join(err1, err2)
}

// attributes describe a message by OpenTelemetry's messaging conventions.
func attributes(operation string, operationType attribute.KeyValue, key string, body []byte) trace.SpanStartEventOption {
	return trace.WithAttributes(
		semconv.MessagingSystemRabbitMQ,
		semconv.MessagingDestinationName(queue),
		semconv.MessagingRabbitMQDestinationRoutingKey(key),
		semconv.MessagingOperationName(operation),
		operationType,
		semconv.MessagingMessageBodySize(len(body)),
		semconv.ServicePeerName("rabbitmq"), // puts RabbitMQ on Zipkin's map
	)
}

// Publish sends a task, and returns nil once RabbitMQ has it. Call channel.Confirm first: without it a publish only
// fills a buffer, and the span would be green, whatever became of the message.
func Publish(ctx context.Context, channel *amqp.Channel, task string) error {
	ctx, span := tracer.Start(ctx, "publish "+queue, trace.WithSpanKind(trace.SpanKindProducer),
		attributes("publish", semconv.MessagingOperationTypeSend, queue, []byte(task)))
	defer span.End()
	headers := amqp.Table{} // in amqp.Publishing{} the headers are nil, and Inject would panic
	otel.GetTextMapPropagator().Inject(ctx, carrier(headers))

	// The first "" is the default exchange. It takes the routing key for the name of a queue.
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

// Handler works on one task. The span `process work` is in ctx, and an error makes that span an error.
type Handler func(ctx context.Context, task string) error

// Receive hands each message to handle, one at a time, until ctx is done. Then it finishes what has been delivered:
// RabbitMQ delivers up to 10 messages in advance.
func Receive(ctx context.Context, channel *amqp.Channel, handle Handler) error {
	if err := channel.Qos(10, 0, false); err != nil {
		return fmt.Errorf("limit deliveries: %w", err)
	}
	deliveries, err := channel.ConsumeWithContext(ctx, queue, "", false, false, false, false, nil)
	if err != nil {
		return fmt.Errorf("consume: %w", err)
	}
	for delivery := range deliveries { // it ends with ctx
		if err := process(delivery, handle); err != nil {
			return fmt.Errorf("settle: %w", err)
		}
	}
	if ctx.Err() == nil {
		return errors.New("consume: the channel or the queue is gone")
	}
	return nil
}

// process handles one delivery, and tells RabbitMQ what became of it. A message that comes again still has its first
// headers. So each delivery has a span of its own, and all of them link to the span that published the message: in
// Jaeger you see the tries side by side, in one trace.
func process(delivery amqp.Delivery, handle Handler) error {
	ctx := otel.GetTextMapPropagator().Extract(context.Background(), carrier(delivery.Headers))
	// How many deliveries went wrong before this one. The conventions have no attribute for that in RabbitMQ, so the
	// name below is our own. It doesn't begin with messaging., which is theirs.
	failed, _ := delivery.Headers["x-delivery-count"].(int64)
	ctx, span := tracer.Start(ctx, "process "+queue, trace.WithSpanKind(trace.SpanKindConsumer),
		attributes("process", semconv.MessagingOperationTypeProcess, delivery.RoutingKey, delivery.Body),
		trace.WithAttributes(
			semconv.MessagingRabbitMQMessageDeliveryTag(int(delivery.DeliveryTag)),
			attribute.Int64("work.delivery_count", failed+1)),
		trace.WithLinks(trace.LinkFromContext(ctx)))
	defer span.End()

	err := run(ctx, delivery.Body, handle)
	if err == nil {
		return delivery.Ack(false)
	}
	slog.ErrorContext(ctx, "process message", "error", pkg.Fail(span, err))
	// Again, until the queue's limit. A message that can't be decoded goes to the dead letters at once.
	return delivery.Nack(false, !errors.Is(err, errNotText))
}

// run calls handle. A panic becomes an error, and an event that has the stack.
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
