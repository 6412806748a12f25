package examples_test

// You need this where a program is frozen after each response, as a serverless function is: spans in the batcher's queue
// then stay there. Flush after the outermost span has ended, so outside of otelhttp's handler. Inside it, the span of
// the request itself is still open, and only its children are exported.

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// flushAfter exports all spans before the response is complete. It waits up to 2 s, and fails no request.
func flushAfter(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r)
		// With OTEL_SDK_DISABLED=true, the global provider is another type, which has nothing to flush.
		if provider, ok := otel.GetTracerProvider().(interface{ ForceFlush(context.Context) error }); ok {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 2*time.Second)
			defer cancel()
			if err := provider.ForceFlush(ctx); err != nil {
				otel.Handle(err)
			}
		}
	})
}

func Example_flush() {
	exporter := tracetest.NewInMemoryExporter()
	defer otel.SetTracerProvider(otel.GetTracerProvider())
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter, sdktrace.WithBatchTimeout(time.Hour))))

	hello := func(w http.ResponseWriter, r *http.Request) {
		_, span := otel.Tracer("example").Start(r.Context(), "handle request")
		span.End()
		fmt.Fprintln(w, "hello, world")
	}
	mux := http.NewServeMux()
	mux.Handle("GET /hello", flushAfter(otelhttp.NewHandler(http.HandlerFunc(hello), "")))
	mux.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/hello", nil))
	for _, span := range exporter.GetSpans() {
		fmt.Println(span.Name, span.SpanKind)
	}
	// Output:
	// handle request internal
	// GET /hello server
}
