package examples_test

// You need this where a connection stays open: server-sent events, WebSockets, a gRPC stream. A span for the connection
// ends hours later, and until then, the parent of all of its children is missing. Start a span for each message
// instead. HTTP headers are sent once per connection, so each message carries the trace context in its own headers.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"otel-demo/pkg"
)

func Example_stream() {
	spans, recorder := record()
	tracer := spans.Tracer("example")
	mux := http.NewServeMux()
	mux.HandleFunc("GET /prices", func(w http.ResponseWriter, _ *http.Request) {
		for _, price := range []string{"1.20", "1.30"} {
			ctx, change := tracer.Start(context.Background(), "change price")
			ctx, send := tracer.Start(ctx, "send price", trace.WithSpanKind(trace.SpanKindProducer))
			m := pkg.Message{Headers: propagation.MapCarrier{}, Body: price}
			propagation.TraceContext{}.Inject(ctx, m.Headers)
			if err := errors.Join(json.NewEncoder(w).Encode(m), http.NewResponseController(w).Flush()); err != nil {
				_ = pkg.Fail(send, err)
			}
			send.End()
			change.End()
		}
	})
	noSpan := otelhttp.WithFilter(func(r *http.Request) bool { return r.URL.Path != "/prices" })
	server := httptest.NewServer(otelhttp.NewHandler(mux, "", otelhttp.WithTracerProvider(spans), noSpan))
	response, _ := http.Get(server.URL + "/prices") // without otelhttp's transport: it starts a span, too
	for messages := json.NewDecoder(response.Body); messages.More(); {
		var m pkg.Message
		_ = messages.Decode(&m) // a message that can't be decoded has no headers
		// Extract into a context without a span. A message without headers then starts its own trace.
		ctx := propagation.TraceContext{}.Extract(context.Background(), m.Headers)
		_, span := tracer.Start(ctx, "process price", trace.WithSpanKind(trace.SpanKindConsumer))
		span.End()
	}
	server.Close()
	fmt.Print(shape(recorder))
	// Output:
	// change price  internal
	//   send price  producer
	//     process price  consumer
	// change price  internal
	//   send price  producer
	//     process price  consumer
}
