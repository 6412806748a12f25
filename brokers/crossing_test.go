package main

// Replace the publisher and the worker below with your own. The test fails if the trace context is lost between them.
// It needs no collector and no backend.

import (
	"context"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"otel-demo/brokers/redisstreams"
)

// spans records the spans of all tests in this package. Don't give each test its own provider: a package-level `var
// tracer = otel.Tracer("...")` stays on the first provider that is set, so the second test would see no spans.
var spans = tracetest.NewSpanRecorder()

func TestMain(m *testing.M) {
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	otel.SetTextMapPropagator(propagation.TraceContext{}) // there is none by default
	m.Run()
}

func TestTheTraceCrossesTheBroker(t *testing.T) {
	spans.Reset()
	client := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	defer client.Close()
	worker := redisstreams.Worker{Client: client, Name: "worker", Idle: time.Minute}
	if err := worker.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, root := otel.Tracer("test").Start(t.Context(), "root")
	if err := redisstreams.Publish(ctx, client, "make donuts"); err != nil {
		t.Fatal(err)
	}
	root.End()
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	if err := worker.Receive(ctx, func(context.Context, string) error { stop(); return nil }); err != nil {
		t.Fatal(err)
	}

	names := map[string]bool{}
	for _, span := range spans.Ended() {
		names[span.Name()] = true
		if span.SpanContext().TraceID() != root.SpanContext().TraceID() {
			t.Errorf("%q is in its own trace: the context was lost on the way to it", span.Name())
		}
	}
	if !names["publish work"] || !names["process work"] {
		t.Errorf("the spans are %v, want publish work and process work among them", names)
	}
}
