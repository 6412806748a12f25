package main

// Copy this file, and replace the publisher and the worker with your own. The tests fail if the trace context is lost
// between them, or if the parent is the wrong span. They need no collector and no backend.

import (
	"context"
	"fmt"
	"log"
	"os"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"otel-demo/brokers/redisstreams"
	"otel-demo/pkg"
)

// spans records the spans of all tests in this package. Don't give each test its own provider: a package-level `var
// tracer = otel.Tracer("...")` stays on the first provider that is set, so the second test would see no spans.
var spans = tracetest.NewSpanRecorder()

// The setup is the program's own: without a propagator there, the tests must fail. It exports nothing.
func TestMain(m *testing.M) {
	os.Setenv("OTEL_TRACES_EXPORTER", "none")
	shutdown, err := pkg.StartTracing(context.Background(), "test")
	if err != nil {
		log.Fatal(err)
	}
	defer shutdown()
	otel.GetTracerProvider().(*sdktrace.TracerProvider).RegisterSpanProcessor(spans)
	m.Run()
}

func TestTheTraceCrossesTheBroker(t *testing.T) {
	client := startRedis(t)
	startWorker(t, client)
	ctx, root := otel.Tracer("test").Start(t.Context(), "root")
	if err := redisstreams.Publish(ctx, client, "make donuts"); err != nil {
		t.Fatal(err)
	}
	root.End()
	publish, process := ended(t, "publish work"), ended(t, "process work")
	isChild(t, publish, root.SpanContext().TraceID().String(), root.SpanContext().SpanID().String())
	// If your worker starts a new trace for each message, compare process.Links()[0].SpanContext instead.
	isChild(t, process, publish.SpanContext().TraceID().String(), publish.SpanContext().SpanID().String())
}

// Are your publisher and your worker two main packages? A test can't import those. Then test each where it is, against
// the message between them. Both tests agree on its header.
func TestThePublisherWritesTheHeader(t *testing.T) {
	client := startRedis(t)
	if err := redisstreams.Publish(t.Context(), client, "make donuts"); err != nil {
		t.Fatal(err)
	}
	messages, err := client.XRange(t.Context(), "work", "-", "+").Result()
	if err != nil || len(messages) != 1 {
		t.Fatal(messages, err)
	}
	publish := ended(t, "publish work").SpanContext()
	want := fmt.Sprintf("00-%s-%s-01", publish.TraceID(), publish.SpanID())
	if got := messages[0].Values["traceparent"]; got != want {
		t.Errorf("the message has the traceparent %v, want that of the publisher's span, %s", got, want)
	}
}

func TestTheWorkerReadsTheHeader(t *testing.T) {
	const traceID, spanID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	client := startRedis(t)
	message := map[string]any{"task": "make donuts", "traceparent": "00-" + traceID + "-" + spanID + "-01"}
	if err := client.XAdd(t.Context(), &redis.XAddArgs{Stream: "work", Values: message}).Err(); err != nil {
		t.Fatal(err)
	}
	startWorker(t, client)
	isChild(t, ended(t, "process work"), traceID, spanID)
}

// startRedis starts a broker in the test: miniredis, a fake. In brokers/server, newNATS, newKfake and newMochi (MQTT) also
// start one in the test's process, each in a few lines; newProcess and newRabbitMQ start a real server.
func startRedis(t *testing.T) *redis.Client {
	t.Helper()
	spans.Reset()
	client := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { client.Close() })
	return client
}

// startWorker runs your consumer until the test ends. Does yours have a callback? Subscribe here instead, and drain or
// unsubscribe in Cleanup. If your broker stores nothing, as NATS, return only when it knows the subscription.
func startWorker(t *testing.T, client *redis.Client) {
	t.Helper()
	worker := redisstreams.Worker{Client: client, Name: "worker", Idle: time.Minute}
	if err := worker.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- worker.Receive(ctx, func(context.Context, string) error { return nil }) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// ended waits for a span to end, and returns it. That is how to wait for a consumer, with a callback too: when your
// handler signals that it was called, the span around it hasn't ended yet.
func ended(t *testing.T, name string) sdktrace.ReadOnlySpan {
	t.Helper()
	for timeout := time.After(10 * time.Second); ; {
		for _, span := range spans.Ended() {
			if span.Name() == name {
				return span
			}
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-timeout:
			t.Fatalf("no span %q ended within 10 s", name)
		}
	}
}

func isChild(t *testing.T, span sdktrace.ReadOnlySpan, traceID, parentID string) {
	t.Helper()
	if got := span.SpanContext().TraceID().String(); got != traceID {
		t.Errorf("%q is in the trace %s, want %s: the context was lost on the way to it", span.Name(), got, traceID)
	}
	if got := span.Parent().SpanID().String(); got != parentID {
		t.Errorf("the parent of %q is %s, want %s: was the wrong ctx injected?", span.Name(), got, parentID)
	}
}
