// Package pkg is what the three programs share: the setup of tracing, and a broker that carries the trace context.
package pkg

// This is file 6 of 6: the setup that all three programs share. The code you have read so far only makes spans. This
// file decides, once per program, where they go. The path of a span is
//
//	tracer -> batcher (a queue in this process) -> exporter (OTLP over gRPC) -> agent -> collector -> Jaeger, Zipkin
//
// This file uses none of the others, so it also works on its own.

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/propagators/autoprop"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// outage is how long the agent may be unreachable: until then, spans are kept and retried.
const outage = 2 * time.Minute

// version is what Jaeger shows as service.version, under "Process". The Dockerfile sets it with the linker's option -X.
var version string

// NewSpanProcessor is a function that makes a batcher, such as [sdktrace.NewBatchSpanProcessor]. A batcher queues spans
// and passes them to an exporter.
type NewSpanProcessor func(sdktrace.SpanExporter, ...sdktrace.BatchSpanProcessorOption) sdktrace.SpanProcessor

// StartTracing sets up tracing for the service called name: a global tracer provider, which takes the spans of all
// tracers, and a global propagator. The demo passes NewBatcher and Diagnose (pkg/batcher.go), which count the spans
// that are lost and log why. Call shutdown last: it exports the remaining spans, for up to 4 s, and logs what went
// wrong. Spans missing? See docs/missing-spans.md.
//
// The SDK reads OpenTelemetry's standard variables, such as OTEL_SERVICE_NAME and OTEL_TRACES_SAMPLER. An option in
// code would override its variable, so this file sets an option only if the variable is not set.
func StartTracing(ctx context.Context, name string, newProcessor NewSpanProcessor,
	interceptors ...grpc.UnaryClientInterceptor) (shutdown func(), err error) {
	// The SDK reports errors here, such as an unreachable agent. One line every 10 s is enough.
	report := rate.Sometimes{Interval: 10 * time.Second}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		report.Do(func() { slog.Warn("OpenTelemetry", "error", err) })
	}))

	// The propagator writes the trace context into headers and reads it from them, for otelhttp and the broker alike.
	// OTEL_PROPAGATORS chooses its formats. The default is the W3C's. Go has no propagator unless you set one.
	otel.SetTextMapPropagator(autoprop.NewTextMapPropagator())
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") { // the SDK for Go doesn't read this one
		return func() {}, nil // the default tracer provider makes spans that do nothing
	}

	service, err := newResource(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("describe the service: %w", err)
	}
	exporter, err := newExporter(ctx, interceptors)
	if err != nil {
		return nil, fmt.Errorf("start exporter: %w", err)
	}
	// Attribute values may be untrusted and long, and the agent refuses a batch of more than 4 MiB. So cut long values
	// off.
	limits := sdktrace.NewSpanLimits() // from OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT, or else -1: no limit
	if limits.AttributeValueLengthLimit < 0 {
		limits.AttributeValueLengthLimit = 1000
	}
	// A sampler would decide which traces are recorded. None is set here, because it would override
	// OTEL_TRACES_SAMPLER. By default, every trace is recorded unless its headers say otherwise.
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(newProcessor(exporter, batcherOptions()...)),
		sdktrace.WithResource(service), sdktrace.WithRawSpanLimits(limits))
	otel.SetTracerProvider(provider)
	return func() {
		// Why a new context? The program's own is canceled by now, so nothing would be exported with it.
		ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			slog.Warn("stop tracing", "error", err)
		}
	}, nil
}

// newExporter returns an exporter that sends batches of spans to the agent and survives an outage of two minutes. By
// default an exporter gives up on a batch after 10 s, and gRPC waits up to two minutes before it reconnects.
func newExporter(ctx context.Context, interceptors []grpc.UnaryClientInterceptor) (sdktrace.SpanExporter, error) {
	redial := grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: 5 * time.Second}
	redial.Backoff.MaxDelay = 3 * time.Second
	return otlptracegrpc.New(ctx, append(slices.Concat(
		unless(otlptracegrpc.WithEndpointURL("http://localhost:4317"), // http is without TLS
			"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
		unless(otlptracegrpc.WithTimeout(outage), "OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT")),
		otlptracegrpc.WithDialOption(grpc.WithConnectParams(redial), grpc.WithChainUnaryInterceptor(interceptors...)),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{
			Enabled: true, InitialInterval: time.Second, MaxInterval: 5 * time.Second, MaxElapsedTime: outage}))...)
}

// batcherOptions say how often the batcher exports, and how many spans it queues. It exports once a second, so you see
// your trace soon. Its queue must hold the spans that are made while the agent is unreachable. The server makes 4 spans
// per request: 8192 spans last 200 s at 10 requests a second, and 20 s at 100. Spans that don't fit are dropped.
func batcherOptions() []sdktrace.BatchSpanProcessorOption {
	return slices.Concat(
		unless(sdktrace.WithBatchTimeout(time.Second), "OTEL_BSP_SCHEDULE_DELAY"),
		unless(sdktrace.WithExportTimeout(outage), "OTEL_BSP_EXPORT_TIMEOUT"),
		unless(sdktrace.WithMaxQueueSize(8192), "OTEL_BSP_MAX_QUEUE_SIZE"))
}

// unless returns the option, unless one of these environment variables has a value.
func unless[Option any](option Option, variables ...string) []Option {
	if slices.ContainsFunc(variables, func(name string) bool { return os.Getenv(name) != "" }) {
		return nil
	}
	return []Option{option}
}

// newResource describes the process that makes the spans. In Jaeger, open a span and click "Process".
func newResource(ctx context.Context, name string) (*resource.Resource, error) {
	built := version
	if build, ok := debug.ReadBuildInfo(); ok {
		built = cmp.Or(version, build.Main.Version) // the git tag or commit, or (devel) if Go doesn't know it
	}
	return resource.New(ctx,
		resource.WithService(), // an id for each process, which tells instances of a service apart
		resource.WithTelemetrySDK(),
		resource.WithAttributes(semconv.ServiceName(name), semconv.ServiceVersion(built)),
		resource.WithFromEnv()) // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override the above
}

// Fail marks span as an error, and returns err. Backends show it in red. The attribute error.type is the type of err,
// or what its method ErrorType returns. It has few values, so you can count failures by it. RecordError would add an
// event and leave the status unchanged. OpenTelemetry now advises against it:
// https://opentelemetry.io/docs/specs/semconv/general/recording-errors/
//
// Try it: replace `codes.Error` with `codes.Unset` and run `go run -C local . -once -shape`. `example error` isn't an
// error anymore: only the status makes it one.
func Fail(span trace.Span, err error) error {
	span.SetStatus(codes.Error, err.Error())
	span.SetAttributes(semconv.ErrorType(err))
	return err
}

// Error is an error with a value for the attribute error.type, which [Fail] sets.
type Error struct{ Type, Text string }

func (e Error) Error() string     { return e.Text }
func (e Error) ErrorType() string { return e.Type }

// That's all. Now follow one span through otel-agent-config.yaml and otel-collector-config.yaml to the backends.
