// Package mqtt is the lesson of pkg/broker.go for MQTT 5.
//
// MQTT 5 messages have user properties, so you need no envelope. What differs from pkg/broker.go: the properties are
// a list, topics hold ids, messages arrive in a callback, and a broker may give a new subscriber an old message. The
// connection is in connection.go. mqtt_test.go shows what happens if you miss one of these.
//
// MQTT 3.1.1 has no user properties. A broker that delivers your message to a 3.1.1 subscriber drops them silently.
// If you have such subscribers, put the body into the envelope of pkg/message.go, and inject into its headers
// instead.
package mqtt

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"otel-demo/pkg"
)

// A topic holds the id of a kitchen, such as work/17. With the topic in a span's name, each kitchen would be its own
// operation in Jaeger, and you couldn't search for all. So the name has the template, and an attribute has the topic.
const prefix, template, filter = "work/", "work/{kitchen}", "work/+"

var tracer = otel.Tracer("otel-demo/brokers/mqtt")

// carrier lets a propagator write the user properties of a message and read them. They are a list, and Set must make
// it longer. So the carrier holds a pointer. If it were the list itself, Set would compile, but append to a copy, and
// the message would leave without a context.
type carrier struct{ *paho.PublishProperties }

func (c carrier) Get(key string) string { return c.User.Get(key) } // the first one, if there are several
func (c carrier) Set(key, value string) {
	c.User = slices.DeleteFunc(c.User, func(p paho.UserProperty) bool { return p.Key == key })
	c.User.Add(key, value)
}

// Keys is for propagators that look for a prefix, such as ottrace. The W3C's only get and set.
func (c carrier) Keys() (keys []string) {
	for _, property := range c.User {
		keys = append(keys, property.Key)
	}
	return keys
}

// attributes describe a message by OpenTelemetry's messaging conventions. Their list of systems lacks "mqtt", but
// they allow other values.
func (c *Conn) attributes(operation string, kind attribute.KeyValue, message *paho.Publish) trace.SpanStartEventOption {
	return trace.WithAttributes(
		semconv.MessagingSystemKey.String("mqtt"),
		semconv.MessagingDestinationName(message.Topic),
		semconv.MessagingDestinationTemplate(template),
		semconv.MessagingOperationName(operation),
		kind,
		semconv.MessagingMessageBodySize(len(message.Payload)),
		semconv.MessagingClientID(c.clientID),
		semconv.ServerAddress(c.host), semconv.ServerPort(c.port),
		semconv.ServicePeerName("mqtt"), // not for messaging: it puts MQTT on Zipkin's map
	)
}

// Publish sends a task to a kitchen, with QoS 1: it returns nil once the broker has the message and knows a
// subscriber. With retain, the broker keeps the message, and also gives it to those who subscribe later.
func Publish(ctx context.Context, conn *Conn, kitchen, task string, retain bool) error {
	message := &paho.Publish{Topic: prefix + kitchen, QoS: 1, Retain: retain, Payload: []byte(task),
		Properties: &paho.PublishProperties{}} // without them, Inject would panic
	ctx, span := tracer.Start(ctx, "publish "+template, trace.WithSpanKind(trace.SpanKindProducer),
		conn.attributes("publish", semconv.MessagingOperationTypeSend, message))
	defer span.End()
	// Use the ctx that Start returned. With the caller's, the worker's span would be a child of the span around this
	// one, and the link would lead there too.
	otel.GetTextMapPropagator().Inject(ctx, carrier{message.Properties})

	// With QoS 0, Publish would return before the broker has the message: if it is lost, the span has no error. With
	// QoS 1, a message without a subscriber is lost too, and the client returns no error. So look at the reason code.
	response, err := conn.Publish(ctx, message)
	if response != nil && response.ReasonCode >= packets.PubackNoMatchingSubscribers && !retain {
		err = refused(response.ReasonCode)
	}
	if err != nil {
		return pkg.Fail(span, fmt.Errorf("publish: %w", err))
	}
	return nil
}

// Handler works on one task. The span `process work/{kitchen}` is in ctx, and an error marks that span as failed.
type Handler func(ctx context.Context, task string) error

// Receive passes each message to handle, up to 100 at once, until ctx is canceled. Then it finishes those that it has
// passed on. The broker keeps the rest for the next worker with the same client ID.
//
// There are no spans for receive and settle: a callback doesn't show when receiving began, and the client sends
// acknowledgments by itself.
func Receive(ctx context.Context, conn *Conn, handle Handler) error {
	// The client calls back for one message at a time. By default, it acknowledges the message when the callback
	// returns. Work in the callback would delay all messages that follow: in Jaeger, the broker would look slow. Work
	// that the callback only starts would be lost if the worker dies. So the callback, in connection.go, passes the
	// message to this loop, which acknowledges it after the work.
	var underWay sync.WaitGroup
	slots := make(chan struct{}, 100)
	for ctx.Err() == nil {
		select {
		case received := <-conn.received:
			slots <- struct{}{}
			underWay.Go(func() {
				conn.process(received.Packet, handle)
				conn.acknowledge(received)
				<-slots
			})
		case <-ctx.Done():
		}
	}
	close(conn.stopped)
	underWay.Wait()
	return conn.Close()
}

// process is the other end of Publish. Extract takes the trace context and the baggage from the properties. If they
// are missing or invalid, the span starts a new trace.
func (c *Conn) process(message *paho.Publish, handle Handler) {
	ctx := otel.GetTextMapPropagator().Extract(context.Background(), carrier{message.Properties})
	deliveries := 1
	if message.Duplicate() {
		deliveries = 2
	}
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer),
		c.attributes("process", semconv.MessagingOperationTypeProcess, message),
		// MQTT doesn't count deliveries: a flag says that this isn't the first one, so 2 is 2 or more. The attribute's
		// name is our own.
		trace.WithAttributes(attribute.Int("work.delivery_count", deliveries)),
		// The producer's span is the parent, and there is a link to it too, as the conventions ask.
		trace.WithLinks(trace.LinkFromContext(ctx))}
	// The broker sets this flag when it delivers an old message to a new subscriber. As a child, each subscriber's
	// span would join a trace that ended long ago. So it starts a new trace, and its link leads to the producer.
	if message.Retain {
		options = append(options, trace.WithNewRoot())
	}
	ctx, span := tracer.Start(ctx, "process "+template, options...)
	defer span.End()
	// MQTT can't reject a message, so it is acknowledged. To retry, publish it to another topic, with its properties.
	if err := run(ctx, message.Payload, handle); err != nil {
		slog.ErrorContext(ctx, "give up message", "deliveries", deliveries, "error", pkg.Fail(span, err))
	}
}

// Next: brokers/README.md, how to add this to your own program.
