// Package pkg is what the three programs share: the setup of tracing, and a broker that carries the trace context.
package pkg

// This is file 6 of 6: the setup that all three programs share. The code you have read so far only creates spans. This
// file decides, once per program, where they go. The path of a span is
//
//	tracer -> batcher (a queue in this process) -> exporter (OTLP) -> agent -> collector -> Jaeger, Zipkin
//
// In your own program, use this file together with pkg/batcher.go. The two need no other file.

import (
	"cmp"
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
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
)

// version is shown as service.version in a span's resource. The Dockerfile sets it with the linker's option -X.
var version string

// StartTracing sets up tracing for the service called name: a global tracer provider, which creates the tracers and
// gets their spans, and a global propagator. Call shutdown last: it exports the remaining spans, for up to 4 s, and
// logs what went wrong. Spans missing? See docs/missing-spans.md.
//
// OpenTelemetry's standard variables, such as OTEL_SERVICE_NAME and OTEL_TRACES_SAMPLER, override what is set here.
// Where code would override a variable, it first looks whether the variable is set.
func StartTracing(ctx context.Context, name string) (shutdown func(), err error) {
	// The SDK reports errors here, such as an unreachable agent. One line every 10 s is enough.
	report := rate.Sometimes{Interval: 10 * time.Second}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		report.Do(func() { slog.Warn("OpenTelemetry", "error", err) })
	}))

	// By default, OpenTelemetry for Go propagates nothing. A propagator writes the trace context into headers and reads
	// it from them, for otelhttp and the broker alike. OTEL_PROPAGATORS chooses the formats; by default, the W3C's.
	otel.SetTextMapPropagator(autoprop.NewTextMapPropagator())
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") { // the SDK for Go doesn't read this one
		return func() {}, nil // the default tracer provider's spans do nothing
	}

	// The span processor (the batcher above) gets each span that has ended, and exports it in a batch: see
	// pkg/batcher.go. To use this file alone, put these two lines in place of the next call. That loses spans if the
	// agent is down for over 10 s.
	//	exporter, err := otlptracegrpc.New(ctx)
	//	processor := sdktrace.NewBatchSpanProcessor(exporter)
	processor, err := newProcessor(ctx)
	if err != nil {
		return nil, fmt.Errorf("start exporter: %w", err)
	}
	// Attribute values may be untrusted and long, and the agent refuses a batch of more than 4 MiB, so long values are
	// truncated.
	limits := sdktrace.NewSpanLimits() // from OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT, or else -1: no limit
	if limits.AttributeValueLengthLimit < 0 {
		limits.AttributeValueLengthLimit = 1000
	}
	// A sampler decides which traces are recorded. We set none, so OTEL_TRACES_SAMPLER stays in charge. By default,
	// every trace is recorded unless the caller's trace context says otherwise.
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(processor),
		sdktrace.WithResource(newResource(ctx, name)), sdktrace.WithRawSpanLimits(limits))
	otel.SetTracerProvider(provider)
	return func() {
		// Why a new context? After SIGTERM, ctx is already canceled, so nothing would be exported with it.
		ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			slog.Warn("stop tracing", "error", err)
		}
	}, nil
}

// newResource describes the process that produces the spans: open a span in Jaeger to see it.
func newResource(ctx context.Context, name string) *resource.Resource {
	built := version
	if build, ok := debug.ReadBuildInfo(); ok {
		built = cmp.Or(version, build.Main.Version) // the git tag or commit, or (devel) if Go doesn't know it
	}
	service, err := resource.New(ctx,
		resource.WithService(), // an id for each process, which tells instances of a service apart
		resource.WithTelemetrySDK(),
		resource.WithAttributes(semconv.ServiceName(name), semconv.ServiceVersion(built)),
		resource.WithFromEnv()) // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override the above
	if err != nil {
		otel.Handle(fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)) // what is malformed is left out
	}
	return service
}

// Fail marks span as failed, and returns err. Backends show the span in red. The attribute error.type is the type of
// err, or what its method ErrorType returns. Use few values, so you can group failures by them. Older code calls
// span.RecordError, which adds an event and leaves the status unchanged. OpenTelemetry now advises against it:
// https://opentelemetry.io/docs/specs/semconv/general/recording-errors/
//
// Try it: replace `codes.Error` with `codes.Unset` and run `go run -C local . -once -shape`. `example error` no longer
// counts as failed: only the status marks a failure.
func Fail(span trace.Span, err error) error {
	span.SetStatus(codes.Error, err.Error())
	span.SetAttributes(semconv.ErrorType(err))
	return err
}

// Error is an error with a value for the attribute error.type, which [Fail] sets.
type Error struct{ Type, Text string }

func (e Error) Error() string     { return e.Text }
func (e Error) ErrorType() string { return e.Type }

// CatchPanic calls handle. A panic is returned as an error, so that one message can't stop the work on the others. The
// stack goes to the log, not into an event, with the ids of the span in ctx.
func CatchPanic(ctx context.Context, handle func() error) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			slog.ErrorContext(ctx, "the handler panicked", "panic", reason, "stack", string(debug.Stack()))
			err = Error{"panic", fmt.Sprint("panic: ", reason)}
		}
	}()
	return handle()
}

// That's all. Now follow one span through otel-agent-config.yaml and otel-collector-config.yaml to the backends.
