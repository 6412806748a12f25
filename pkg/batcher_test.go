package pkg

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// receiver is the other end: it counts what it accepts.
type receiver struct {
	accept func(ctx context.Context, spans []sdktrace.ReadOnlySpan) error
	made   chan struct{} // unless nil, batch closes it when it has made all spans
	mu     sync.Mutex
	spans  []sdktrace.ReadOnlySpan
}

func (r *receiver) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if r.accept != nil {
		if err := r.accept(ctx, spans); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spans = append(r.spans, spans...)
	return nil
}

func (*receiver) Shutdown(context.Context) error { return nil }

// batch makes n spans through a NewBatcher that exports to r, and returns what otel.Handle got and Shutdown returned.
func batch(t *testing.T, r *receiver, n int, options ...sdktrace.BatchSpanProcessorOption) (handled []string, last error) {
	t.Helper()
	var mu sync.Mutex
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		mu.Lock()
		defer mu.Unlock()
		handled = append(handled, err.Error())
	}))
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(NewBatcher(r, options...)))
	for range n {
		_, span := provider.Tracer("test").Start(t.Context(), "span")
		span.End()
	}
	if r.made != nil {
		close(r.made)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	last = provider.Shutdown(ctx)
	mu.Lock()
	defer mu.Unlock()
	return handled, last
}

func TestLostSpansAreCounted(t *testing.T) {
	t.Run("none", func(t *testing.T) {
		r := &receiver{}
		if handled, err := batch(t, r, 1000); err != nil || len(handled) > 0 || len(r.spans) != 1000 {
			t.Errorf("got %v and %v, and %d spans arrived, want all 1000", err, handled, len(r.spans))
		}
	})
	t.Run("the queue is full", func(t *testing.T) {
		r := &receiver{made: make(chan struct{})}
		r.accept = func(context.Context, []sdktrace.ReadOnlySpan) error { <-r.made; return nil }
		handled, err := batch(t, r, 5000, sdktrace.WithMaxQueueSize(1000))
		if len(r.spans) != 1000 || err == nil || !strings.Contains(err.Error(), "4000 of 5000 spans were lost") {
			t.Errorf("%d of 5000 arrived, and Shutdown returned %v", len(r.spans), err)
		}
		if !slices.Contains(handled, "4000 of 5000 spans were lost so far: the queue is full") {
			t.Errorf("handled %d errors, the last of them %q", len(handled), handled[max(0, len(handled)-1):])
		}
	})
	t.Run("the size of the queue is the variable's", func(t *testing.T) {
		t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "700")
		r := &receiver{made: make(chan struct{})}
		r.accept = func(context.Context, []sdktrace.ReadOnlySpan) error { <-r.made; return nil }
		if _, err := batch(t, r, 1000); len(r.spans) != 700 || !strings.Contains(fmt.Sprint(err), "300 of 1000 spans were lost") {
			t.Errorf("%d of 1000 arrived, and Shutdown returned %v", len(r.spans), err)
		}
	})
	t.Run("some are refused", func(t *testing.T) {
		first := true
		r := &receiver{accept: func(context.Context, []sdktrace.ReadOnlySpan) error {
			if first {
				first = false
				return errors.New("no")
			}
			return nil
		}}
		handled, err := batch(t, r, 1000)
		if len(r.spans) != 488 || !strings.Contains(fmt.Sprint(err), "512 of 1000 spans were lost") || len(handled) != 1 {
			t.Errorf("%d of 1000 arrived, Shutdown returned %v, and handled was %v", len(r.spans), err, handled)
		}
	})
	t.Run("the agent hangs at the end", func(t *testing.T) {
		hung, late := make(chan struct{}), make(chan error)
		r := &receiver{accept: func(context.Context, []sdktrace.ReadOnlySpan) error { <-hung; return errors.New("too late") }}
		if _, err := batch(t, r, 10); !strings.Contains(fmt.Sprint(err), "10 of 10 spans were lost") {
			t.Errorf("Shutdown returned %v", err)
		}
		otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { late <- err }))
		close(hung)
		<-late
	})
}

// A batch that the receiver refuses as too large arrives in parts.
func TestABatchThatIsTooLargeIsHalved(t *testing.T) {
	r := &receiver{accept: func(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
		if len(spans) > 100 {
			return fmt.Errorf("traces export: %w", status.Error(codes.ResourceExhausted, "grpc: received message larger than max"))
		}
		return nil
	}}
	if handled, err := batch(t, r, 1000); err != nil || len(handled) > 0 || len(r.spans) != 1000 {
		t.Errorf("got %v and %v, and %d spans arrived, want all 1000", err, handled, len(r.spans))
	}
}

// An error may contain kilobytes of text.
func TestLongTextsAreCutOff(t *testing.T) {
	r := &receiver{}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(NewBatcher(r)))
	_, span := provider.Tracer("test").Start(t.Context(), "span")
	long := strings.Repeat("ü", 50_000)
	Fail(span, errors.New(long))
	span.AddEvent("event", trace.WithAttributes(attribute.String("text", long), attribute.StringSlice("texts", []string{long, long}),
		attribute.Int("number", 7)))
	span.End()
	if err := provider.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := r.spans[0]
	if n := len(got.Status().Description); got.Status().Code != otelcodes.Error || n != maxText {
		t.Errorf("the status is %v with a text of %d bytes, want an error with %d", got.Status().Code, n, maxText)
	}
	for _, a := range got.Events()[0].Attributes {
		if text := a.Value.String(); len(text) > maxText || a.Key == "number" && text != "7" {
			t.Errorf("%s has %d bytes", a.Key, len(text))
		}
	}
	if snapshot := tracetest.SpanStubFromReadOnlySpan(got); len(snapshot.Events) != 1 {
		t.Errorf("%d events", len(snapshot.Events))
	}
}
