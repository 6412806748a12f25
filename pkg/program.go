package pkg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.opentelemetry.io/otel/trace"
)

// interrupted is the cause of a context that a signal has ended.
type interrupted struct{ os.Signal }

func (i interrupted) Error() string { return "interrupted: " + i.String() }

// SignalContext returns a context that ends with the first SIGINT or SIGTERM. A second one ends the program at once.
func SignalContext() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		cancel(interrupted{<-signals})
		signal.Stop(signals)
	}()
	return ctx
}

// Exit ends the program. The exit status is 0 without an error, 130 or 143 if a signal is the cause (128 and the
// signal's number, as a shell has it), and 1 otherwise.
func Exit(err error) {
	status := 0
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	if i, ok := errors.AsType[interrupted](err); ok {
		status = 128 + int(i.Signal.(syscall.Signal))
	}
	os.Exit(status)
}

// Work simulates work: it waits for a duration, or until ctx is done.
func Work(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// Backoff returns how long to wait between tries: from 100 ms, doubled each time, to 2 s.
func Backoff() backoff.BackOff {
	return &backoff.ExponentialBackOff{
		InitialInterval: 100 * time.Millisecond, Multiplier: 2, MaxInterval: 2 * time.Second, RandomizationFactor: 0.5,
	}
}

// Serve answers requests until ctx is done, then finishes those that it has accepted, within 4 s.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler, work time.Duration) error {
	// Without timeouts, a client that sends slowly holds a connection for ever.
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      work + 10*time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    32 << 10,
	}
	slog.Info("listening", "address", listener.Addr().String())
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	// ctx is done already, so the time to finish needs a context of its own.
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		slog.Warn("requests were cut off", "error", errors.Join(err, server.Close()))
	}
	return nil
}

// traceHandler adds the ids of the span in the context to each log line, so that a line leads to its trace. Log with
// slog.InfoContext and its like: without a context there is no span.
type traceHandler struct{ slog.Handler }

func (h traceHandler) Handle(ctx context.Context, record slog.Record) error {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		record.AddAttrs(slog.Any("trace_id", span.TraceID()), slog.Any("span_id", span.SpanID()))
	}
	return h.Handler.Handle(ctx, record)
}

func (h traceHandler) WithAttrs(a []slog.Attr) slog.Handler {
	return traceHandler{h.Handler.WithAttrs(a)}
}
func (h traceHandler) WithGroup(name string) slog.Handler {
	return traceHandler{h.Handler.WithGroup(name)}
}
