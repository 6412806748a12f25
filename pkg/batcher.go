package pkg

// This file is not one of the six. It exports the spans that tracer.go gets, and is made for production: an outage of
// two minutes loses no span, a text that can't be encoded costs only itself, and spans that are lost are counted.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const patience = 5 * time.Second // how long an export may take before failed attempts are reported

// newProcessor returns a span processor that exports batches of spans. OTEL_TRACES_EXPORTER chooses: otlp, which is the
// default, console (standard output), or none.
func newProcessor(ctx context.Context) (sdktrace.SpanProcessor, error) {
	var exporter sdktrace.SpanExporter
	var err error
	switch name := strings.ToLower(os.Getenv("OTEL_TRACES_EXPORTER")); name {
	case "none":
		return sdktrace.NewBatchSpanProcessor(nil), nil
	case "console":
		exporter, err = stdouttrace.New()
	default:
		if name != "" && name != "otlp" {
			otel.Handle(fmt.Errorf("OTEL_TRACES_EXPORTER=%q isn't read: want otlp, console or none", name))
		}
		exporter, err = otlptrace.New(ctx, newClient())
	}
	if err != nil {
		return nil, err
	}
	return newBatcher(exporter), nil
}

// newClient returns a client for OTLP over gRPC or, if OTEL_EXPORTER_OTLP_PROTOCOL says so, over HTTP. The endpoint's
// scheme decides on TLS, as the specification wants it: http:// means none, whatever other variables say.
func newClient() otlptrace.Client {
	general, endpoint := os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
	protocol := cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL"))
	if strings.HasPrefix(strings.ToLower(protocol), "http/") {
		endpoint = cmp.Or(endpoint, strings.TrimSuffix(cmp.Or(general, "http://localhost:4318"), "/")+"/v1/traces")
		options := []otlptracehttp.Option{otlptracehttp.WithEndpointURL(endpoint), otlptracehttp.WithRetry(
			otlptracehttp.RetryConfig{Enabled: true, InitialInterval: time.Second, MaxInterval: time.Second,
				MaxElapsedTime: patience})}
		if strings.HasPrefix(endpoint, "http:") {
			options = append(options, otlptracehttp.WithTLSClientConfig(nil))
		}
		return client{otlptracehttp.NewClient(options...), endpoint}
	}
	endpoint = cmp.Or(endpoint, general, "http://localhost:4317")
	// By default, gRPC may wait two minutes before it reconnects, doesn't notice a connection that has gone silent, and
	// asks DNS for a service config, which takes long where DNS doesn't respond.
	redial := grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: 5 * time.Second}
	redial.Backoff.MaxDelay = 3 * time.Second
	options := []otlptracegrpc.Option{otlptracegrpc.WithEndpointURL(endpoint),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{}), // batchExporter retries
		otlptracegrpc.WithDialOption(grpc.WithConnectParams(redial), grpc.WithDisableServiceConfig(),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 5 * time.Second}))}
	if strings.HasPrefix(endpoint, "http:") {
		options = append(options, otlptracegrpc.WithTLSCredentials(insecure.NewCredentials()))
	}
	return client{otlptracegrpc.NewClient(options...), endpoint}
}

// client names the endpoint in its errors, truncates long texts, and replaces what isn't UTF-8. One text that isn't
// would cost the whole batch, which can't be encoded then.
type client struct {
	otlptrace.Client
	endpoint string
}

func (c client) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	for _, s := range spans {
		repair(s.ProtoReflect())
	}
	if err := c.Client.UploadTraces(ctx, spans); err != nil {
		return fmt.Errorf("export to %s: %w", strings.TrimPrefix(c.endpoint, "http://"), err)
	}
	return nil
}

// maxText is the longest text that is exported, in bytes. The SDK limits the values of a span's own attributes alone,
// to a number of characters.
var maxText = 4 * max(1024, sdktrace.NewSpanLimits().AttributeValueLengthLimit)

// repair changes all texts in a message: names, keys, values, and the status.
func repair(message protoreflect.Message) {
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.Kind() == protoreflect.StringKind && !field.IsList():
			text := strings.ToValidUTF8(value.String(), "\uFFFD")
			text = strings.ToValidUTF8(text[:min(len(text), maxText)], "") // without half a character at the end
			if text != value.String() {
				message.Set(field, protoreflect.ValueOfString(text))
			}
		case field.Message() != nil && field.IsList():
			for i := range value.List().Len() {
				repair(value.List().Get(i).Message())
			}
		case field.Message() != nil:
			repair(value.Message())
		}
		return true
	})
}

// newBatcher returns a [sdktrace.NewBatchSpanProcessor] that counts the spans that are lost: those that find the queue
// full, and those that the agent doesn't accept. [otel.Handle] gets an error with each loss and the count so far, and
// Shutdown returns one with the final count. A batch that is refused as too large is exported in halves.
func newBatcher(exporter sdktrace.SpanExporter) sdktrace.SpanProcessor {
	// It exports once a second, so you see your trace soon. Its queue must hold the spans of an outage. The server
	// produces 4 per request: 8192 spans last 200 s at 10 requests a second, and 20 s at 100.
	b := &batcher{capacity: setting("OTEL_BSP_MAX_QUEUE_SIZE", 1, 8192)}
	b.SpanProcessor = sdktrace.NewBatchSpanProcessor(batchExporter{exporter, b},
		sdktrace.WithMaxQueueSize(b.capacity+1), // one place is ForceFlush's
		sdktrace.WithBatchTimeout(time.Duration(setting("OTEL_BSP_SCHEDULE_DELAY", 1, 1000))*time.Millisecond),
		sdktrace.WithExportTimeout(time.Duration(setting("OTEL_BSP_EXPORT_TIMEOUT", 0, 120_000))*time.Millisecond))
	return b
}

// setting reads a number from an environment variable. It is at least least, and byDefault if there is no number.
func setting(variable string, least, byDefault int) int {
	number, err := strconv.Atoi(os.Getenv(variable))
	if err != nil {
		return byDefault
	}
	return max(number, least)
}

type batcher struct {
	sdktrace.SpanProcessor
	capacity                 int
	recorded, exported, lost atomic.Int64
	failure                  atomic.Value // the failure of the last attempt to export
	flushing                 sync.Mutex
}

type failure struct{ error }

// OnEnd queues a span. It admits only as many as the SDK's queue can hold, so the SDK never drops one silently.
func (b *batcher) OnEnd(span sdktrace.ReadOnlySpan) {
	if !span.SpanContext().IsSampled() {
		return
	}
	if b.recorded.Add(1)-b.exported.Load()-b.lost.Load() > int64(b.capacity) {
		otel.Handle(b.lose(1, errors.New("the queue is full")))
		return
	}
	b.SpanProcessor.OnEnd(span)
}

// ForceFlush exports what is queued, until ctx is canceled. Each flush takes a place in the SDK's queue, so only one
// runs at a time.
func (b *batcher) ForceFlush(ctx context.Context) error {
	flushed := make(chan error, 1)
	go func() {
		b.flushing.Lock()
		defer b.flushing.Unlock()
		flushed <- b.SpanProcessor.ForceFlush(context.WithoutCancel(ctx))
	}()
	select {
	case err := <-flushed:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Shutdown exports what is queued until ctx is canceled. What is left then is lost.
func (b *batcher) Shutdown(ctx context.Context) error {
	err := b.SpanProcessor.Shutdown(ctx)
	if recorded, exported := b.recorded.Load(), b.exported.Load(); exported < recorded {
		why, _ := b.failure.Load().(failure)
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

var (
	tooLarge = regexp.MustCompile(`(?i)larger than max|too large`)
	partial  = regexp.MustCompile(`OTLP partial success: .*\((-?\d+) spans rejected\)`)
)

// ExportSpans exports spans, in halves if they are refused as too large, and counts those that the agent accepts.
func (e batchExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.retry(ctx, spans)
	lost := 0
	if err != nil {
		if half := len(spans) / 2; half > 0 && tooLarge.MatchString(err.Error()) {
			return errors.Join(e.ExportSpans(ctx, spans[:half]), e.ExportSpans(ctx, spans[half:]))
		}
		lost = len(spans)
		if match := partial.FindStringSubmatch(err.Error()); match != nil { // 0 rejected: a warning
			rejected, _ := strconv.Atoi(match[1])
			lost = min(max(0, rejected), len(spans))
		}
	}
	e.batcher.exported.Add(int64(len(spans) - lost))
	if lost > 0 {
		err = e.batcher.lose(lost, err)
	}
	return err
}

// retry exports spans until that succeeds, retrying won't help, or ctx is canceled. Once that takes more than 5 s,
// [otel.Handle] gets each failed attempt.
func (e batchExporter) retry(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	for start := time.Now(); ; {
		err := e.SpanExporter.ExportSpans(ctx, spans)
		pause := retryAfter(err)
		if pause == 0 {
			e.batcher.failure.Store(failure{})
			return err
		}
		err = errors.New(likely.Replace(err.Error()))
		e.batcher.failure.Store(failure{err})
		if time.Since(start)+pause > patience {
			otel.Handle(err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

// retryAfter returns how long to wait before the next attempt to export, or 0 if there should be none. OTLP lists what
// is retried: https://opentelemetry.io/docs/specs/otlp/#failures.
func retryAfter(err error) time.Duration {
	if _, unreachable := errors.AsType[*url.Error](err); unreachable {
		return time.Second
	}
	if err != nil && strings.Contains(err.Error(), "retry-able") { // over HTTP, as the exporter calls it
		if strings.Contains(err.Error(), "would elapse") { // Retry-After, which isn't in err, is more than patience
			return 30 * time.Second
		}
		return time.Second
	}
	switch s := status.Convert(err); s.Code() {
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss:
		return time.Second
	case codes.ResourceExhausted:
		for _, detail := range s.Details() {
			if info, ok := detail.(*errdetails.RetryInfo); ok {
				return max(time.Second, info.GetRetryDelay().AsDuration())
			}
		}
	}
	return 0
}

var likely = strings.NewReplacer( // the causes that errors only hint at
	"produced zero addresses", "no such host",
	"first record does not look like a TLS handshake", "https in the endpoint, and plaintext at the other end",
	"server preface: EOF", "server preface: EOF: http in the endpoint, and perhaps TLS at the other end",
	"frame header looked like an HTTP/1.1 header", "other end speaks HTTP: want gRPC's port, often 4317, not 4318",
	"malformed HTTP response", "other end speaks gRPC: want HTTP's port, often 4318, not 4317: malformed HTTP response")
