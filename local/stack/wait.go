package stack

import (
	"context"
	"errors"
	"time"

	"otel-demo/local/poll"
	"otel-demo/local/trace"
)

// Quiet is how long nothing new must come before what is still missing is given up.
const Quiet = 5 * time.Second

// Settled is how long a whole trace must stay as it is before it counts as finished. The programs send a batch a second,
// each at its own time.
const Settled = time.Second

// WaitForTraces waits until every trace is whole at each backend that the demo has, or nothing new has come for 5 s.
// Call it when the requests are done. Traces that broke, or that were not received, never become whole.
func (d *Demo) WaitForTraces(ctx context.Context) error {
	return d.progress("waiting for spans", func() error { return d.waitForTraces(ctx) })
}

func (d *Demo) waitForTraces(ctx context.Context) error {
	backends := d.Backends()
	spans, since := 0, time.Now()
	return poll.Until(ctx, 50*time.Millisecond, 0, func() error {
		now, whole := 0, true
		for _, backend := range backends {
			now += backend.Spans()
			traces := backend.Traces()
			whole = whole && len(traces) > 0 && len(trace.Missing(traces)) == 0
		}
		if now != spans {
			spans, since = now, time.Now()
		}
		// A trace of which no span has come yet would be overlooked, so a whole batch's time must have passed.
		if rest := time.Since(since); rest > Quiet || whole && rest > Settled {
			return nil
		}
		return errMore
	})
}

var errMore = errors.New("more may come")
