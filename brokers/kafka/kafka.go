// Package kafka is the lesson of pkg/broker.go for Kafka, with the client franz-go.
//
// Look in OpenTelemetry's registry before you write anything: franz-go has its own instrumentation, kotel. It creates
// the spans `work publish` and `work receive`, and it injects and extracts. This file adds what kotel leaves to you: a
// span for the work itself, links, and the type of an error. Its tests show what is missing without them. There is no
// span for a commit: you commit a position, which says nothing about one record. The group is in group.go.
package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/plugin/kotel"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"otel-demo/pkg"
)

// Each record of the topic goes to one member of the consumer group.
const topic, group = "work", "workers"

var tracer = otel.Tracer("otel-demo/brokers/kafka")

// Traced returns the option that turns on tracing for a client. kotel follows an old version of the messaging
// conventions: its spans are named `work publish`, not `publish work`, and some of its attributes have old names.
func Traced() kgo.Opt {
	// Hooks run in this order. kotel's must be last, because it ends the span.
	return kgo.WithHooks(errorType{}, kotel.NewTracer(kotel.ConsumerGroup(group)))
}

// Producer returns the options of a client that publishes. By default, a record that has been sent waits for Kafka's
// response without a limit, whatever ctx says: if Kafka goes silent, Publish doesn't return, and its span isn't
// exported. With the option, the deadline of ctx counts. The price is that a record whose span has failed may have
// arrived.
func Producer() []kgo.Opt { return []kgo.Opt{kgo.AllowIdempotentProduceCancellation(), Traced()} }

// errorType is a hook that adds error.type to the span of a failed publish. kotel only sets the status.
type errorType struct{}

func (errorType) OnProduceRecordUnbuffered(record *kgo.Record, err error) {
	if err == nil {
		return
	}
	name := semconv.ErrorType(err)
	if refused, ok := errors.AsType[*kerr.Error](err); ok { // all of Kafka's errors have the same type in Go
		name = semconv.ErrorTypeKey.String(refused.Message) // such as MESSAGE_TOO_LARGE
	}
	trace.SpanFromContext(record.Context).SetAttributes(name)
}

// Publish sends a task, and returns nil once Kafka has it. You see no tracing here: kotel starts its span from ctx,
// injects the context into the record's headers, and ends the span when Kafka has confirmed the record.
func Publish(ctx context.Context, client *kgo.Client, task string) error {
	record := &kgo.Record{Topic: topic, Value: []byte(task)}
	// Produce, without Sync, returns before Kafka has the record. In both cases, kotel's span ends once Kafka has it.
	err := client.ProduceSync(ctx, record).FirstErr()
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return fmt.Errorf("publish: create the topic %q first: %w", topic, err)
	} else if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

// Handler works on one task. The span `process work` is in ctx, and an error marks that span as failed.
type Handler func(ctx context.Context, task string) error

// Receive passes each record to handle, one at a time, until ctx is canceled. Then it finishes what it has polled, and
// commits it. If it died instead, the next worker would get these records again, even the processed ones: you commit a
// position, not a record. In Jaeger, such a record has two `process work` spans with the same offset.
func Receive(ctx context.Context, client *kgo.Client, handle Handler) error {
	for ctx.Err() == nil {
		err := poll(ctx, client, 10, func(records []*kgo.Record) {
			for _, record := range records {
				// kotel has put its `work receive` span into the record's context, as the parent of the next one. It
				// covers the time from the fetch to the poll, and has already ended. Your work is not in it.
				process(record.Context, []*kgo.Record{record}, func(ctx context.Context) error {
					if !utf8.Valid(record.Value) {
						return pkg.Error{Type: "decode", Text: "want UTF-8"}
					}
					return handle(ctx, string(record.Value))
				})
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ReceiveBatch polls once, and passes up to 100 records to handle, in one span. Each record comes from a different
// trace, and a span has only one parent. So this span starts a new trace and has a link to each producer: in Jaeger,
// click the span and open "Links". Why 100? By default, LinkCountLimit is 128: a span drops the links beyond it
// silently. A span for each record, as above, costs more and tells more. Use one for all only if the work is done for
// all at once, such as a bulk insert.
func ReceiveBatch(ctx context.Context, client *kgo.Client, handle func(context.Context, []*kgo.Record) error) error {
	return poll(ctx, client, 100, func(records []*kgo.Record) {
		process(context.Background(), records, func(ctx context.Context) error { return handle(ctx, records) })
	})
}

// process creates one span for one or more records. Kafka has no way to reject a record: after an error the next one
// follows, and only the span and a line in the log show it. To retry, produce the record to another topic, with its
// headers.
func process(ctx context.Context, records []*kgo.Record, handle func(context.Context) error) {
	var links []trace.Link
	var details []attribute.KeyValue
	for _, record := range records {
		// The headers still hold what the producer injected. They are a list of keys and byte values, in which a key
		// can occur twice: kotel's carrier reads the first one. So never append a traceparent. Set replaces it.
		ctx := otel.GetTextMapPropagator().Extract(context.Background(), kotel.NewRecordCarrier(record))
		details = []attribute.KeyValue{
			semconv.MessagingDestinationPartitionID(fmt.Sprint(record.Partition)),
			semconv.MessagingKafkaOffset(int(record.Offset))}
		if link := trace.LinkFromContext(ctx, details...); link.SpanContext.IsValid() {
			links = append(links, link) // without this check, a record without headers would link to nowhere
		}
	}
	// Names and values follow the messaging conventions. An attribute of one message belongs on its link, and on the
	// span only if there is just one message.
	ctx, span := tracer.Start(ctx, "process "+topic, trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithLinks(links...), trace.WithAttributes(
			semconv.MessagingSystemKafka,
			semconv.MessagingDestinationName(topic),
			semconv.MessagingConsumerGroupName(group),
			semconv.MessagingOperationName("process"),
			semconv.MessagingOperationTypeProcess,
			// Kafka doesn't count deliveries. This worker attempts each record once. The name is our own.
			attribute.Int("work.delivery_count", 1),
			// Not one of the messaging conventions: it puts Kafka on Zipkin's map. They do have server.address, but a
			// record doesn't say which of the brokers it comes from.
			semconv.ServicePeerName("kafka")))
	defer span.End()
	if len(records) == 1 {
		span.SetAttributes(details...)
	} else {
		span.SetAttributes(semconv.MessagingBatchMessageCount(len(records)))
	}
	if err := pkg.CatchPanic(ctx, func() error { return handle(ctx) }); err != nil {
		slog.ErrorContext(ctx, "give up records", "count", len(records), "deliveries", 1, "error", pkg.Fail(span, err))
	}
}

// You have seen what kotel does, and what it leaves to you. Next: brokers/README.md, how to add this to your own
// program.
