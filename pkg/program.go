package pkg

// This file is not one of the six. It holds what any program needs: settings, signals, an exit status, an HTTP server,
// and a log. Only Env.OpenTelemetry and traceHandler have to do with tracing.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
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
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"go.opentelemetry.io/otel/trace"
)

// Main runs a program. The first SIGINT or SIGTERM cancels run's context; a second one kills the program. The exit
// status is 0 if run returns nil, 130 or 143 if it returns the signal as its error (as in a shell), and 1 otherwise.
func Main(run func(ctx context.Context) error) {
	slog.SetDefault(slog.New(newTraceHandler(slog.NewTextHandler(os.Stderr, nil))))
	logging.Disable() // go-redis's own log: it returns each of these errors too

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

// interrupted is the cause of a context that a signal canceled.
type interrupted struct{ os.Signal }

func (i interrupted) Error() string { return "interrupted: " + i.String() }

// traceHandler adds the ids of the span in the context to each log line, so that you can go from the line to its trace.
// Log with slog.InfoContext and its like: slog.Info passes no context. The logger's groups and attributes are added by
// with, after the ids, so the ids are never inside a group.
type traceHandler struct {
	slog.Handler
	with func(slog.Handler) slog.Handler
}

func newTraceHandler(handler slog.Handler) slog.Handler {
	return traceHandler{handler, func(next slog.Handler) slog.Handler { return next }}
}

func (h traceHandler) Handle(ctx context.Context, record slog.Record) error {
	handler := h.Handler
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		ids := []slog.Attr{slog.Any("trace_id", span.TraceID()), slog.Any("span_id", span.SpanID())}
		handler = handler.WithAttrs(ids)
	}
	return h.with(handler).Handle(ctx, record)
}

func (h traceHandler) WithAttrs(attributes []slog.Attr) slog.Handler {
	return traceHandler{h.Handler, func(next slog.Handler) slog.Handler { return h.with(next).WithAttrs(attributes) }}
}

func (h traceHandler) WithGroup(name string) slog.Handler {
	return traceHandler{h.Handler, func(next slog.Handler) slog.Handler { return h.with(next).WithGroup(name) }}
}

// Env reads environment variables. An empty one has its default. The first invalid value is kept in Err, so that a
// program checks once and exits before it starts anything. (The specification has an SDK warn and continue instead. A
// demo that ignores your settings would teach the wrong thing.)
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
	const encoded = ", with # as %23, / as %2F and % as %25 in the user and the password"
	return read(e, name, byDefault, "a URL such as "+byDefault+encoded, func(value string) (*redis.Options, error) {
		options, err := redis.ParseURL(value)
		if err == nil && strings.Contains(value, "@") && options.Username+options.Password == "" {
			err = errInvalid // a # ended the address
		}
		return options, err
	})
}

// OpenTelemetry checks the standard variables that are read, and names what the specification allows and nobody here
// reads. Enumerations may be in any case.
func (e *Env) OpenTelemetry() {
	if file := os.Getenv("OTEL_CONFIG_FILE"); file != "" {
		slog.Warn("OTEL_CONFIG_FILE isn't read; go.opentelemetry.io/contrib/otelconf would do that", "file", file)
	}
	os.Setenv("OTEL_PROPAGATORS", strings.ToLower(os.Getenv("OTEL_PROPAGATORS")))
	for _, check := range []struct{ names, pattern, want string }{
		{"OTEL_EXPORTER_OTLP_ENDPOINT OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", `https?://[^/]+.*`,
			"a URL such as http://localhost:4317"},
		{"OTEL_EXPORTER_OTLP_PROTOCOL OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", `grpc|http/(protobuf|json)`,
			"grpc, http/protobuf or http/json"},
		{"OTEL_TRACES_EXPORTER", `(,?(otlp|console|none|zipkin|logging)\b)+`, "otlp, console or none"},
		{"OTEL_EXPORTER_OTLP_TIMEOUT OTEL_EXPORTER_OTLP_TRACES_TIMEOUT OTEL_BSP_EXPORT_TIMEOUT OTEL_BSP_SCHEDULE_DELAY",
			`\d{1,9}`, "a whole number from 0, such as 10000 (in milliseconds)"},
		{"OTEL_BSP_MAX_QUEUE_SIZE OTEL_BSP_MAX_EXPORT_BATCH_SIZE", `[1-9]\d{0,6}`, "a whole number from 1, such as 99"},
		{"OTEL_SDK_DISABLED", `false|true`, "false or true"},
		{"OTEL_TRACES_SAMPLER", `(parentbased_)?(always_on|always_off|traceidratio|jaeger_remote)|xray`,
			"always_on, always_off or traceidratio, or one of these with parentbased_ before it"},
		{"OTEL_TRACES_SAMPLER_ARG", `0|1|0?\.\d+|[01]\.0*|\d(\.\d+)?e-\d+|\w+=.*`, "a ratio from 0 to 1, such as 0.1"},
		{"OTEL_PROPAGATORS", `(,?(tracecontext|baggage|b3|b3multi|jaeger|ottrace|xray|none)\b)+`,
			"some of tracecontext, baggage, b3, b3multi, jaeger, ottrace, xray, or none"},
		{"OTEL_EXPORTER_OTLP_HEADERS OTEL_EXPORTER_OTLP_TRACES_HEADERS OTEL_RESOURCE_ATTRIBUTES",
			`[^=,]+=[^,]*(,[^=,]+=[^,]*)*,?`, "key=value,key=value"},
	} {
		pattern := regexp.MustCompile("^(?i:" + check.pattern + ")?$")
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

// SimulateWork takes the place of a program's work. It takes as long as duration, or returns early as [Sleep] does.
func SimulateWork(ctx context.Context, duration time.Duration) error { return Sleep(ctx, duration) }

// Sleep waits for duration. If ctx is canceled first, Sleep returns the cause.
func Sleep(ctx context.Context, duration time.Duration) error {
	select {
	case <-time.After(duration):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Backoff returns how long to wait between attempts: 100 ms, doubled each time, up to 2 s.
func Backoff() backoff.BackOff {
	return &backoff.ExponentialBackOff{
		InitialInterval: 100 * time.Millisecond, Multiplier: 2, MaxInterval: 2 * time.Second, RandomizationFactor: 0.5,
	}
}

// Serve handles requests until ctx is canceled. Then it finishes those that it has accepted, within 5 s: after 4 s the
// contexts of their requests are canceled. It returns when their handlers have, so their spans have ended.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler, work time.Duration) error {
	working, cutOff := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cutOff(nil)
	var open atomic.Int64 // connections
	// Without timeouts, a client that sends slowly would hold a connection forever.
	server := &http.Server{
		Handler:           handler,
		BaseContext:       func(net.Listener) context.Context { return working },
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      work + 10*time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    32 << 10,
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				open.Add(1)
			case http.StateClosed:
				open.Add(-1)
			}
		},
	}
	slog.Info("listening", "address", listener.Addr().String())
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	// server.Shutdown would drop a request that it is still reading. So first accept no more, and then wait until all
	// connections are closed: each after its response, and idle ones at once.
	listener.Close()
	<-failed
	defer time.AfterFunc(4*time.Second, func() { cutOff(errCutOff) }).Stop()
	for deadline := time.After(5 * time.Second); open.Load() > 0; {
		server.SetKeepAlivesEnabled(false)
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			slog.Warn("handlers don't return, and their spans are lost", "error", server.Close())
			return nil
		}
	}
	return nil
}

// WaitForServer polls the health check of the server at address until it reports healthy, for up to 60 s. This creates
// no spans: those of health checks would bury the traces that matter.
func WaitForServer(ctx context.Context, address *url.URL) error {
	check := address.ResolveReference(&url.URL{Path: "healthz"})
	_, err := backoff.Retry(ctx, func() (any, error) { return nil, CheckHealth(check.String()) },
		backoff.WithBackOff(Backoff()), backoff.WithMaxElapsedTime(time.Minute))
	if err != nil {
		return fmt.Errorf("wait for the server at %s: %w", check.Redacted(), err)
	}
	return nil
}

// CheckHealth returns nil if the health check at address responds 200 within 2 s. (The server's image has no shell or
// curl to do it.)
func CheckHealth(address string) error {
	client := &http.Client{Timeout: 2 * time.Second}
	response, err := client.Get(address)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		reason, _ := io.ReadAll(io.LimitReader(response.Body, 1000))
		return fmt.Errorf("it responds %s: %q", response.Status, reason)
	}
	return nil
}
