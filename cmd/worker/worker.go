// Command worker receives the messages that the server publishes, and processes each of them.
//
// This is file 4 of 6. The trace continues in another process. In Jaeger, the span `process work` starts when the
// worker takes the message, usually right after it is published. It may end long after the client got its response.
package main

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/baggage"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"otel-demo/pkg"
)

func main() { pkg.Main(run) }

func run(ctx context.Context) error {
	var env pkg.Env
	redisOptions := env.Redis("REDIS_URL", "redis://localhost:6379/0")
	work := env.Duration("WORK_DURATION", "200ms")
	processSpan := env.OneOf("PROCESS_SPAN", "child", "root")
	env.OpenTelemetry()
	if env.Err != nil {
		return env.Err
	}

	shutdown, err := pkg.StartTracing(ctx, "worker")
	if err != nil {
		return err
	}
	defer shutdown()
	broker, err := pkg.NewBroker(redisOptions)
	if err != nil {
		return err
	}
	defer broker.Close()

	// A link is a reference from one span to another, which may be in a different trace. If the message carries a trace
	// context, `process work` links to `publish work`, which sent it. By default it is also a child of `publish work`,
	// so you see one trace. With PROCESS_SPAN=root, `process work` starts its own trace, and only the link remains.
	// Choose that when a message may wait for hours, or when one span processes a batch of messages from many traces.
	broker.NewRoot = processSpan == "root"

	// Receive calls handle for each message. Like otelhttp in the server, Receive puts its span, `process work`, into
	// ctx. If you return an error, that span is marked as failed.
	handle := func(ctx context.Context, message pkg.Message) error {
		// The client set the username, two hops away. The server only had to pass ctx on.
		// Try it: replace `Member("username")` with `Member("Username")` and run `go run -C local . -once -shape`.
		// user.name is now empty, so it isn't printed: names are case-sensitive, and a missing key just
		// returns an empty string.
		username := baggage.FromContext(ctx).Member("username").Value()
		// You can search for an attribute: in Jaeger, enter user.name=donuts in the search form.
		trace.SpanFromContext(ctx).SetAttributes(semconv.UserName(username))
		if err := pkg.SimulateWork(ctx, work); err != nil {
			return err
		}
		slog.InfoContext(ctx, "processed", "message", message.ID, "username", username)
		return nil
	}

	// On SIGTERM, Receive takes no new messages, cancels those in progress after 4.5 s, and returns. Then the deferred
	// calls run, last one first: Redis is closed, and then the last spans are exported.
	return broker.Receive(ctx, handle)
}

// You have seen both ends of the message. Next: pkg/broker.go, how the trace context got from one to the other.
