package examples_test

// You need this where you retry calls. Each attempt has its own span, so you see how long it took and how it failed.
// The operation's span is around them. It is marked as failed only if its last attempt has failed.

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/cenkalti/backoff/v5"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"otel-demo/pkg"
)

type attempts int // of one operation; as a transport below otelhttp's, it gets a context with the attempt's span

func (a *attempts) RoundTrip(r *http.Request) (*http.Response, error) {
	if *a++; *a > 1 {
		trace.SpanFromContext(r.Context()).SetAttributes(semconv.HTTPRequestResendCount(int(*a) - 1))
	}
	return http.DefaultTransport.RoundTrip(r)
}

func Example_retries() {
	requests := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if requests++; requests != 2 { // the first operation's last attempt
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	spans, recorder := record()
	fetch := func(ctx context.Context) error { // all attempts get the operation's context
		client := http.Client{Transport: otelhttp.NewTransport(new(attempts), otelhttp.WithTracerProvider(spans))}
		_, err := backoff.Retry(ctx, func() (any, error) {
			request, _ := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil) // the URL is valid
			response, err := client.Do(request)
			if err == nil && response.Body.Close() == nil && response.StatusCode >= 500 { // Close ends the attempt's span
				err = pkg.Error{Type: fmt.Sprint(response.StatusCode), Text: response.Status}
			}
			return nil, err
		}, backoff.WithMaxTries(2), backoff.WithBackOff(&backoff.ZeroBackOff{})) // in your program, pkg.Backoff()
		return err
	}
	_ = traced(context.Background(), spans, "fetch price", fetch)
	_ = traced(context.Background(), spans, "fetch price", fetch)
	fmt.Print(shape(recorder, semconv.HTTPRequestResendCountKey))
	// Output:
	// fetch price  internal
	//   HTTP GET  client  error.type=503
	//   HTTP GET  client  http.request.resend_count=1
	// fetch price  internal  error.type=503
	//   HTTP GET  client  error.type=503
	//   HTTP GET  client  http.request.resend_count=1  error.type=503
}
