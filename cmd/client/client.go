// Command client sends requests to the server, one after another. Each request becomes a trace.
//
// This is file 1 of 6. A trace is the story of one request, told as a tree of spans. A span is one piece of work, with
// a name, a start, an end, and the id of its parent span. The trace starts here and leaves over HTTP. Start the demo,
// open Jaeger on http://localhost:16686, and read on.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/httptrace/otelhttptrace"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/baggage"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"otel-demo/pkg"
)

// A tracer creates spans. Its name says which code did so. The service's name, client, goes to StartTracing below.
var tracer = otel.Tracer("otel-demo/cmd/client")

func main() { pkg.Main(run) }

func run(ctx context.Context) error {
	var env pkg.Env // settings, read by pkg/program.go, which you can skip
	serverURL := env.URL("SERVER_URL", "http://localhost:8080/hello")
	requests := env.Uint("REQUESTS", "5")
	work := env.Duration("WORK_DURATION", "200ms")
	env.OpenTelemetry()
	if env.Err != nil {
		return env.Err
	}

	// From here on, spans are exported to the agent in batches. When the program ends, shutdown exports the last batch,
	// which would otherwise be lost. Defer it first: then it runs last.
	// Try it: replace `defer shutdown()` with `_ = shutdown` and run `go run -C local . -once -shape`. `example error`
	// and the last `make request` are gone: they were in the last batch.
	shutdown, err := pkg.StartTracing(ctx, "client")
	if err != nil {
		return err
	}
	defer shutdown()

	if err := pkg.WaitForServer(ctx, serverURL); err != nil {
		return err
	}
	client := newClient(work)
	failed := 0
	for range requests {
		if err := makeRequest(ctx, client, serverURL, work); err != nil {
			failed++
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	exampleError(ctx)
	if failed > 0 {
		return fmt.Errorf("%d of %d requests failed", failed, requests)
	}
	return nil
}

// makeRequest sends one request, as one trace.
func makeRequest(ctx context.Context, client *http.Client, serverURL *url.URL, work time.Duration) error {
	start := time.Now()
	// There is no span in ctx yet, so the span started here is the root of a new trace. The ctx that Start returns
	// holds the span. Pass that ctx on, and every span started with it becomes a child. Go's context carries the span
	// from function to function inside one program. The trace context (the trace id plus the current span's id) travels
	// between programs.
	ctx, span := tracer.Start(ctx, "make request")
	// A span that is never ended is never exported. Defer End when the span covers the whole function, as here.
	defer span.End()

	// Baggage is a set of keys and values that travels with the trace context to every service in this trace. All of
	// them can read it, so keep secrets out. It isn't on a span until you put it there: see the server.
	username, err1 := baggage.NewMemberRaw("username", "donuts")
	bag, err2 := baggage.New(username)
	if err := errors.Join(err1, err2); err != nil {
		return pkg.Fail(span, err)
	}
	ctx = baggage.ContextWithBaggage(ctx, bag)

	// In Jaeger, this is the gap before `HTTP GET`: time that the client spends on its own work.
	pkg.SimulateWork(ctx, work)

	status, body, err := get(ctx, client, serverURL)
	if err == nil && status != http.StatusOK {
		// The HTTP client below marks its own span as failed when the status is 400 or above. A failed child doesn't
		// mark its parent as failed. If the whole operation has failed, mark the parent too, as Fail does below.
		err = pkg.Error{Type: strconv.Itoa(status), Text: fmt.Sprintf("the server responded %d: %q", status, body)}
	}
	if status != 0 {
		// An event is a timestamped note on the span. AddEvent still works, but new code should log instead, with the
		// span's ids: see the server's log line.
		span.AddEvent("response", trace.WithAttributes(semconv.HTTPResponseBodySize(len(body))))
	}
	// To open this trace, paste its id from your terminal into Jaeger's search field.
	fmt.Println(status, span.SpanContext().TraceID(), time.Since(start).Round(time.Millisecond))
	if err != nil {
		return pkg.Fail(span, err)
	}
	return nil
}

// get returns the status and the body of the response. The status is 0 if there was no response.
func get(ctx context.Context, client *http.Client, url *url.URL) (status int, body string, err error) {
	// The request carries ctx. Without it, the transport below would find no span and start a new trace.
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url.String(), nil)
	if err != nil {
		return 0, "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	// The span `HTTP GET` ends when the body has been read to the end or closed.
	defer response.Body.Close()
	read, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return response.StatusCode, string(read), err
}

// newClient returns an HTTP client that traces. Its transport comes from otelhttp, OpenTelemetry's instrumentation
// library for net/http. It creates the span `HTTP GET` around each request (OpenTelemetry's conventions now name it
// `GET`), and injects (writes) the trace context into the request's headers. That is how a trace leaves a program over
// HTTP. In the W3C's format, the default, the headers are:
//
//	traceparent: 00-<trace id>-<id of the span HTTP GET>-01    (last bit 1: this trace is recorded)
//	baggage: username=donuts
func newClient(work time.Duration) *http.Client {
	// steps adds an event for each step on the network: DNS, connect, request sent, first byte. The second request has
	// fewer, because it reuses the first one's connection. Headers are left out, because they often hold secrets.
	steps := func(ctx context.Context) *httptrace.ClientTrace {
		return otelhttptrace.NewClientTrace(ctx, otelhttptrace.WithoutSubSpans(), otelhttptrace.WithoutHeaders())
	}
	return &http.Client{
		Transport: otelhttp.NewTransport(http.DefaultTransport, otelhttp.WithClientTrace(steps)),
		Timeout:   work + 10*time.Second, // enough if the server's WORK_DURATION equals the client's
	}
}

// exampleError produces a trace that failed. Jaeger gives it a red mark.
func exampleError(ctx context.Context) {
	_, span := tracer.Start(ctx, "example error")
	pkg.Fail(span, pkg.Error{Type: "example", Text: "this error is an example"})
	span.End() // no defer needed: nothing returns before this line
}

// The request is on its way, and its headers carry the trace context. Next: cmd/server/server.go receives it.
