package examples_test

// You need this where a handler responds and leaves work to a goroutine. The request's context is canceled as soon as
// the handler has returned. So `go work(r.Context())` fails at once: status 200, no log line, and a very short span.

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"

	"otel-demo/pkg"
)

var running sync.WaitGroup // to stop: shut down the HTTP server, then wait for what is running, then shut down tracing

func afterResponse(ctx context.Context, work func(context.Context) error) {
	ctx = context.WithoutCancel(ctx) // the span and the baggage stay; add a timeout if work has none
	running.Go(func() {
		if err := work(ctx); err != nil { // the response is gone, so only a log line can report it
			log.Print("after the response: ", err) // in your program, slog.ErrorContext(ctx, ...)
		}
	})
}

func Example_afterResponse() {
	log.SetFlags(0)
	log.SetOutput(os.Stdout)
	spans, recorder := record()
	responded := make(chan struct{})
	mail := func(ctx context.Context) error {
		if <-responded; ctx.Err() != nil {
			return pkg.Error{Type: "canceled", Text: ctx.Err().Error()}
		}
		return pkg.Error{Type: "mailbox_full", Text: "mailbox full"}
	}
	handler := func(_ http.ResponseWriter, r *http.Request) {
		afterResponse(r.Context(), func(ctx context.Context) error { return traced(ctx, spans, "right", mail) })
		running.Go(func() { _ = traced(r.Context(), spans, "wrong", mail) }) // as in `go work(r.Context())`
	}
	server := httptest.NewServer(otelhttp.NewHandler(http.HandlerFunc(handler), "", otelhttp.WithTracerProvider(spans)))
	response, err := http.Get(server.URL)
	fmt.Println(response.StatusCode, err)
	server.Close() // waits until the request is over
	close(responded)
	running.Wait()
	_ = spans.Shutdown(context.Background()) // a span that ends later is lost
	fmt.Print(shape(recorder))
	// Output:
	// 200 <nil>
	// after the response: mailbox full
	// GET  server
	//   right  internal  error.type=mailbox_full
	//   wrong  internal  error.type=canceled
}
