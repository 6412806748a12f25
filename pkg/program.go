package pkg

// This file is none of the six. It holds what a program needs whether it is traced or not: settings, signals, an HTTP
// server, a connection to Redis, and a log whose lines lead to their traces.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/redis/go-redis/extra/redisotel/v9"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
)

// Env reads environment variables. One that is empty has its default. The first that can't be used is kept in Err: a
// program looks at it once, and stops before it has started anything. (OpenTelemetry's specification has an SDK warn
// and go on. A demo that goes on with something else than you asked for teaches the wrong thing.)
type Env struct{ Err error }

var errUnusable = errors.New("unusable")

func read[T any](e *Env, name, byDefault, want string, parse func(string) (T, error)) T {
	value := cmp.Or(os.Getenv(name), byDefault)
	parsed, err := parse(value)
	if err != nil {
		shown := value[strings.LastIndex(value, "@")+1:] // a URL without its user and password
		e.Err = cmp.Or(e.Err, fmt.Errorf("%s=%q: want %s", name, shown, want))
	}
	return parsed
}

// URL reads a URL of http or https.
func (e *Env) URL(name, byDefault string) *url.URL {
	return read(e, name, byDefault, "a URL such as "+byDefault, func(value string) (*url.URL, error) {
		u, err := url.Parse(value)
		if err == nil && (u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "") {
			err = errUnusable
		}
		return u, err
	})
}

// Uint reads a whole number from 0.
func (e *Env) Uint(name, byDefault string) uint64 {
	return read(e, name, byDefault, "a whole number from 0, such as "+byDefault,
		func(value string) (uint64, error) { return strconv.ParseUint(value, 10, 31) })
}

// Duration reads a duration from 0, in the form of [time.ParseDuration].
func (e *Env) Duration(name, byDefault string) time.Duration {
	return read(e, name, byDefault, "a duration from 0, such as "+byDefault, func(value string) (time.Duration, error) {
		if strings.HasPrefix(value, "-") {
			return 0, errUnusable
		}
		return time.ParseDuration(value)
	})
}

// OneOf reads one of values, of which the first is the default.
func (e *Env) OneOf(name string, values ...string) string {
	return read(e, name, values[0], strings.Join(values, " or "), func(value string) (string, error) {
		if !slices.Contains(values, strings.ToLower(value)) {
			return "", errUnusable
		}
		return strings.ToLower(value), nil
	})
}

// Redis reads a URL in the form of [redis.ParseURL].
func (e *Env) Redis(name, byDefault string) *redis.Options {
	return read(e, name, byDefault, "a URL such as "+byDefault, redis.ParseURL)
}

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

// CheckHealth asks the server at address for its health. An image without a shell has nothing else to ask with.
func CheckHealth(address string) error {
	client := &http.Client{Timeout: 2 * time.Second}
	response, err := client.Get("http://" + address + "/healthz")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("health check: %s", response.Status)
	}
	return nil
}

// traced adds the ids of the span in the context to each log line, so that a line leads to its trace. Log with
// slog.InfoContext and its like: without a context there is no span.
type traced struct{ slog.Handler }

func (h traced) Handle(ctx context.Context, record slog.Record) error {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		record.AddAttrs(slog.Any("trace_id", span.TraceID()), slog.Any("span_id", span.SpanID()))
	}
	return h.Handler.Handle(ctx, record)
}

func (h traced) WithAttrs(a []slog.Attr) slog.Handler { return traced{h.Handler.WithAttrs(a)} }
func (h traced) WithGroup(name string) slog.Handler   { return traced{h.Handler.WithGroup(name)} }

// NewBroker returns a broker on the Redis server of options. It doesn't connect yet.
func NewBroker(options *redis.Options) (*Broker, error) {
	options.ContextTimeoutEnabled = true // a deadline in ctx holds for the connection too
	options.DialTimeout = time.Second
	options.MaxRetries = -1 // a PUBLISH that is sent again may be heard twice
	// Both are commands at each connection, and each would be a span that says nothing about a request.
	options.DisableIdentity = true
	options.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}

	logging.Disable() // go-redis has a log of its own, without end while Redis is away; each error is returned as well
	client := redis.NewClient(options)
	// redisotel makes a span of each command, without the statement, which would hold the whole payload.
	err := redisotel.InstrumentTracing(client,
		redisotel.WithDBStatement(false),
		redisotel.WithCallerEnabled(false),
		redisotel.WithDialFilter(true),
		redisotel.WithCommandFilter(func(command redis.Cmder) bool {
			return command.Name() != "publish" // true leaves a command out
		}))
	return &Broker{redis: client, report: rate.Sometimes{Interval: time.Second}}, err
}

// ErrRefused is returned when Redis refuses the user or the password. Trying again would not help.
var ErrRefused = errors.New("REDIS_URL: Redis refuses the user or the password, want those that it knows")

// explain adds ErrRefused to an error of Redis's that means it.
func explain(err error) error {
	if redis.IsAuthError(err) || redis.IsPermissionError(err) {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}
