package runner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"otel-demo/local/poll"
	"otel-demo/local/spans"
)

// waitFor waits until a service meets the condition on which another one depends.
func (d *Demo) waitFor(ctx context.Context, s *service, condition string) error {
	switch condition {
	case types.ServiceConditionHealthy:
		return d.progress("waiting for "+s.Name+" to be healthy", func() error { return d.waitHealthy(ctx, s) })
	case types.ServiceConditionCompletedSuccessfully:
		return d.progress("waiting for "+s.Name+" to complete", func() error {
			status, err := d.Wait(ctx, s.Name)
			if err == nil && status != 0 {
				err = &EndError{s.Name, status, s.isClient()}
			}
			return err
		})
	}
	return nil
}

// waitHealthy probes a service until it is healthy, for as long as its health check allows, but at shorter intervals so
// that the demo starts sooner.
func (d *Demo) waitHealthy(ctx context.Context, s *service) error {
	interval, timeout, retries, start := 30*time.Second, 30*time.Second, 3, time.Duration(0) // Compose's defaults
	if check := s.HealthCheck; check != nil {
		interval, timeout = or(check.Interval, interval), or(check.Timeout, timeout)
		start = or(check.StartPeriod, start)
		if check.Retries != nil {
			retries = int(*check.Retries)
		}
	}
	err := poll.Until(ctx, 100*time.Millisecond, start+time.Duration(retries)*interval, func() error {
		if s.kind.probe == nil {
			return errNoProbe
		}
		probeCtx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return d.unlessFailed(s.kind.probe(probeCtx, d, s))
	})
	if err != nil && context.Cause(ctx) == nil {
		err = fmt.Errorf("it is unhealthy: %w", err)
	}
	return err
}

var errNoProbe = poll.Stop(errors.New("it has no healthcheck"))

// unlessFailed returns err, which leads to another attempt, unless a process has failed meanwhile: then there is none.
func (d *Demo) unlessFailed(err error) error {
	if err == nil {
		return nil
	}
	select {
	case failed := <-d.failed:
		return poll.Stop(failed)
	default:
		return err
	}
}

func or(d *types.Duration, byDefault time.Duration) time.Duration {
	if d == nil {
		return byDefault
	}
	return time.Duration(*d)
}

// Quiet is how long to wait without a new span before giving up on missing ones.
const Quiet = 5 * time.Second

// Settled is how long a complete trace must stay unchanged before it counts as finished. Each program sends a batch a
// second, at its own time.
const Settled = time.Second

// WaitForTraces waits until every trace is complete at each of the demo's backends, or no new span has arrived for 5 s.
// Call it when the requests are done. Traces that are broken, or that were not received, never become complete.
func (d *Demo) WaitForTraces(ctx context.Context) error {
	count, since := 0, time.Now()
	return d.progress("waiting for spans", func() error {
		return poll.Until(ctx, 50*time.Millisecond, 0, func() error {
			now, whole := 0, true
			for _, backend := range d.Backends() {
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
			return errors.New("more may arrive")
		})
	})
}
