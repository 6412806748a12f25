// Package outage keeps a worker going while its broker is unreachable. It has nothing to do with tracing.
package outage

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Outage logs when a broker becomes unreachable, and when it is back: one line each, however many attempts fail.
type Outage struct {
	broker string
	mu     sync.Mutex
	down   bool
	pause  backoff.BackOff
}

// New returns an Outage that hasn't begun.
func New(broker string) *Outage {
	return &Outage{broker: broker, pause: &backoff.ExponentialBackOff{
		InitialInterval: 100 * time.Millisecond, Multiplier: 2, MaxInterval: 2 * time.Second, RandomizationFactor: 0.5}}
}

// Begin reports an error of the broker. Only the first one is logged.
func (o *Outage) Begin(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.down {
		slog.Warn(o.broker+" is unreachable; trying again until it is back", "error", err)
	}
	o.down = true
}

// Pause waits before the next attempt: 100 ms, longer each time, up to 2 s.
func (o *Outage) Pause(ctx context.Context) {
	select {
	case <-time.After(o.pause.NextBackOff()):
	case <-ctx.Done():
	}
}

// End reports that the broker responds.
func (o *Outage) End() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.down {
		slog.Warn(o.broker + " is back")
	}
	o.down = false
	o.pause.Reset()
}
