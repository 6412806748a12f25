package pkg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// interrupted is the cause of a context that a signal has ended.
type interrupted struct{ syscall.Signal }

func (i interrupted) Error() string { return "interrupted: " + i.String() }

// SignalContext returns a context that ends with the first SIGINT or SIGTERM. A second one ends the program at once.
func SignalContext() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		s := (<-signals).(syscall.Signal)
		signal.Stop(signals)
		cancel(interrupted{s})
	}()
	return ctx
}

// Exit ends the program. The exit status is 0 without an error, 130 or 143 if a signal ended the context that the error
// is the cause of (128 and the signal's number, as a shell has it), and 1 otherwise.
func Exit(err error) {
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintln(os.Stderr, err)
	var i interrupted
	if errors.As(err, &i) {
		os.Exit(128 + int(i.Signal))
	}
	os.Exit(1)
}

// Work simulates work: it waits for a duration, or until ctx is done.
func Work(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// Backoff returns how long to wait between tries: from 100 ms, doubled each time, to 2 s.
func Backoff() backoff.BackOff {
	return &backoff.ExponentialBackOff{
		InitialInterval: 100 * time.Millisecond, Multiplier: 2, MaxInterval: 2 * time.Second, RandomizationFactor: 0.5,
	}
}
