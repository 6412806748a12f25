package pkg

// This file is not one of the six. It wraps the SDK's batcher for production: it counts the spans that are lost, and
// cuts off what the SDK's limits leave unbounded.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxText is the longest status text and the longest value of an event's attribute, in bytes.
const maxText = 2048

// NewBatcher returns a [sdktrace.NewBatchSpanProcessor] that counts the spans that are lost: those that find the queue
// full, and those that the agent doesn't accept. [otel.Handle] gets an error with each loss and the count so far, and
// Shutdown returns one with the final count. A batch that the agent refuses as too large is exported in halves.
func NewBatcher(exporter sdktrace.SpanExporter, options ...sdktrace.BatchSpanProcessorOption) sdktrace.SpanProcessor {
	size, _ := strconv.Atoi(os.Getenv("OTEL_BSP_MAX_QUEUE_SIZE"))
	o := sdktrace.BatchSpanProcessorOptions{MaxQueueSize: cmp.Or(size, sdktrace.DefaultMaxQueueSize)}
	for _, option := range options {
		option(&o)
	}
	b := &batcher{capacity: int64(o.MaxQueueSize)}
	b.SpanProcessor = sdktrace.NewBatchSpanProcessor(batchExporter{exporter, b}, options...)
	return b
}

type batcher struct {
	sdktrace.SpanProcessor
	capacity                 int64
	recorded, exported, lost atomic.Int64
}

// OnEnd queues a span. It admits only as many as the SDK's queue can hold, so the SDK never drops one silently.
func (b *batcher) OnEnd(span sdktrace.ReadOnlySpan) {
	if !span.SpanContext().IsSampled() {
		return
	}
	if b.recorded.Add(1)-b.exported.Load()-b.lost.Load() > b.capacity {
		otel.Handle(b.lose(1, errors.New("the queue is full")))
		return
	}
	b.SpanProcessor.OnEnd(span)
}

// Shutdown exports what is queued until ctx is canceled. What is left then is lost.
func (b *batcher) Shutdown(ctx context.Context) error {
	err := b.SpanProcessor.Shutdown(ctx)
	if recorded, exported := b.recorded.Load(), b.exported.Load(); exported < recorded {
		why, _ := lastFailure.Load().(failure)
		return errors.Join(fmt.Errorf("%d of %d spans were lost", recorded-exported, recorded), err, why.error)
	}
	return err
}

func (b *batcher) lose(spans int, cause error) error {
	return fmt.Errorf("%d of %d spans were lost so far: %w", b.lost.Add(int64(spans)), b.recorded.Load(), cause)
}

type batchExporter struct {
	sdktrace.SpanExporter
	batcher *batcher
}

func (e batchExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	short := make([]sdktrace.ReadOnlySpan, len(spans))
	for i, span := range spans {
		short[i] = shortened{span}
	}
	return e.export(context.WithValue(ctx, started{}, time.Now()), short)
}

// export exports spans, in halves if the agent refuses them as too large. After a partial success, all count as lost.
func (e batchExporter) export(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	switch half := len(spans) / 2; {
	case err == nil:
		e.batcher.exported.Add(int64(len(spans)))
		return nil
	case status.Code(err) == codes.ResourceExhausted && half > 0:
		return errors.Join(e.export(ctx, spans[:half]), e.export(ctx, spans[half:]))
	}
	return e.batcher.lose(len(spans), err)
}

// shortened is a span whose status and events are bounded. The SDK's own limit applies only to the span's attributes.
type shortened struct{ sdktrace.ReadOnlySpan }

func (s shortened) Status() sdktrace.Status {
	status := s.ReadOnlySpan.Status()
	return sdktrace.Status{Code: status.Code, Description: shorten(status.Description)}
}

func (s shortened) Events() []sdktrace.Event {
	events := slices.Clone(s.ReadOnlySpan.Events())
	for i := range events {
		events[i].Attributes = slices.Clone(events[i].Attributes)
		for j, a := range events[i].Attributes {
			if text := a.Value.String(); len(text) > maxText {
				events[i].Attributes[j].Value = attribute.StringValue(shorten(text))
			}
		}
	}
	return events
}

func shorten(text string) string { return strings.ToValidUTF8(text[:min(len(text), maxText)], "") }

var likely = strings.NewReplacer( // the causes that gRPC's errors only hint at
	"produced zero addresses", "no such host",
	"first record does not look like a TLS handshake", "https in the endpoint, and plaintext at the other end",
	"server preface: EOF", "server preface: EOF: http in the endpoint, and perhaps TLS at the other end",
	"frame header looked like an HTTP/1.1 header", "other end speaks HTTP: want gRPC's port, often 4317, not 4318")

type failure struct{ error }

var lastFailure atomic.Value // the failure of the last attempt to export, without an error if it succeeded

type started struct{} // the key of the time when an export began

// Diagnose wraps each attempt to export. The exporter returns an error only when it gives up, after 2 minutes. So after
// 5 s, failed attempts go to [otel.Handle], with the endpoint and, where known, the likely cause.
func Diagnose(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, attempt grpc.UnaryInvoker,
	options ...grpc.CallOption) error {
	err := attempt(ctx, method, request, reply, conn, options...)
	lastFailure.Store(failure{})
	if err != nil {
		err := fmt.Errorf("export to %s: %s", conn.Target(), likely.Replace(err.Error()))
		lastFailure.Store(failure{err})
		if start, _ := ctx.Value(started{}).(time.Time); time.Since(start) > 5*time.Second {
			otel.Handle(err)
		}
	}
	return err
}
