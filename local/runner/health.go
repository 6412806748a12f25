package runner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"otel-demo/local/poll"
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
		probeCtx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		err := kinds[s.kind].probe(probeCtx, d, s)
		if errors.Is(err, errNoProbe) {
			return poll.Stop(err)
		}
		return d.unlessFailed(err)
	})
	if err != nil && context.Cause(ctx) == nil {
		err = fmt.Errorf("it is unhealthy: %w", err)
	}
	return err
}

// unlessFailed returns err, which leads to another try, unless a process has failed meanwhile: then it stops the tries.
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
