// Command server responds to GET /hello, and publishes a message for the worker each time.
//
// This is file 2 of 6. The trace that started in the client continues here, inside an HTTP handler. It then leaves for
// the worker, over a message broker.
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
	healthcheck := flag.Bool("healthcheck", false, "check the health of the server on LISTEN_ADDR, and exit 0 or 1")
	flag.Parse()
	if *healthcheck {
		return pkg.CheckHealth("http://" + address + "/healthz")
	}

	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("LISTEN_ADDR=%q: want a free host:port of this machine: %w", address, err)
	}
	shutdown, err := pkg.StartTracing(ctx, "server")
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
	// On SIGTERM, Serve gives accepted requests 4 s to finish. Then the deferred calls run, last one first.
	return pkg.Serve(ctx, listener, newHandler(broker, work), work)
}

// server holds what all requests share. What belongs to one request is in its context.
type server struct {
	broker *pkg.Broker
	work   time.Duration
}

// newHandler returns the server's routes. otelhttp.NewHandler extracts (reads) the trace context from the request's
// headers and starts the span `GET /hello` as a child of the client's span. That is how the trace continues. Wrap each
// route, not the whole mux: only then is the route known, and the span has the attribute http.route. /healthz has no
// span, since it is polled every few seconds.
func newHandler(broker *pkg.Broker, work time.Duration) http.Handler {
	s := &server{broker, work}
	mux := http.NewServeMux()
	mux.Handle("GET /hello", otelhttp.NewHandler(http.HandlerFunc(s.hello), ""))
	mux.HandleFunc("GET /healthz", s.healthz)
	return mux
}

func (s *server) hello(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	// The request's context holds the span that otelhttp started. Its trace id goes into a response header, so that a
	// caller can find the trace: see it with `curl -i localhost:8080/hello`.
	ctx := r.Context()
	if id := trace.SpanContextFromContext(ctx).TraceID(); id.IsValid() {
		w.Header().Set("Trace-Id", id.String())
	}
	status, body, result := http.StatusOK, "hello, world", "published"
	if err := s.handle(ctx, body); errors.Is(err, context.Canceled) {
		// Nothing here has failed, so no span is marked as failed.
		status, body, result = statusClientClosedRequest, "", "the caller hung up"
	} else if err != nil {
		// otelhttp marks a server's span as failed for a 5xx, not for a 4xx (the caller's mistake). The response gives
		// a short reason. Addresses and raw errors stay in the span and in the log.
		status, body, result = http.StatusServiceUnavailable, reason(err), err.Error()
	}
	w.WriteHeader(status)
	fmt.Fprintln(w, body)
	// ctx gives this log line its trace id and span id (see pkg/program.go), so you can go from the line to its trace.
	slog.InfoContext(ctx, "GET /hello", "status", status, "duration", time.Since(start), "result", result)
}

const statusClientClosedRequest = 499 // nginx's code for this; nobody receives it

// handle does the work of one request, in its own span inside otelhttp's.
func (s *server) handle(ctx context.Context, body string) error {
	ctx, span := tracer.Start(ctx, "handle request")
	// Try it: delete `defer span.End()` below and run `go run -C local . -once -shape`. `handle request` is gone, and
	// `publish work` is no longer indented: its parent never arrives.
	defer span.End()

	// The client's baggage arrived in a header beside the trace context, and is in ctx too. It isn't on a span until
	// you put it there. In Jaeger, the event below is in `handle request`.
	username := baggage.FromContext(ctx).Member("username").Value()
	span.AddEvent("read baggage", trace.WithAttributes(semconv.UserName(username)))

	// An attribute is a key and a value that describe the whole span, and you can search for it. Prefer names from
	// OpenTelemetry's conventions, as here. Record a payload's size, but not the payload: it may be large or private,
	// and everyone who can read the traces could read it.
	span.SetAttributes(semconv.HTTPResponseBodySize(len(body) + len("\n")))

	if err := pkg.SimulateWork(ctx, s.work); err != nil {
		return err // context.Canceled: the caller hung up; another error: the server must stop
	}

	// For HTTP, otelhttp propagates the trace context. For the broker, Publish does: see pkg/broker.go. ctx holds this
	// span, so `publish work` becomes its child. WithoutCancel keeps the span but not the cancellation, so publishing
	// completes even if the caller hangs up now.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := s.broker.Publish(ctx, body); err != nil {
		return pkg.Fail(span, err)
	}
	return nil
}

// healthz responds 200 when a message published now would reach a worker.
func (s *server) healthz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), time.Second)
	defer cancel()
	if err := s.broker.Ready(ctx); err != nil {
		http.Error(w, reason(err), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// reason returns what a caller may know about an error. Operators find the rest in the span and in the log.
func reason(err error) string {
	if errors.Is(err, pkg.ErrNoListener) {
		return "no worker is listening"
	}
	return "the message can't be published now"
}

// The message is published, and the client has its response. Next: pkg/message.go, the format of the message.
