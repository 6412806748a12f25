// Package kafka is the lesson of pkg/broker.go for Kafka, with the client franz-go.
//
// Look in OpenTelemetry's registry before you write anything: franz-go has its own instrumentation, kotel. It makes the
// spans `work publish` and `work receive`, and it injects and extracts. This file adds what kotel leaves to you: a span
// for the work itself, links, and the type of an error. Its tests show what is missing without them.
package kafka

import (
	"context"
	"fmt"
	"log/slog"
	"unicode/utf8"

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

// errorType is a hook that adds error.type to the span of a failed publish. kotel only sets the status.
type errorType struct{}

func (errorType) OnProduceRecordUnbuffered(record *kgo.Record, err error) {
	if err != nil {
		trace.SpanFromContext(record.Context).SetAttributes(semconv.ErrorType(err))
	}
}

// Publish sends a task, and returns nil once Kafka has it. You see no tracing here: kotel starts its span from ctx,
// injects the context into the record's headers, and ends the span when Kafka has confirmed the record.
func Publish(ctx context.Context, client *kgo.Client, task string) error {
	record := &kgo.Record{Topic: topic, Value: []byte(task)}
	// Produce, without Sync, returns before Kafka has the record. In both cases, kotel's span ends once Kafka has it.
	if err := client.ProduceSync(ctx, record).FirstErr(); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

// Consumer returns the options of a client that receives. They turn off automatic commits: poll, below, commits a
// record only after the work is done. So if a worker dies, another one gets its uncommitted records, and the spans of
// that one link to the same producers.
func Consumer() []kgo.Opt {
	return []kgo.Opt{kgo.ConsumeTopics(topic), kgo.ConsumerGroup(group), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}
}

// Handler works on one task. The span `process work` is in ctx, and an error makes that span an error.
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
// click the span and open "Links". A span for each record, as above, costs more and tells more. Use one for all
// only if the work is done for all at once, such as a bulk insert.
func ReceiveBatch(ctx context.Context, client *kgo.Client, handle func(context.Context, []*kgo.Record) error) error {
	return poll(ctx, client, 100, func(records []*kgo.Record) {
		process(context.Background(), records, func(ctx context.Context) error { return handle(ctx, records) })
	})
}

// process makes one span for one or more records. Kafka has no way to reject a record: after an error the next one
// follows, and only the span shows it. To retry, produce the record to another topic, with its headers.
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
			semconv.ServicePeerName("kafka"))) // puts Kafka on Zipkin's map
	defer span.End()
	if len(records) == 1 {
		span.SetAttributes(details...)
	} else {
		span.SetAttributes(semconv.MessagingBatchMessageCount(len(records)))
	}
	// A panic becomes an error, and an event with the stack. It must not stop the work on the next records. A span that
	// merely ends during a panic isn't an error.
	defer func() {
		if reason := recover(); reason != nil {
			err := pkg.Error{Type: "panic", Text: fmt.Sprint("panic: ", reason)}
			span.RecordError(err, trace.WithStackTrace(true))
			slog.ErrorContext(ctx, "process record", "error", pkg.Fail(span, err))
		}
	}()
	if err := handle(ctx); err != nil {
		slog.ErrorContext(ctx, "process record", "error", pkg.Fail(span, err))
	}
}

// poll waits for up to limit records, passes them to process, and commits them, even if ctx is canceled by then.
func poll(ctx context.Context, client *kgo.Client, limit int, process func([]*kgo.Record)) error {
	fetches := client.PollRecords(ctx, limit)
	if records := fetches.Records(); len(records) > 0 {
		process(records)
		if err := client.CommitRecords(context.WithoutCancel(ctx), records...); err != nil {
			return fmt.Errorf("commit: %w", err)
		}
	}
	if err := fetches.Err(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("poll: %w", err)
	}
	return nil
}

// You have seen what kotel does, and what it leaves to you. Next: brokers/README.md, how to add this to your own
// program.
