// Package poll tries something again and again until it succeeds.
package poll

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Until calls try until it returns no error, with a pause in between. It gives up with the last error if Stop wraps it,
// or when the time is over; 0 is no limit. When ctx is done, it returns ctx's cause.
func Until(ctx context.Context, pause, within time.Duration, try func() error) error {
	_, err := backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, try() },
		backoff.WithBackOff(backoff.NewConstantBackOff(pause)), backoff.WithMaxElapsedTime(within))
	return err
}

// Stop wraps err so that Until gives up with it.
func Stop(err error) error { return backoff.Permanent(err) }
