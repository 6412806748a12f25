package pkg

// This file is none of the six. It holds what a program needs whether it is traced or not: settings, signals, an exit
// status, an HTTP server, and a log. (Two things here know of tracing: Env.OpenTelemetry and traceHandler.)

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
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"go.opentelemetry.io/otel/trace"
)

// Main runs a program: run gets a context that the first SIGINT or SIGTERM ends. A second one ends the program at once.
// The exit status is 0 without an error, 130 or 143 after a signal (128 and its number, as in a shell), 1 otherwise.
func Main(run func(ctx context.Context) error) {
	slog.SetDefault(slog.New(traceHandler{slog.NewTextHandler(os.Stderr, nil)}))
	logging.Disable() // go-redis's own log: each of its errors is returned as well

	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		cancel(interrupted{<-signals})
		signal.Stop(signals)
	}()
	err := run(ctx)
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

// interrupted is the cause of a context that a signal has ended.
type interrupted struct{ os.Signal }

func (i interrupted) Error() string { return "interrupted: " + i.String() }

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

// Env reads environment variables. One that is empty has its default. The first invalid value is kept in Err: a program
// looks at it once, and stops before it has started anything. (OpenTelemetry's specification has an SDK warn and go on.
// A demo that goes on with something else than you asked for teaches the wrong thing.)
type Env struct{ Err error }

var errInvalid = errors.New("invalid")

func read[T any](e *Env, name, byDefault, want string, parse func(string) (T, error)) T {
	value := cmp.Or(os.Getenv(name), byDefault)
	parsed, err := parse(value)
	if err != nil {
		shown := strconv.Quote(value[strings.LastIndex(value, "@")+1:]) // a URL without its user and password
		if strings.HasSuffix(name, "HEADERS") {
			shown = "(a secret)"
		}
		e.Err = cmp.Or(e.Err, fmt.Errorf("%s=%s: want %s", name, shown, want))
	}
	return parsed
}

// URL reads a URL of http or https.
func (e *Env) URL(name, byDefault string) *url.URL {
	return read(e, name, byDefault, "a URL such as "+byDefault, func(value string) (*url.URL, error) {
		u, err := url.Parse(value)
		if err == nil && (u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "") {
			err = errInvalid
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
			return 0, errInvalid
		}
		return time.ParseDuration(value)
	})
}

// OneOf reads one of values, of which the first is the default.
func (e *Env) OneOf(name string, values ...string) string {
	return read(e, name, values[0], strings.Join(values, " or "), func(value string) (string, error) {
		if !slices.Contains(values, strings.ToLower(value)) {
			return "", errInvalid
		}
		return strings.ToLower(value), nil
	})
}

// Redis reads a URL in the form of [redis.ParseURL].
func (e *Env) Redis(name, byDefault string) *redis.Options {
	return read(e, name, byDefault, "a URL such as "+byDefault, redis.ParseURL)
}

// OpenTelemetry checks the standard variables, which the SDK, its exporter and autoprop read by themselves.
func (e *Env) OpenTelemetry() {
	const positive = "a whole number from 1, such as 1000"
	for _, check := range []struct{ names, pattern, want string }{
		{"OTEL_EXPORTER_OTLP_ENDPOINT OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", `https?://[^/]+.*`,
			"a URL such as http://localhost:4317"},
		{"OTEL_EXPORTER_OTLP_PROTOCOL OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", `grpc`, "grpc"},
		{"OTEL_EXPORTER_OTLP_TIMEOUT OTEL_EXPORTER_OTLP_TRACES_TIMEOUT OTEL_BSP_SCHEDULE_DELAY OTEL_BSP_EXPORT_TIMEOUT",
			`[1-9]\d{0,8}`, positive + " (in milliseconds)"},
		{"OTEL_BSP_MAX_QUEUE_SIZE OTEL_BSP_MAX_EXPORT_BATCH_SIZE", `[1-9]\d{0,6}`, positive},
		{"OTEL_SDK_DISABLED", `(?i)false|true`, "false or true"},
		{"OTEL_TRACES_SAMPLER", `(parentbased_)?(always_on|always_off|traceidratio)`,
			"always_on, always_off or traceidratio, or one of these with parentbased_ before it"},
		{"OTEL_TRACES_SAMPLER_ARG", `0|1|0?\.\d+|[01]\.0*`, "a ratio from 0 to 1, such as 0.1"},
		{"OTEL_PROPAGATORS", `(,?(tracecontext|baggage|b3|b3multi|jaeger|ottrace|xray|none)\b)+`,
			"some of tracecontext, baggage, b3, b3multi, jaeger, ottrace, xray, or none"},
		{"OTEL_EXPORTER_OTLP_HEADERS OTEL_EXPORTER_OTLP_TRACES_HEADERS OTEL_RESOURCE_ATTRIBUTES",
			`[^=,]+=[^,]*(,[^=,]+=[^,]*)*`, "key=value,key=value"},
	} {
		pattern := regexp.MustCompile("^(" + check.pattern + ")?$")
		for _, name := range strings.Fields(check.names) {
			read(e, name, "", check.want, func(value string) (_ any, err error) {
				if !pattern.MatchString(value) {
					err = errInvalid
				}
				return nil, err
			})
		}
	}
}

// Error is an error with a value for the attribute error.type, which [Fail] sets: one of a few words.
type Error struct{ Type, Text string }

func (e Error) Error() string     { return e.Text }
func (e Error) ErrorType() string { return e.Type }

// Work stands for work that takes a while. It stops early, with the cause as its error, when ctx is done.
func Work(ctx context.Context, duration time.Duration) error {
	select {
	case <-time.After(duration):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
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
