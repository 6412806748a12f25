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
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"otel-demo/pkg"
)

// The dead letters are messages that could not be processed. They wait for someone to look at them.
const queue, dead = "work", "work.dead"

// After its third failure, a message goes to the dead letters.
const maxDeliveries = 3

var (
	tracer     = otel.Tracer("otel-demo/brokers/rabbitmq")
	errNotText = pkg.Error{Type: "decode", Text: "want UTF-8"} // the type becomes the attribute error.type
)

// carrier lets a propagator write the headers of a message and read them. An amqp.Table is a map[string]any, and other
// programs put bytes, numbers, lists and nil in it: c[key].(string) without the second result would panic on those.
type carrier amqp.Table

func (c carrier) Get(key string) string {
	switch value := c[key].(type) {
	case string:
		return value
	case []byte: // some clients write their strings as bytes
		return string(value)
	}
	return ""
}
func (c carrier) Set(key, value string) { c[key] = value }

// Keys is for propagators that look for a prefix, such as ottrace. The W3C's only get and set.
func (c carrier) Keys() []string { return slices.Collect(maps.Keys(c)) }

// attributes describe a message, following OpenTelemetry's messaging conventions. The destination name combines
// exchange, routing key and queue, without repeats: here the exchange has no name, and the other two are the same.
func (c *Client) attributes(operation string, kind attribute.KeyValue, key string, body []byte,
) trace.SpanStartEventOption {
	return trace.WithAttributes(
		semconv.MessagingSystemRabbitMQ,
		semconv.MessagingDestinationName(queue),
		// A key may be any bytes, but an attribute that isn't UTF-8 would cost you the span.
		semconv.MessagingRabbitMQDestinationRoutingKey(strings.ToValidUTF8(key, "\uFFFD")),
		semconv.MessagingOperationName(operation),
		kind,
		semconv.MessagingMessageBodySize(len(body)),
		semconv.ServerAddress(c.host),
		semconv.ServicePeerName("rabbitmq"), // not one of the messaging conventions: it puts RabbitMQ on Zipkin's map
	)
}

// Publish sends a task, and returns nil once RabbitMQ has it. The channel must be in confirm mode. Without it, a
// publish only fills a buffer, and the span would have no error, even if the message is lost.
func (c *Client) Publish(ctx context.Context, task string) error {
	ctx, span := tracer.Start(ctx, "publish "+queue, trace.WithSpanKind(trace.SpanKindProducer),
		c.attributes("publish", semconv.MessagingOperationTypeSend, queue, []byte(task)))
	defer span.End()
	channel, err := c.confirming()
	if err != nil {
		return pkg.Fail(span, err)
	}
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

// Handler works on one task. The span `process work` is in ctx, and so is the baggage. An error marks that span as
// failed.
type Handler func(ctx context.Context, task string) error

// Receive passes each message to handle, one at a time, until ctx is canceled. Then it finishes what was delivered:
// RabbitMQ delivers up to 10 messages in advance. No span covers their wait in this process, as receiving them is not a
// call with a beginning: in Jaeger, the wait is a gap before `process work`.
func (c *Client) Receive(ctx context.Context, handle Handler) error {
	return c.consume(ctx, func(delivery amqp.Delivery) error { return c.process(delivery, handle) })
}

// process handles one delivery, and acknowledges or rejects it. A redelivered message still has its original headers.
// So each delivery has its own span, and all of them link to the span that published the message: in Jaeger you see the
// attempts side by side, in one trace.
func (c *Client) process(delivery amqp.Delivery, handle Handler) error {
	ctx := otel.GetTextMapPropagator().Extract(context.Background(), carrier(delivery.Headers))
	// How many deliveries failed before this one. The conventions have no attribute for that in RabbitMQ, so the name
	// below is our own. It doesn't begin with messaging., which belongs to the conventions.
	failed, _ := delivery.Headers["x-delivery-count"].(int64)
	ctx, span := tracer.Start(ctx, "process "+queue, trace.WithSpanKind(trace.SpanKindConsumer),
		c.attributes("process", semconv.MessagingOperationTypeProcess, delivery.RoutingKey, delivery.Body),
		trace.WithAttributes(
			semconv.MessagingRabbitMQMessageDeliveryTag(int(delivery.DeliveryTag)),
			attribute.Int64("work.delivery_count", failed+1)),
		// The producer's span is the parent, and there is a link to it too, as the conventions ask. If a message waits
		// for hours, make this span the root of a new trace (trace.WithNewRoot): the link still leads to the producer.
		trace.WithLinks(trace.LinkFromContext(ctx)))
	defer span.End()

	err := run(ctx, delivery.Body, handle)
	if err == nil {
		return c.settle(ctx, "ack", delivery, func() error { return delivery.Ack(false) })
	}
	// With requeue, RabbitMQ delivers the message again, until the queue's limit. What can't be decoded now can't be
	// decoded later: without requeue it goes to the dead letters at once. (If this process dies in the last delivery,
	// RabbitMQ moves the message by itself, and only the length of that queue shows it.)
	requeue, line := !errors.Is(err, errNotText), "process message"
	if failed+1 >= maxDeliveries || !requeue {
		line = "give up message: it goes to the dead letters"
	}
	slog.ErrorContext(ctx, line, "deliveries", failed+1, "error", pkg.Fail(span, err))
	return c.settle(ctx, "nack", delivery, func() error { return delivery.Nack(false, requeue) })
}

// settle tells RabbitMQ the outcome, in a span. The other lessons leave this one out. It shows an acknowledgment that
// failed: the work is done, and the message will come again.
func (c *Client) settle(ctx context.Context, operation string, delivery amqp.Delivery, send func() error) error {
	ctx, span := tracer.Start(ctx, operation+" "+queue, trace.WithSpanKind(trace.SpanKindClient),
		c.attributes(operation, semconv.MessagingOperationTypeSettle, delivery.RoutingKey, delivery.Body))
	defer span.End()
	if err := send(); err != nil {
		slog.ErrorContext(ctx, operation+" message", "error", pkg.Fail(span, err))
		return err
	}
	return nil
}

// Next: brokers/README.md, how to add this to your own program.
