package examples_test

// You need this where one operation makes several calls at the same time. Their spans are children of one parent and
// overlap. errgroup's context is canceled when the first call fails, so that the other calls can stop.

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"otel-demo/pkg"
)

// order passes errgroup's context to check and reserve: it holds order's span, as ctx does. Wait cancels it in any
// case, so confirm gets ctx.
func order(spans trace.TracerProvider, check, reserve, confirm func(context.Context) error) error {
	return traced(context.Background(), spans, "order", func(ctx context.Context) error {
		group, groupCtx := errgroup.WithContext(ctx)
		group.Go(func() error { return traced(groupCtx, spans, "check card", check) })
		group.Go(func() error { return traced(groupCtx, spans, "reserve", reserve) })
		if err := group.Wait(); err != nil { // the first error; the others are in the trace
			return err
		}
		return traced(ctx, spans, "confirm", func(ctx context.Context) error { return ctx.Err() })
	})
}

// The first order succeeds. In the second one, reserve fails, which cancels check.
func Example_parallel() {
	spans, recorder := record()
	for _, failure := range []error{nil, pkg.Error{Type: "sold_out", Text: "sold out"}} {
		reserving := make(chan error, 1)
		reserve := func(context.Context) error { reserving <- failure; return failure }
		check := func(ctx context.Context) error {
			select {
			case err := <-reserving: // both calls are running
				if err != nil && pkg.Sleep(ctx, 10*time.Second) != nil { // a long call
					return pkg.Error{Type: "canceled", Text: ctx.Err().Error()}
				}
				return nil
			case <-time.After(10 * time.Second):
				return pkg.Error{Type: "alone", Text: "the calls don't overlap"}
			}
		}
		_ = order(spans, check, reserve, func(ctx context.Context) error { return ctx.Err() })
	}
	fmt.Print(shape(recorder))
	// Output:
	// order  internal
	//   check card  internal
	//   confirm  internal
	//   reserve  internal
	// order  internal  error.type=sold_out
	//   check card  internal  error.type=canceled
	//   reserve  internal  error.type=sold_out
}
