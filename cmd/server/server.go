// Command server answers GET /hello, and publishes a message for the worker each time.
//
// This is file 2 of 6. The trace that started in the client goes on here, inside an HTTP handler. It then leaves for
// the worker, over a broker.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/baggage"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"otel-demo/pkg"
)

var tracer = otel.Tracer("otel-demo/cmd/server")

func main() { pkg.Main(run) }

func run(ctx context.Context) error {
	var env pkg.Env
	address := cmp.Or(os.Getenv("LISTEN_ADDR"), "localhost:8080")
	redisOptions := env.Redis("REDIS_URL", "redis://localhost:6379/0")
	work := env.Duration("WORK_DURATION", "200ms")
	env.OpenTelemetry()
	if env.Err != nil {
		return env.Err
	}
	healthcheck := flag.Bool("healthcheck", false, "ask the server on LISTEN_ADDR for its health, and exit 0 or 1")
	flag.Parse()
	if *healthcheck {
		return pkg.CheckHealth(address)
	}

	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("LISTEN_ADDR=%q: want a free host:port of this machine: %w", address, err)
	}
	shutdown, err := pkg.StartTracing(ctx, "server", pkg.NewBatcher, pkg.Diagnose)
	if err != nil {
		return err
	}
	defer shutdown()
	broker, err := pkg.NewBroker(redisOptions)
	if err != nil {
		return err
	}
	defer broker.Close()
	if err := broker.Ready(ctx); errors.Is(err, pkg.ErrRefused) {
		return err
	} else if err != nil {
		slog.Warn("GET /hello responds 503 for now", "error", err)
	}
	// On SIGTERM, Serve finishes the requests that it has accepted. Then the deferred calls run, the last one first.
	return pkg.Serve(ctx, listener, newHandler(broker, work), work)
}

// server holds what all requests need. What belongs to one request is in its context, the first argument of each
// call.
type server struct {
	broker *pkg.Broker
	work   time.Duration
}

// newHandler returns the server's routes. otelhttp.NewHandler extracts (reads) the trace context from the request's
// headers and starts the span `GET /hello` as a child of the client's span: the trace goes on. It is wrapped around
// one route, inside the mux, since only there the route is known; it gives the span its name. /healthz has no span:
// it is asked every few seconds, and nobody would look at those traces.
func newHandler(broker *pkg.Broker, work time.Duration) http.Handler {
	s := &server{broker, work}
	mux := http.NewServeMux()
	mux.Handle("GET /hello", otelhttp.NewHandler(http.HandlerFunc(s.hello), ""))
	mux.HandleFunc("GET /healthz", s.healthz)
	return mux
}

// hello answers one request.
func (s *server) hello(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	// The request's context holds the span that otelhttp started. Its trace id in the answer leads whoever asked to
	// the trace: try `curl -i localhost:8080/hello`.
	ctx := r.Context()
	if id := trace.SpanContextFromContext(ctx).TraceID(); id.IsValid() {
		w.Header().Set("Trace-Id", id.String())
	}
	status, body, result := http.StatusOK, "hello, world", "published"
	if err := s.handle(ctx, body); errors.Is(err, context.Canceled) {
		// That is no fault of anything here, so no span becomes an error.
		status, body, result = statusClientClosedRequest, "", "the caller hung up"
	} else if err != nil {
		// otelhttp makes its span an error for each status from 500 on. The response gives a short reason: addresses
		// and raw errors stay in the log, beside the trace id.
		status, body, result = http.StatusServiceUnavailable, reason(err), err.Error()
	}
	w.WriteHeader(status)
	fmt.Fprintln(w, body)
	// ctx gives this log line its trace id and span id (see pkg/program.go), and so the line leads to its trace. For
	// new code OpenTelemetry advises such log records in place of span events, exported by its Logs API. This demo
	// only prints them.
	slog.InfoContext(ctx, "GET /hello", "status", status, "duration", time.Since(start), "result", result)
}

// statusClientClosedRequest is for the log and the span: nobody receives it. The code is nginx's.
const statusClientClosedRequest = 499

// handle is the work of one request: a span of your own, inside the one of the library.
func (s *server) handle(ctx context.Context, body string) error {
	ctx, span := tracer.Start(ctx, "handle request")
	defer span.End()

	// The client's baggage arrived with the trace context, in a header beside it, and is in ctx too. Nothing of it is
	// on a span until you put it there. In Jaeger you find this event in the span `handle request`, under "Logs".
	username := baggage.FromContext(ctx).Member("username").Value()
	span.AddEvent("read baggage", trace.WithAttributes(semconv.UserName(username)))

	// An attribute describes the whole span, and you can search for it. Prefer a name of OpenTelemetry's registry, as
	// here. A payload has no place on a span: it may be large, it may be private, and whoever can read the traces could
	// read it. Its size does.
	span.SetAttributes(semconv.HTTPResponseBodySize(len(body)))

	if err := pkg.Work(ctx, s.work); err != nil {
		return err // the caller hung up, and with that r.Context() is canceled
	}

	// For HTTP, otelhttp propagates the trace context. For the broker nobody does: pkg/broker.go shows what Publish
	// does about that. ctx holds this span, and so `publish work` becomes its child. Publishing takes up to 1 s, and
	// ends even if the caller hangs up now: half a message is no use.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := s.broker.Publish(ctx, body); err != nil {
		return pkg.Fail(span, err)
	}
	return nil
}

// healthz responds 200 when a message that is published now would be heard.
func (s *server) healthz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), time.Second)
	defer cancel()
	if err := s.broker.Ready(ctx); err != nil {
		http.Error(w, reason(err), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// reason returns what a caller may know of an error. The rest is in the span and in the log, for those who run it.
func reason(err error) string {
	if errors.Is(err, pkg.ErrNoListener) {
		return "no worker is listening"
	}
	return "the message broker is not available"
}

// The message is published and the client has its answer. Next: pkg/message.go, what was published.
