package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"

	"otel-demo/local/compose"
	"otel-demo/local/load"
	"otel-demo/local/runner"
	"otel-demo/local/spans"
)

// loading sends requests until its test stops it.
type loading struct {
	*load.Requests
	t *testing.T
}

// startLoad sends requests to a server until stop. Each has its own connection: on a reused one, Go's client silently
// retries a request that was cut off.
func startLoad(t *testing.T, serverAddress string, perSecond int) *loading {
	l := &loading{load.Start(serverAddress, perSecond, 0, "", vegeta.KeepAlive(false)), t}
	t.Cleanup(l.Stop)
	return l
}

// wait waits until n more requests have completed.
func (l *loading) wait(n int) {
	l.t.Helper()
	n += len(l.Ended())
	eventually(l.t, fmt.Sprintf("%d requests", n), func() bool { return len(l.Ended()) >= n })
}

// answered returns the trace ids of the requests that got 200. Each response must name its own request's trace.
func (l *loading) answered() []string {
	l.t.Helper()
	var ids []string
	for _, result := range l.Ended() {
		if result.Code != http.StatusOK {
			continue
		}
		id := result.Headers.Get("Trace-Id")
		if !l.Sent(id) || slices.Contains(ids, id) {
			l.t.Errorf("a response has the trace id %q, which belongs to no request, or to two", id)
		}
		ids = append(ids, id)
	}
	return ids
}

// allAnswered checks that every request got 200.
func (l *loading) allAnswered() []string {
	l.t.Helper()
	for _, result := range l.Ended() {
		if result.Code != http.StatusOK {
			l.t.Errorf("a request got %d %q %s", result.Code, result.Body, result.Error)
		}
	}
	return l.answered()
}

// answeredOrRefused checks that every request got 200, or that its connection was not accepted, because the server no
// longer listens. The system refuses those, and resets one that was still waiting. One that is accepted and then cut
// off fails differently, with EOF.
func (l *loading) answeredOrRefused() (answered []string, refused int) {
	l.t.Helper()
	for _, result := range l.Ended() {
		if result.Code == http.StatusOK {
			continue
		}
		refused++
		if !strings.Contains(result.Error, "connection refused") && !strings.Contains(result.Error, "connection reset") {
			l.t.Errorf("a request was accepted and got %d %s", result.Code, result.Error)
		}
	}
	return l.answered(), refused
}

// latency returns the given quantile of the response times of the requests that were sent between two times.
func (l *loading) latency(quantile float64, from, to time.Time) time.Duration {
	l.t.Helper()
	var all []time.Duration
	for _, result := range l.Ended() {
		if result.Timestamp.After(from) && result.Timestamp.Before(to) {
			all = append(all, result.Latency)
		}
	}
	if len(all) == 0 {
		l.t.Fatal("no request was sent in that time")
	}
	slices.Sort(all)
	return all[int(quantile*float64(len(all)-1))].Round(100 * time.Microsecond)
}

// requestSpans are the spans of one request, in lower case as Zipkin has them.
var requestSpans = []string{"server get /hello", "server handle request", "server publish", "server publish work", "worker process work"}

// lost returns how many of the spans that each trace should have are missing from a store, and an example of one trace.
func lost(store *spans.Store, ids, want []string) (spans int, example string) {
	for _, id := range ids {
		got := map[string]bool{}
		if trace := store.Trace(id); trace != nil {
			for _, span := range trace.Spans {
				got[strings.ToLower(span.Service+" "+span.Name)] = true
			}
		}
		for _, name := range want {
			if !got[name] {
				spans++
				example = fmt.Sprintf("trace %s lacks %s", id, name)
			}
		}
	}
	return spans, example
}

// allArrive waits until both backends have all spans of all traces, and returns how long that took.
func allArrive(t *testing.T, d *runner.Demo, ids []string, limit time.Duration) time.Duration {
	t.Helper()
	if len(ids) == 0 {
		t.Fatal("there is no trace to wait for")
	}
	start := time.Now()
	for name, store := range map[string]*spans.Store{"Jaeger": d.Jaeger(), "Zipkin": d.Zipkin()} {
		within(t, limit, func() error {
			if n, example := lost(store, ids, requestSpans); n > 0 {
				return fmt.Errorf("%s lacks %d of the %d spans of %d requests: %s", name, n, len(ids)*len(requestSpans), len(ids), example)
			}
			return nil
		})
	}
	return time.Since(start).Round(100 * time.Millisecond)
}

// terminateService sends a service SIGTERM, and returns its exit status and how long it took to exit. More than limit
// is an error.
func terminateService(t *testing.T, d *runner.Demo, name string, limit time.Duration) (status int, took time.Duration) {
	t.Helper()
	start := time.Now()
	if err := d.StopService(name); err != nil { // it kills a process that hasn't exited after 10 s
		t.Error(err)
	}
	took = time.Since(start).Round(10 * time.Millisecond)
	if took > limit {
		t.Errorf("%s took %v to exit, want at most %v", name, took, limit)
	}
	status, err := d.Wait(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return status, took
}

// peakMemory returns the most memory that a service's process has used so far, in MB.
func peakMemory(t *testing.T, d *runner.Demo, name string) int {
	t.Helper()
	return peakOf(t, d.PIDs(name)[0])
}

// peakOf does the same for any process.
func peakOf(t *testing.T, pid int) int {
	t.Helper()
	needsProc(t)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kB, err := strconv.Atoi(strings.Fields(rest + " x")[0])
	if err != nil {
		t.Fatalf("/proc has no VmHWM: %v", err)
	}
	return kB * 1024 / 1_000_000
}

// The report accounts for each span. Speed doesn't matter here.
func TestLoadReportsBothSides(t *testing.T) {
	t.Parallel()
	r := startRunner(t, "-load", "20", "-for", "1s", "-json")
	if status := r.status(); status != 0 {
		t.Fatalf("exit status %d", status)
	}
	var got load.Report
	if err := json.Unmarshal(r.stdout.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Sides) != 2 || got.Sides[0].Side != "untraced" || got.Sides[1].Side != "traced" {
		t.Fatalf("got %+v, want both sides", got)
	}
	for _, side := range got.Sides {
		if side.Answered != 20 || side.Gave != "" || side.Latency.P50 <= 0 || side.Latency.P999 < side.Latency.P50 ||
			side.FromSend.P50 > side.Latency.P50 {
			t.Errorf("got %+v, want 20 responses", side)
		}
		names := ""
		for _, p := range side.Processes {
			names += p.Name + " "
			if p.PeakMB < 1 {
				t.Errorf("%s: got a peak of %v MB", p.Name, p.PeakMB)
			}
		}
		want := map[string]string{"untraced": "worker server runner ", "traced": "otel-collector otel-agent worker server runner "}
		if names != want[side.Side] {
			t.Errorf("%s: got the processes %s, want %s", side.Side, names, want[side.Side])
		}
	}
	traced := got.Sides[1]
	for _, name := range []string{"jaeger", "zipkin"} {
		b := traced.Backends[name]
		if traced.SpansMade != 100 || b.Arrived != 100 || b.Lost != 0 || b.WholeP50 <= 0 || b.WholeP99 < b.WholeP50 {
			t.Errorf("%s: got %+v of %d spans, want 100", name, b, traced.SpansMade)
		}
	}
	if got.Sides[0].Backends != nil {
		t.Error("the untraced side has spans")
	}
	var text bytes.Buffer
	if err := got.WriteText(&text); err != nil || !strings.Contains(text.String(), "spans made") || !strings.Contains(text.String(), "ratio") {
		t.Errorf("got %v and\n%s", err, &text)
	}
}

// The benchmarks in pkg export to it.
func TestACollectorStartsAlone(t *testing.T) {
	t.Parallel()
	d, _ := startDemoWith(t, runner.Options{Files: []string{compose.File, "docs/performance/collector.yml"}})
	eventually(t, "the collector to count", func() bool { return d.Hops().String() == "spans: 0 accepted by otel-agent" })
}
