package examples_test

// You need this where requests come from outside your system. A caller's headers could otherwise add spans to any of
// your traces, turn recording off or on, and set baggage that all of your services read.

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
)

// atTheEdge are the options for a handler that strangers call. Each request starts your own trace, for which your own
// sampler decides. The caller's span becomes a link. To trust some callers, return false for them.
var atTheEdge = []otelhttp.Option{
	otelhttp.WithPublicEndpointFn(func(*http.Request) bool { return true }),
	otelhttp.WithPropagators(propagation.TraceContext{}), // without propagation.Baggage{}, the caller's is not read
}

// toTheOutside is the option for a transport to strangers: with no propagator, it sends no ids of yours and no baggage.
var toTheOutside = otelhttp.WithPropagators(propagation.NewCompositeTextMapPropagator())

// A caller that says "don't record this trace", and that it is an admin. It has no effect.
func Example_edge() {
	provider, recorder := record()
	spans := otelhttp.WithTracerProvider(provider)
	stranger := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fmt.Printf("sent: traceparent=%q baggage=%q\n", r.Header.Get("traceparent"), r.Header.Get("baggage"))
	}))
	defer stranger.Close()
	client := http.Client{Transport: otelhttp.NewTransport(http.DefaultTransport, spans, toTheOutside)}

	mux := http.NewServeMux()
	mux.Handle("GET /hello", otelhttp.NewHandler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fmt.Printf("received: baggage=%q\n", baggage.FromContext(r.Context()).String())
		request, _ := http.NewRequestWithContext(r.Context(), http.MethodGet, stranger.URL, nil) // the URL is valid
		if response, err := client.Do(request); err == nil {
			response.Body.Close()
		}
	}), "", append(atTheEdge, spans)...))
	request := httptest.NewRequest(http.MethodGet, "/hello", nil)
	request.Header.Set("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")
	request.Header.Set("baggage", "username=admin")
	mux.ServeHTTP(httptest.NewRecorder(), request)

	fmt.Print(shape(recorder)) // a ? is the caller's span
	// Output:
	// received: baggage=""
	// sent: traceparent="" baggage=""
	// GET /hello  server  link=?
	//   HTTP GET  client
}
