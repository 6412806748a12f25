package pkg

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
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

// batch ends n spans in a newBatcher that exports to r, and returns what otel.Handle got and Shutdown returned.
func batch(t *testing.T, r *receiver, n int) (handled []string, last error) {
	t.Helper()
	var mu sync.Mutex
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		mu.Lock()
		defer mu.Unlock()
		handled = append(handled, err.Error())
	}))
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(newBatcher(r)))
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
		t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "1000")
		handled, err := batch(t, r, 5000)
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

// A batch that the receiver refuses as too large arrives in parts. Any other refusal is final.
func TestOnlyABatchThatIsTooLargeIsHalved(t *testing.T) {
	requests := 0
	r := &receiver{accept: func(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
		requests++
		if len(spans) > 100 {
			return fmt.Errorf("traces export: %w", status.Error(codes.ResourceExhausted, "grpc: received message larger than max"))
		}
		return nil
	}}
	if handled, err := batch(t, r, 1000); err != nil || len(handled) > 0 || len(r.spans) != 1000 {
		t.Errorf("got %v and %v, and %d spans arrived, want all 1000", err, handled, len(r.spans))
	}
	requests = 0
	r = &receiver{accept: func(context.Context, []sdktrace.ReadOnlySpan) error {
		requests++
		return status.Error(codes.ResourceExhausted, "RATE_LIMITED: ingestion rate limit exceeded")
	}}
	if _, err := batch(t, r, 512); !strings.Contains(fmt.Sprint(err), "512 of 512 spans were lost") || requests != 1 {
		t.Errorf("a rate limit: %d requests for one batch, and Shutdown returned %v", requests, err)
	}
}

// A rate limit that says when to try again is waited for.
func TestRetryInfoIsHonored(t *testing.T) {
	limited, err := status.New(codes.ResourceExhausted, "slow down").WithDetails(
		&errdetails.RetryInfo{RetryDelay: durationpb.New(1500 * time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	var first time.Time
	var waited time.Duration
	r := &receiver{accept: func(context.Context, []sdktrace.ReadOnlySpan) error {
		if first.IsZero() {
			first = time.Now()
			return limited.Err()
		}
		waited = time.Since(first)
		return nil
	}}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(newBatcher(r)))
	_, span := provider.Tracer("test").Start(t.Context(), "span")
	span.End()
	if err := provider.Shutdown(t.Context()); err != nil || len(r.spans) != 1 || waited < 1500*time.Millisecond {
		t.Errorf("Shutdown returned %v, %d of 1 spans arrived, %v after the first attempt", err, len(r.spans), waited)
	}
}

// A flush takes a place in the SDK's queue. However many there are, each span is exported or counted, and the places
// come back.
func TestManyFlushesLoseNoSpan(t *testing.T) {
	blocked, begun := make(chan struct{}), make(chan struct{}, 1000)
	var handled atomic.Int32
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) { handled.Add(1) }))
	r := &receiver{accept: func(context.Context, []sdktrace.ReadOnlySpan) error { begun <- struct{}{}; <-blocked; return nil }}
	t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "10")
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(newBatcher(r)))
	end := func(n int) {
		for range n {
			_, span := provider.Tracer("test").Start(t.Context(), "span")
			span.End()
		}
	}
	end(1)
	<-begun // the exporter is busy
	var flushes sync.WaitGroup
	for range 50 {
		flushes.Go(func() { provider.ForceFlush(t.Context()) })
	}
	hasty, cancel := context.WithCancel(t.Context())
	cancel()
	if err := provider.ForceFlush(hasty); !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled flush returned %v", err)
	}
	end(9)
	if n := handled.Load(); n != 0 {
		t.Errorf("%d of 10 spans were refused by a queue of 10", n)
	}
	end(5)
	if n := handled.Load(); n != 5 {
		t.Errorf("%d of 5 spans that found the queue full were counted", n)
	}
	close(blocked)
	flushes.Wait()
	for range 20 { // the queue is empty now
		end(10)
		if err := provider.ForceFlush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := provider.Shutdown(t.Context()); len(r.spans) != 210 || handled.Load() != 5 || !strings.Contains(fmt.Sprint(err), "5 of 215 spans were lost") {
		t.Errorf("%d of 215 spans arrived, %d were counted as lost, and Shutdown returned %v", len(r.spans), handled.Load(), err)
	}
}
