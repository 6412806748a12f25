package runner

import (
	"context"
	"errors"
	"time"

	"otel-demo/local/poll"
	"otel-demo/local/spans"
)

// Quiet is how long to wait without a new span before giving up on missing ones.
const Quiet = 5 * time.Second

// Settled is how long a complete trace must stay unchanged before it counts as finished. Each program sends a batch a
// second, at its own time.
const Settled = time.Second

// WaitForTraces waits until every trace is complete at each of the demo's backends, or no new span has arrived for 5 s.
// Call it when the requests are done. Traces that are broken, or that were not received, never become complete.
func (d *Demo) WaitForTraces(ctx context.Context) error {
	return d.progress("waiting for spans", func() error { return d.waitForTraces(ctx) })
}

func (d *Demo) waitForTraces(ctx context.Context) error {
	backends := d.Backends()
	count, since := 0, time.Now()
	return poll.Until(ctx, 50*time.Millisecond, 0, func() error {
		now, whole := 0, true
		for _, backend := range backends {
			now += backend.Spans()
			traces := backend.Traces()
			whole = whole && len(traces) > 0 && len(spans.Missing(traces)) == 0
		}
		if now != count {
			count, since = now, time.Now()
		}
		// A trace with no span here yet would be overlooked, so the time of a whole batch must have passed.
		if rest := time.Since(since); rest > Quiet || whole && rest > Settled {
			return nil
		}
		return errMore
	})
}

var errMore = errors.New("more may arrive")
