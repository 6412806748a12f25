// Package pkg is what the three programs share: the set-up of tracing, and a broker that carries the trace context.
package pkg

// This is file 6 of 6: the set-up that all three programs share. The code that you have read so far only names a
// tracer; what becomes of its spans is decided here, once for each program. The way of a span is
//
//	tracer -> batcher (a queue in this process) -> exporter (OTLP over gRPC) -> agent -> collector -> Jaeger, Zipkin

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/propagators/autoprop"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// outage is how long the agent may be away before spans are lost.
const outage = 2 * time.Minute

// StartTracing sets the global tracer provider and the global propagator, and gives log lines their trace ids. Call
// shutdown last: it sends the spans that are still waiting, for 5 s at most, and logs it if some are lost. These
// variables of OpenTelemetry's are read, and an error names the one that can't be used:
//
//	OTEL_EXPORTER_OTLP_ENDPOINT  where the agent is (http://localhost:4317)
//	OTEL_SERVICE_NAME            the name of the service (the argument)
//	OTEL_RESOURCE_ATTRIBUTES     more about the service, as key=value,key=value
//	OTEL_PROPAGATORS             the formats of the headers (tracecontext,baggage)
//	OTEL_TRACES_SAMPLER(_ARG)    which traces to record (parentbased_always_on); read by the SDK
//	OTEL_SDK_DISABLED            true turns tracing off (false)
func StartTracing(ctx context.Context, name string) (shutdown func(), err error) {
	var env Env
	endpoint := env.URL("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317")
	disabled := env.OneOf("OTEL_SDK_DISABLED", "false", "true")
	propagator := read(&env, "OTEL_PROPAGATORS", "tracecontext,baggage",
		"some of tracecontext, baggage, b3, b3multi, jaeger, ottrace, xray, or none", newPropagator)
	service := read(&env, "OTEL_RESOURCE_ATTRIBUTES", "", "key=value,key=value",
		func(string) (*resource.Resource, error) { return newResource(ctx, name) })
	if env.Err != nil {
		return nil, env.Err
	}
	slog.SetDefault(slog.New(traced{slog.NewTextHandler(os.Stderr, nil)}))
	// The SDK reports errors here, such as an agent that is away. One line in 10 s is enough to know.
	report := rate.Sometimes{Interval: 10 * time.Second}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		report.Do(func() { slog.Warn("OpenTelemetry", "error", err) })
	}))

	// The propagator puts the trace context into headers and reads it from them, for otelhttp and for the broker
	// alike. Without this line the default is none, and each program would start traces of its own.
	otel.SetTextMapPropagator(propagator)
	if disabled == "true" {
		return func() {}, nil // the default tracer provider makes spans that do nothing
	}

	// While the agent is down nothing is lost for two minutes, unless the queue is full or this process ends. By
	// default the exporter gives up on a batch after 10 s, and gRPC waits up to two minutes before it connects again.
	reconnect := grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: 5 * time.Second}
	reconnect.Backoff.MaxDelay = 3 * time.Second
	exporter, err := otlptracegrpc.New(ctx,
		otlptracegrpc.WithEndpointURL(endpoint.String()), // http is without TLS, https with
		otlptracegrpc.WithTimeout(outage),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{
			Enabled: true, InitialInterval: time.Second, MaxInterval: 5 * time.Second, MaxElapsedTime: outage}),
		otlptracegrpc.WithDialOption(grpc.WithConnectParams(reconnect)))
	if err != nil {
		return nil, fmt.Errorf("start exporter: %w", err)
	}
	// The batcher sends what it has each second, so that you needn't wait for your trace. Meanwhile its queue must
	// hold what the program makes while the agent is away. The server makes 4 spans a request: 8192 are enough for
	// 200 s at 10 requests a second. What doesn't fit is dropped, and what is in the queue dies with the process.
	batcher := sdktrace.WithBatcher(exporter,
		sdktrace.WithBatchTimeout(time.Second), sdktrace.WithExportTimeout(outage), sdktrace.WithMaxQueueSize(8192))
	// A value may be a stranger's, and long. The agent refuses a batch of more than 4 MB, so long values are cut off.
	limits := sdktrace.NewSpanLimits() // of OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT, or -1, which is no limit
	if limits.AttributeValueLengthLimit < 0 {
		limits.AttributeValueLengthLimit = 1000
	}
	// The provider decides where the spans of all tracers go. A sampler in code would override OTEL_TRACES_SAMPLER.
	provider := sdktrace.NewTracerProvider(batcher, sdktrace.WithResource(service), sdktrace.WithRawSpanLimits(limits))
	otel.SetTracerProvider(provider)
	return func() {
		// Why a new context? The program's own is done by now, and with that one nothing would be sent.
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			slog.Warn("the last spans are lost, as the agent did not take them", "error", err)
		}
	}, nil
}

// newResource describes who makes the spans. In Jaeger, open a span and then "Process".
func newResource(ctx context.Context, name string) (*resource.Resource, error) {
	version := "(unknown)"
	if build, ok := debug.ReadBuildInfo(); ok {
		version = build.Main.Version // the git tag or commit, or (devel) where Go didn't know it
	}
	return resource.New(ctx,
		resource.WithService(), // an id for each process, which tells two of one service apart
		resource.WithTelemetrySDK(),
		resource.WithAttributes(semconv.ServiceName(name), semconv.ServiceVersion(version)),
		resource.WithFromEnv()) // the last one wins
}

// newPropagator returns the propagator of a list of names, each of which reads and writes its own headers.
func newPropagator(names string) (propagation.TextMapPropagator, error) {
	return autoprop.TextMapPropagator(strings.Split(strings.ReplaceAll(names, " ", ""), ",")...)
}

// Fail makes span an error, and returns err. RecordError alone adds an event but leaves the span's status as it was,
// and no backend would show it in red.
func Fail(span trace.Span, err error, options ...trace.EventOption) error {
	span.RecordError(err, options...)
	span.SetStatus(codes.Error, err.Error())
	return err
}

// That was all. Now follow one span through otel-agent-config.yaml and otel-collector-config.yaml to the backends.
