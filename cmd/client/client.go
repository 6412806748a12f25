// Command client sends requests to the server, one after the other, and each becomes a trace.
//
// This is file 1 of 6. A trace is the story of one request through all the programs that it touches. It is a tree of
// spans: a span is one piece of work, with a name, a start, an end, and the id of the span that it is a part of. A
// trace starts here, and leaves over HTTP. Start the demo, look at Jaeger on http://localhost:16686, and read on.
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

	"github.com/cenkalti/backoff/v5"
	"go.opentelemetry.io/contrib/instrumentation/net/http/httptrace/otelhttptrace"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/baggage"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"otel-demo/pkg"
)

// A tracer makes spans. Its name says which code made them; the name of the service is set once, in pkg/tracer.go.
var tracer = otel.Tracer("otel-demo/cmd/client")

func main() { pkg.Main(run) }

func run(ctx context.Context) error {
	var env pkg.Env // reads settings: pkg/program.go has what any program needs
	serverURL := env.URL("SERVER_URL", "http://localhost:8080/hello")
	requests := env.Uint("REQUESTS", "5")
	work := env.Duration("WORK_DURATION", "200ms")
	env.OpenTelemetry()
	if env.Err != nil {
		return env.Err
	}

	// From here on spans are sent to the agent, in batches. What waits for the next batch when the program ends would
	// be lost, so shutdown sends it. It is deferred first, and so runs last.
	shutdown, err := pkg.StartTracing(ctx, "client", pkg.NewBatcher, pkg.Diagnose)
	if err != nil {
		return err
	}
	defer shutdown()

	if err := waitForServer(ctx, serverURL); err != nil {
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
	// There is no span in ctx yet, so this one starts a new trace: it is the root. The ctx that Start returns holds
	// the span. Hand that one on, and each span that is started with it becomes a child. That is what Go's context is
	// for here: it carries the span from function to function, inside one program. Between programs travels the trace
	// context: the ids of the trace and of the span that is to be the parent.
	ctx, span := tracer.Start(ctx, "make request")
	// A span that isn't ended is never sent. Defer End where the span covers the whole function, as here.
	defer span.End()

	// Baggage travels with the trace context to every service that has a part in this trace. Those you call can all
	// read it, so keep secrets out. It is not part of a span until somebody puts it there: see the server.
	username, err1 := baggage.NewMemberRaw("username", "donuts")
	bag, err2 := baggage.New(username)
	if err := errors.Join(err1, err2); err != nil {
		return pkg.Fail(span, err)
	}
	ctx = baggage.ContextWithBaggage(ctx, bag)

	// In Jaeger this is the gap before the request is sent: time that the client spent by itself.
	pkg.Work(ctx, work)

	status, body, err := get(ctx, client, serverURL)
	if err == nil && status != http.StatusOK {
		// The HTTP client below has made its own span an error, as for each status from 400 on. An error does not
		// rise to the parent by itself: whoever knows that the whole has failed says so, with Fail, below.
		err = pkg.Error{Type: strconv.Itoa(status), Text: fmt.Sprintf("the server responded %d: %q", status, body)}
	}
	// An event is a moment in a span. In Jaeger, open the span and then "Logs". OpenTelemetry is moving events to log
	// records that carry the span's ids, and new code should write those. AddEvent goes on working, and backends show
	// its events with the span.
	span.AddEvent("response", trace.WithAttributes(semconv.HTTPResponseBodySize(len(body))))
	// The trace id leads from this line on your terminal to the trace: paste it into Jaeger's search field.
	fmt.Println(status, span.SpanContext().TraceID(), time.Since(start).Round(time.Millisecond))
	if err != nil {
		return pkg.Fail(span, err)
	}
	return nil
}

// get returns the status and the body of the response. The status is 0 if there was no response.
func get(ctx context.Context, client *http.Client, url *url.URL) (status int, body string, err error) {
	// The request takes ctx along, or the transport below would not find the span, and would start a new trace.
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url.String(), nil)
	if err != nil {
		return 0, "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	// The span `HTTP GET` ends when the body has been read to its end, or is closed.
	defer response.Body.Close()
	read, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return response.StatusCode, string(read), err
}

// newClient returns an HTTP client that traces. The transport, from OpenTelemetry's instrumentation library otelhttp,
// makes the span `HTTP GET` around each request (the conventions now name it `GET`), and injects (writes) the trace
// context into the request's headers. That is how a trace leaves a program over HTTP. With the W3C's format, the
// default, the headers are:
//
//	traceparent: 00-<trace id>-<id of the span HTTP GET>-01    (01: this trace is sampled, so record it)
//	baggage: username=donuts
func newClient(work time.Duration) *http.Client {
	// These events show what the network did: DNS, connect, request sent, first byte. The second request has fewer,
	// since it uses the first one's connection. The request's headers are left out, as they often hold secrets.
	steps := func(ctx context.Context) *httptrace.ClientTrace {
		return otelhttptrace.NewClientTrace(ctx, otelhttptrace.WithoutSubSpans(), otelhttptrace.WithoutHeaders())
	}
	return &http.Client{
		Transport: otelhttp.NewTransport(http.DefaultTransport, otelhttp.WithClientTrace(steps)),
		Timeout:   work + 10*time.Second, // the server works too before it responds
	}
}

// waitForServer polls the server's health check until it reports healthy, for up to 60 s. In Jaeger it is a separate
// trace, and each try that failed is an event in it.
func waitForServer(ctx context.Context, serverURL *url.URL) error {
	ctx, span := tracer.Start(ctx, "wait for server")
	defer span.End()

	// A client without instrumentation, on purpose: a health check every second would bury the traces that matter.
	client := &http.Client{Timeout: 2 * time.Second}
	check := serverURL.ResolveReference(&url.URL{Path: "healthz"})
	_, err := backoff.Retry(ctx, func() (status int, err error) {
		status, reason, err := get(ctx, client, check)
		if err == nil && status != http.StatusOK {
			err = pkg.Error{Type: strconv.Itoa(status), Text: fmt.Sprintf("it responds %d: %q", status, reason)}
		}
		if err != nil {
			span.AddEvent("not ready", trace.WithAttributes(semconv.ErrorType(err)))
		}
		return status, err
	}, backoff.WithBackOff(pkg.Backoff()), backoff.WithMaxElapsedTime(time.Minute))
	if err != nil {
		return pkg.Fail(span, fmt.Errorf("wait for the server at %s: %w", check.Redacted(), err))
	}
	return nil
}

// exampleError makes a trace that failed. Jaeger shows it in red.
func exampleError(ctx context.Context) {
	_, span := tracer.Start(ctx, "example error")
	pkg.Fail(span, pkg.Error{Type: "example", Text: "this error is an example"})
	// Call End, rather than defer it, where the span covers a part of a function. Whatever follows is not in the
	// span.
	span.End()
}

// The request is on its way, and its headers carry the trace context. Next: cmd/server/server.go receives it.
