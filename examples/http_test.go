package examples_test

// You need this to notice when the trace or the baggage no longer crosses HTTP. Replace the handler and the client with
// yours, and copy shape_test.go, too. The test needs no collector and no backend.

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"

	"otel-demo/pkg"
)

func TestTheTraceAndTheBaggageCrossHTTP(t *testing.T) {
	// Use your program's own setup, because without a propagator nothing crosses. Then replace what would export spans.
	t.Setenv("OTEL_TRACES_EXPORTER", "none")
	shutdown, err := pkg.StartTracing(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer shutdown()
	spans, recorder := record()
	otel.SetTracerProvider(spans)

	server := httptest.NewServer(otelhttp.NewHandler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		user := baggage.FromContext(r.Context()).Member("username").Value()
		_, span := otel.Tracer("server").Start(r.Context(), "handle request")
		span.SetAttributes(attribute.String("user.name", user))
		span.End()
	}), "hello"))
	client := http.Client{Transport: otelhttp.NewTransport(http.DefaultTransport)}

	member, _ := baggage.NewMemberRaw("username", "donuts") // valid
	bag, _ := baggage.New(member)
	ctx, root := otel.Tracer("client").Start(baggage.ContextWithBaggage(t.Context(), bag), "make request")
	request, _ := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil) // the URL is valid
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	root.End()
	server.Close() // waits until the server's span has ended

	want := "make request  internal\n  HTTP GET  client\n    GET  server\n      handle request  internal  user.name=donuts\n"
	if got := shape(recorder, "user.name"); got != want {
		t.Errorf("the spans are\n%swant\n%s", got, want)
	}
}
