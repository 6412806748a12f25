// Package pkg is what the three programs share: the set-up of tracing, and a broker that carries the trace context.
package pkg

// This is file 6 of 6: the set-up that all three programs share. The code that you have read so far only names a
// tracer; what becomes of its spans is decided here, once per program. The path of a span is
//
//	tracer -> batcher (a queue in this process) -> exporter (OTLP over gRPC) -> agent -> collector -> Jaeger, Zipkin
//
// This file needs none of the others, so you can copy it alone.

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

// outage is how long the agent may be unreachable before spans are lost.
const outage = 2 * time.Minute

// version is what the resource attribute service.version says. The Dockerfile sets it, by the linker's option -X.
var version string

// NewSpanProcessor makes the batcher, which passes spans to the exporter. [sdktrace.NewBatchSpanProcessor] is one.
type NewSpanProcessor func(sdktrace.SpanExporter, ...sdktrace.BatchSpanProcessorOption) sdktrace.SpanProcessor

// StartTracing sets the global tracer provider and the global propagator for the service of this name. The demo passes
// NewBatcher and Diagnose (pkg/batcher.go), which count the spans that are lost and say why. Call shutdown last: it
// exports the spans that still wait, for up to 4 s, and logs what went wrong. Spans missing? See docs/missing-spans.md.
//
// The SDK reads OpenTelemetry's standard variables by itself, such as OTEL_SERVICE_NAME and OTEL_TRACES_SAMPLER. An
// option in code would override its variable, so here one is set only where its variable is not.
func StartTracing(ctx context.Context, name string, newProcessor NewSpanProcessor,
	interceptors ...grpc.UnaryClientInterceptor) (shutdown func(), err error) {
	// The SDK reports errors here, such as an agent that is unreachable. One line in 10 s is enough to know.
	report := rate.Sometimes{Interval: 10 * time.Second}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		report.Do(func() { slog.Warn("OpenTelemetry", "error", err) })
	}))

	// The propagator writes the trace context into headers and reads it from them, for otelhttp and for the broker
	// alike. OTEL_PROPAGATORS chooses its formats; the W3C's are the default. Without this line there is no
	// propagator, and each program starts traces of its own.
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
	// A value may be untrusted, and long. The agent refuses a batch of more than 4 MiB, so long values are cut off.
	limits := sdktrace.NewSpanLimits() // of OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT, or -1, which is no limit
	if limits.AttributeValueLengthLimit < 0 {
		limits.AttributeValueLengthLimit = 1000
	}
	// The provider decides where the spans of all tracers go. There is no sampler here, as it would override
	// OTEL_TRACES_SAMPLER; the default records every trace, unless the caller has decided not to.
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(newProcessor(exporter, batcherOptions()...)),
		sdktrace.WithResource(service), sdktrace.WithRawSpanLimits(limits))
	otel.SetTracerProvider(provider)
	return func() {
		// Why a new context? The program's own is done by now, and with that one nothing would be exported.
		ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			slog.Warn("stop tracing", "error", err)
		}
	}, nil
}

// newExporter returns what sends batches of spans to the agent. It outlives an outage of two minutes: by default the
// exporter gives up on a batch after 10 s, and gRPC waits up to two minutes before it connects again.
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

// batcherOptions say when the batcher exports, and how much waits. It exports once a second, so that you needn't wait
// for your trace. Its queue must hold what the program makes while the agent is unreachable: the server makes 4 spans a
// request, so 8192 are enough for 200 s at 10 requests a second, or for 20 s at 100. What doesn't fit is dropped.
func batcherOptions() []sdktrace.BatchSpanProcessorOption {
	return slices.Concat(
		unless(sdktrace.WithBatchTimeout(time.Second), "OTEL_BSP_SCHEDULE_DELAY"),
		unless(sdktrace.WithExportTimeout(outage), "OTEL_BSP_EXPORT_TIMEOUT"),
		unless(sdktrace.WithMaxQueueSize(8192), "OTEL_BSP_MAX_QUEUE_SIZE"))
}

// unless returns an option, unless one of these environment variables has a value.
func unless[Option any](option Option, variables ...string) []Option {
	if slices.ContainsFunc(variables, func(name string) bool { return os.Getenv(name) != "" }) {
		return nil
	}
	return []Option{option}
}

// newResource describes who makes the spans. In Jaeger, open a span and then "Process".
func newResource(ctx context.Context, name string) (*resource.Resource, error) {
	built := version
	if build, ok := debug.ReadBuildInfo(); ok {
		built = cmp.Or(version, build.Main.Version) // the git tag or commit, or (devel) where Go didn't know it
	}
	return resource.New(ctx,
		resource.WithService(), // an id for each process, which tells two of one service apart
		resource.WithTelemetrySDK(),
		resource.WithAttributes(semconv.ServiceName(name), semconv.ServiceVersion(built)),
		resource.WithFromEnv()) // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES: the last one wins
}

// Fail makes span an error, and returns err. Backends show the status in red. The attribute error.type has few values,
// so that you can count failures by it: the type of err, or what its method ErrorType returns. RecordError would add an
// event, and leave the status as it was; OpenTelemetry advises against it now:
// https://opentelemetry.io/docs/specs/semconv/general/recording-errors/
func Fail(span trace.Span, err error) error {
	span.SetStatus(codes.Error, err.Error())
	span.SetAttributes(semconv.ErrorType(err))
	return err
}

// That was all. Now follow one span through otel-agent-config.yaml and otel-collector-config.yaml to the backends.
