// Package poll waits for something by trying it again and again.
package poll

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Until calls try until it has no error, with a pause in between. It gives up when try returns what Stop made of an error,
// or when the time is over, with the last error; 0 is no limit. When ctx ends, its error is the cause of that.
func Until(ctx context.Context, pause, within time.Duration, try func() error) error {
	_, err := backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, try() },
		backoff.WithBackOff(backoff.NewConstantBackOff(pause)), backoff.WithMaxElapsedTime(within))
	return err
}

// Stop makes Until give up with err.
func Stop(err error) error { return backoff.Permanent(err) }
