// Package load sends requests to the demo at a fixed rate, and reports what tracing costs.
package load

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"slices"
	"sync"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// Requests are sent at a fixed rate, whether or not earlier ones have received their responses. Each is its own trace,
// whose id is known here before the request is sent.
type Requests struct {
	attacker *vegeta.Attacker
	done     chan struct{} // closed when all requests have ended
	began    time.Time
	interval time.Duration

	mu      sync.Mutex
	ids     map[string]bool // trace ids of the requests that were sent
	results []*vegeta.Result
}

// limited is a fixed rate that stops after a number of requests, or 10 s after it should have sent them.
type limited struct {
	vegeta.ConstantPacer
	requests uint64
	duration time.Duration
}

func (l limited) Pace(elapsed time.Duration, sent uint64) (wait time.Duration, stop bool) {
	if l.duration > 0 && (sent >= l.requests || elapsed > l.duration+10*time.Second) {
		return 0, true
	}
	return l.ConstantPacer.Pace(elapsed, sent)
}

// Start starts sending requests to a server, until Stop or until duration is over; 0 is no limit. At most a thousand
// wait for their responses at the same time.
func Start(serverAddress string, perSecond int, duration time.Duration, baggage string, options ...func(*vegeta.Attacker)) *Requests {
	r := &Requests{
		attacker: vegeta.NewAttacker(append(options, vegeta.Timeout(10*time.Second), vegeta.MaxWorkers(1000))...),
		done:     make(chan struct{}),
		began:    time.Now(),
		interval: time.Second / time.Duration(perSecond),
		ids:      map[string]bool{},
	}
	target := func(target *vegeta.Target) error {
		trace := RandomHex(16)
		r.mu.Lock()
		r.ids[trace] = true
		r.mu.Unlock()
		target.Method, target.URL = http.MethodGet, "http://"+serverAddress+"/hello"
		target.Header = http.Header{"Traceparent": {Traceparent(trace)}}
		if baggage != "" {
			target.Header.Set("Baggage", baggage)
		}
		return nil
	}
	go func() {
		defer close(r.done)
		pacer := limited{vegeta.Rate{Freq: perSecond, Per: time.Second}, uint64(float64(perSecond) * duration.Seconds()), duration}
		for result := range r.attacker.Attack(target, pacer, 0, "") {
			r.mu.Lock()
			r.results = append(r.results, result)
			r.mu.Unlock()
		}
	}()
	return r
}

// late returns how long after its intended start a request ended. The intended start is when the fixed rate would have
// sent it, even if the sender was late, so a stall counts for all requests that would have been sent meanwhile.
func (r *Requests) late(result *vegeta.Result) time.Duration {
	intended := r.began.Add(time.Duration(result.Seq+1) * r.interval)
	return max(result.Latency, result.Timestamp.Add(result.Latency).Sub(intended))
}

// RandomHex returns a random id of that many bytes.
func RandomHex(bytes int) string {
	id := make([]byte, bytes)
	_, _ = rand.Read(id) // it never fails
	return hex.EncodeToString(id)
}

// Traceparent returns the header of a request that continues a trace.
func Traceparent(trace string) string { return "00-" + trace + "-" + RandomHex(8) + "-01" }

// Stop stops sending, and waits until each request has its response or has failed.
func (r *Requests) Stop() {
	r.attacker.Stop()
	<-r.done
}

// Sent reports whether a trace belongs to a request that was sent.
func (r *Requests) Sent(trace string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ids[trace]
}

// Ended returns the requests that have their response or have failed.
func (r *Requests) Ended() []*vegeta.Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.results)
}
