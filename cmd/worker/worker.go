// Command worker receives the messages that the server publishes, and works on each.
//
// This is file 4 of 6. The trace goes on in another process. In Jaeger the span `process work` begins just after the
// message is published, as soon as the worker has a slot free, and it may end long after the response to the client.
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

	shutdown, err := pkg.StartTracing(ctx, "worker", pkg.NewBatcher, pkg.Diagnose)
	if err != nil {
		return err
	}
	defer shutdown()
	broker, err := pkg.NewBroker(redisOptions)
	if err != nil {
		return err
	}
	defer broker.Close()

	// A span that processes a message always has a link to the span that published it: a reference, which may lead to
	// another trace. By default it is also that one's child, so that you see one trace. With `root` it starts a trace
	// of its own: right where a message waits for hours, or where one span processes a batch of many traces'
	// messages.
	broker.NewRoot = processSpan == "root"

	// Receive calls this for each message. The span `process work` is in ctx, as a request's span is in the context
	// of an HTTP handler: Receive does what otelhttp did in the server. An error that you return makes that span an
	// error.
	handle := func(ctx context.Context, message pkg.Message) error {
		// This was set in the client, two hops away. The server did nothing for it but pass ctx on.
		username := baggage.FromContext(ctx).Member("username").Value()
		// As an attribute you can search for it: in Jaeger, enter user.name=donuts under "Tags".
		trace.SpanFromContext(ctx).SetAttributes(semconv.UserName(username))
		if err := pkg.Work(ctx, work); err != nil {
			return err
		}
		slog.InfoContext(ctx, "processed", "message", message.ID, "username", username)
		return nil
	}

	// On SIGTERM, Receive takes no new messages, finishes what it has received, within 5 s, and returns. Then the
	// deferred calls run, the last one first: Redis is closed, and then the last spans are exported.
	return broker.Receive(ctx, handle)
}

// You have seen both ends of the message. Next: pkg/broker.go, how the trace context got from one to the other.
