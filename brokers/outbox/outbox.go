// Package outbox is the lesson of pkg/broker.go for the outbox pattern.
//
// An order and its message must both be stored, or neither. So one transaction writes both to the database, the
// message as a row of the table outbox, and a relay publishes the row later. Many traces end here, because a row has
// no headers unless you give it columns for them. The SQL is in store.go. outbox_test.go shows what happens if you
// miss something.
package outbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"otel-demo/brokers/outage"
	"otel-demo/pkg"
)

// The relay publishes to NATS (see send.go), and the worker is the one of the lesson for NATS.
const system, destination = "nats", "work"

var tracer = otel.Tracer("otel-demo/brokers/outbox")

// row is a row of the table outbox. Its columns traceparent, tracestate and baggage are the carrier. Why not trace_id
// and span_id? The end of a traceparent, the sampled flag, says that the trace is recorded. Without it, the relay's
// and the worker's spans wouldn't be. If OTEL_PROPAGATORS names other formats, add columns for their keys.
type row struct {
	id, task     string
	carrier      propagation.MapCarrier
	created      time.Time
	publications int // how often the relay has begun to publish it, this time included
}

// attributes describe a message by OpenTelemetry's messaging conventions.
func attributes(operation string, kind attribute.KeyValue, r row) trace.SpanStartEventOption {
	return trace.WithAttributes(
		semconv.MessagingSystemKey.String(system),
		semconv.MessagingDestinationName(destination),
		semconv.MessagingOperationName(operation),
		kind,
		semconv.MessagingMessageID(r.id),
		semconv.MessagingMessageBodySize(len(r.task)),
	)
}

// PlaceOrder stores an order and its message in one transaction. Its span ends with the transaction. If you kept it
// open until the message is published, it would be exported only then, and never if this program stopped first. For
// spans of the statements, add an instrumentation library, such as https://github.com/XSAM/otelsql.
func PlaceOrder(ctx context.Context, store *Store, task string) error {
	r := row{id: rand.Text(), task: task, carrier: propagation.MapCarrier{}, created: time.Now()}
	ctx, span := tracer.Start(ctx, "create "+destination, trace.WithSpanKind(trace.SpanKindProducer),
		attributes("create", semconv.MessagingOperationTypeCreate, r))
	defer span.End()
	// Use the ctx that Start returned. With the caller's, the relay's span would be a child of the span around this
	// one, and the link would lead there too.
	otel.GetTextMapPropagator().Inject(ctx, r.carrier)
	// Baggage has up to 8192 bytes. If its column is too short, PostgreSQL refuses the row, and the order with it.
	// SQLite ignores the length, so tests on SQLite don't show that. Here, the columns have the type TEXT.
	if err := store.insert(ctx, r); err != nil {
		return pkg.Fail(span, fmt.Errorf("place order: %w", err))
	}
	return nil
}

// Relay publishes what is in the outbox.
type Relay struct {
	Store *Store
	// Send publishes a message with these headers, and returns once the broker has it. It starts no span. If it
	// returns an error that wraps ErrRefused, the relay gives up the message. After any other error, it tries again.
	Send func(ctx context.Context, headers map[string]string, task string) error
	// Lease is for how long a row belongs to the relay that took it: longer than Send takes. If the relay dies,
	// another one takes the row after that.
	Lease time.Duration
	// NewRoot starts a new trace for each publication, linked to the order's. By default, the trace continues. Choose
	// NewRoot if rows wait for hours. The sampler then decides again whether the new trace is recorded.
	NewRoot bool
}

// ErrRefused means that the broker will never accept a message, for example because it is too large.
var ErrRefused = pkg.Error{Type: "refused", Text: "the broker refuses the message"}

// Run publishes rows, oldest first, until ctx is canceled. There are no spans for its polls: most find nothing, and
// each would be its own trace.
func (r Relay) Run(ctx context.Context) error {
	down := outage.New("the database or the broker")
	for ctx.Err() == nil {
		next, ok, err := r.Store.take(r.Lease)
		if ok {
			err = r.publish(next)
		}
		if err != nil {
			down.Begin(err)
			down.Pause(ctx)
			continue
		}
		down.End()
		if !ok {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// publish publishes one row. The context comes from the row's columns. The loop above has a context too, but that one
// belongs to no order: with it, the order's trace would end at the database. If a relay dies after it has published a
// row and before it has deleted it, another relay publishes the row again. In Jaeger you see `publish work` twice,
// each with a link to the same `create work`.
func (r Relay) publish(row row) error {
	ctx := otel.GetTextMapPropagator().Extract(context.Background(), row.carrier)
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindProducer),
		attributes("publish", semconv.MessagingOperationTypeSend, row),
		trace.WithAttributes(
			semconv.ServicePeerName(system), // not for messaging: it puts the broker on Zipkin's map
			// The conventions have no names for these two. They are our own.
			attribute.Int("work.delivery_count", row.publications),
			attribute.Int64("work.waited_ms", time.Since(row.created).Milliseconds())),
		trace.WithLinks(trace.LinkFromContext(ctx))}
	if r.NewRoot {
		options = append(options, trace.WithNewRoot())
	}
	ctx, span := tracer.Start(ctx, "publish "+destination, options...)
	defer span.End()
	// The worker's parent is this span. If the relay sent the columns on unchanged, it would be `create work`, and
	// you couldn't tell which of two publications the worker received.
	headers := propagation.MapCarrier{}
	otel.GetTextMapPropagator().Inject(ctx, headers)
	return r.settle(ctx, row, span, r.Send(ctx, headers, row.task))
}

// settle deletes a row that was published. One that is given up stays in the table: its traceparent leads to the
// trace.
func (r Relay) settle(ctx context.Context, row row, span trace.Span, err error) error {
	if err == nil {
		if err = r.Store.remove(row); err != nil {
			slog.WarnContext(ctx, "published, but not deleted: it will be published again", "error", err)
		}
		return err
	}
	pkg.Fail(span, err)
	if errors.Is(err, ErrRefused) {
		slog.ErrorContext(ctx, "give up message", "deliveries", row.publications, "id", row.id, "error", err)
		return r.Store.giveUp(row, err)
	}
	return r.Store.release(row, err)
}

// Next: brokers/README.md, how to add this to your own program.
