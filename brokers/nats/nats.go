// Package nats is the lesson of pkg/broker.go for NATS.
//
// NATS messages have headers, so you need no envelope. Inject, Extract and the two spans stay the same. Four
// things are different, and nats_test.go shows what happens if you miss one: header names are case-sensitive, a
// message may have no headers to write to, Publish only fills a buffer, and callbacks wait for one another.
package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"otel-demo/pkg"
)

const (
	subject = "work"
	group   = "workers" // a queue group: NATS gives each message to one of its members
)

var tracer = otel.Tracer("otel-demo/brokers/nats")

// carrier lets a propagator write the headers of a message and read them. Why not propagation.HeaderCarrier, which
// fits the type? It is made for HTTP, where case doesn't matter. It would write Traceparent, which a worker in another
// language wouldn't find, and it wouldn't find the traceparent that the other program sends.
type carrier nats.Header

// Keys is for propagators that look for a prefix, such as ottrace. The W3C's only get and set.
func (c carrier) Get(key string) string { return nats.Header(c).Get(key) }
func (c carrier) Set(key, value string) { nats.Header(c).Set(key, value) }
func (c carrier) Keys() []string        { return slices.Collect(maps.Keys(c)) }

// attributes describe a message, following OpenTelemetry's messaging conventions. Their list of systems lacks "nats",
// but they allow other values.
func attributes(conn *nats.Conn, operation string, kind attribute.KeyValue, body []byte) trace.SpanStartEventOption {
	return trace.WithAttributes(
		semconv.MessagingSystemKey.String("nats"),
		semconv.MessagingDestinationName(subject),
		semconv.MessagingOperationName(operation),
		kind,
		semconv.MessagingMessageBodySize(len(body)),
		semconv.ServerAddress(host(conn)),
		semconv.ServicePeerName("nats"), // not one of the conventions for messaging: it puts NATS on Zipkin's map
	)
}

// Publish sends a task to one of the workers. It returns nil once the NATS server has the message. If no worker
// listens, the server drops it silently: in Jaeger, the trace then ends with `publish work`.
func Publish(ctx context.Context, conn *nats.Conn, task string) error {
	message := nats.NewMsg(subject) // in &nats.Msg{} the headers are nil, and Inject would panic
	message.Data = []byte(task)
	ctx, span := tracer.Start(ctx, "publish "+subject, trace.WithSpanKind(trace.SpanKindProducer),
		attributes(conn, "publish", semconv.MessagingOperationTypeSend, message.Data))
	defer span.End()
	// Use the ctx that Start returned. With the caller's, the worker's span would be a child of the span around this
	// one, and the link would lead there too.
	otel.GetTextMapPropagator().Inject(ctx, carrier(message.Header))

	if err := conn.PublishMsg(message); err != nil {
		return pkg.Fail(span, fmt.Errorf("publish: %w", err))
	}
	// PublishMsg only fills a buffer, and returns nil even while the server is unreachable. Flush waits until the
	// server has it all. Without it, the span would be short and without an error, even if the message is lost. It
	// costs a round trip: if you publish a lot, flush once for many messages, in a span around them.
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := conn.FlushWithContext(ctx); err != nil {
		return pkg.Fail(span, fmt.Errorf("flush: %w", err))
	}
	return nil
}

// Handler works on one task. The span `process work` is in ctx, and an error marks that span as failed.
type Handler func(ctx context.Context, task string) error

// Receive passes each message to handle, up to 100 at once, until ctx is canceled. Then it finishes what has arrived.
// There is no span for the receiving, since NATS pushes messages, and none for an acknowledgment, since there is none.
func Receive(ctx context.Context, conn *nats.Conn, handle Handler) error {
	// The usual way is a callback. NATS calls it for one message at a time, so a slow handler delays all messages
	// that follow: in Jaeger you see a gap before `process work`, as if the broker were slow. This loop has no gap.
	subscription, err := conn.QueueSubscribeSync(subject, group)
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	// Drain asks the server for no more messages, and the loop ends after those that have arrived. Close or
	// Unsubscribe would drop them.
	defer context.AfterFunc(ctx, func() { subscription.Drain() })()
	var underWay sync.WaitGroup
	defer underWay.Wait()
	slots := make(chan struct{}, 100)
	for {
		message, err := subscription.NextMsgWithContext(context.Background())
		if errors.Is(err, nats.ErrSlowConsumer) {
			reportDropped(conn, subscription)
			continue
		}
		if err != nil && ctx.Err() != nil {
			return nil
		} else if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		slots <- struct{}{}
		underWay.Go(func() {
			process(conn, message, handle)
			<-slots
		})
	}
}

// process is the other end of Publish. Extract takes the trace context and the baggage from the headers. If they are
// missing or invalid, the span starts a new trace: a message without a context is still a message. The context is not
// Receive's, which SIGTERM cancels: received messages are finished.
func process(conn *nats.Conn, message *nats.Msg, handle Handler) {
	ctx := otel.GetTextMapPropagator().Extract(context.Background(), carrier(message.Header))
	ctx, span := tracer.Start(ctx, "process "+subject, trace.WithSpanKind(trace.SpanKindConsumer),
		attributes(conn, "process", semconv.MessagingOperationTypeProcess, message.Data),
		trace.WithAttributes(semconv.MessagingConsumerGroupName(group), attribute.Int("work.delivery_count", 1)),
		// The producer's span is the parent, and there is a link to it too, as the conventions ask. If you make this
		// span the root of a new trace (trace.WithNewRoot), the link still leads to the producer.
		trace.WithLinks(trace.LinkFromContext(ctx)))
	defer span.End()
	// NATS delivers a message once. If the work fails, the message is gone: only this span and this line show it.
	if err := run(ctx, message.Data, handle); err != nil {
		slog.ErrorContext(ctx, "give up message", "deliveries", 1, "error", pkg.Fail(span, err))
	}
}

// reportDropped shows that the client has dropped messages because its queue was full. It has dropped their headers
// too, so this span can't link to the producers.
func reportDropped(conn *nats.Conn, subscription *nats.Subscription) {
	ctx, span := tracer.Start(context.Background(), "receive "+subject, trace.WithSpanKind(trace.SpanKindClient),
		attributes(conn, "receive", semconv.MessagingOperationTypeReceive, nil))
	defer span.End()
	dropped, _ := subscription.Dropped()
	err := pkg.Fail(span, pkg.Error{Type: "slow_consumer", Text: "the client's queue was full"})
	slog.ErrorContext(ctx, "give up messages", "deliveries", 1, "so far", dropped, "error", err)
}

// What about JetStream? It stores messages, and redelivers those that aren't acknowledged in time. The headers stay the
// same, so the second delivery's span links to the same producer. Acknowledge inside process, after handle, and put
// Metadata().NumDelivered on the span to see which delivery it was. After MaxDeliver deliveries it stops silently: mark
// the last one as above, or subscribe to $JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>.

// Next: brokers/README.md, how to add this to your own program.
