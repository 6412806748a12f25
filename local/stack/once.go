package stack

import (
	"context"
	"time"

	"otel-demo/local/trace"
)

// quiet is how long nothing new must come before what is still missing is given up.
const quiet = 5 * time.Second

// WaitForTraces waits until every trace is whole at each backend that the demo has, or nothing new has come for 5 s.
// Call it when the requests are done. Traces that broke, or that nobody received, never get whole.
func (d *Demo) WaitForTraces(ctx context.Context) error {
	stores := d.stores()
	spans, since := 0, time.Now()
	for {
		now, whole := 0, true
		for _, store := range stores {
			now += store.Spans()
			traces := store.Traces()
			whole = whole && len(traces) > 0 && len(backend.Missing(traces)) == 0
		}
		if now != spans {
			spans, since = now, time.Now()
		}
		// A trace of which no span has come yet would be overlooked, so a whole batch's time must have passed.
		if rest := time.Since(since); rest > quiet || whole && rest > settled {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// stores returns the store of each backend that the demo has.
func (d *Demo) stores() []*backend.Store {
	var stores []*backend.Store
	for _, s := range d.services {
		switch s.kind {
		case jaeger:
			stores = append(stores, d.Jaeger())
		case zipkin:
			stores = append(stores, d.Zipkin())
		}
	}
	return stores
}
