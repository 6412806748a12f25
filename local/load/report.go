package load

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/shirou/gopsutil/v4/mem"
)

// runnerItself is the name of the runner's row: it sends the requests, and runs Redis and the backends of both sides.
const runnerItself = "runner"

// Report is the result of -load for one rate. -json writes it as is.
type Report struct {
	Machine   machine      `json:"machine"`
	PerSecond int          `json:"per_second"`
	Seconds   float64      `json:"seconds"`
	Sides     []sideReport `json:"sides"`
}

type machine struct {
	OS     string  `json:"os"`
	Cores  int     `json:"cores"`
	Memory float64 `json:"memory_gb"`
	Go     string  `json:"go"`
}

type sideReport struct {
	Side     string `json:"side"`
	Sent     int    `json:"sent"`
	Answered int    `json:"answered"`
	// Counted from when the fixed rate would have sent the request.
	Latency quantiles `json:"latency_ms"`
	// Counted from when it was sent. The difference is the sender's own delay.
	FromSend  quantiles                `json:"latency_from_send_ms"`
	SpansMade int                      `json:"spans_made"`
	Backends  map[string]backendReport `json:"backends,omitempty"`
	Processes []processReport          `json:"processes"`
	Gave      string                   `json:"gave,omitempty"` // what failed, if anything
}

type quantiles struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99.9"`
}

type backendReport struct {
	Arrived int `json:"spans_arrived"`
	Lost    int `json:"spans_lost"`
	// From the end of a trace's last span until the backend had the complete trace.
	WholeP50 float64 `json:"whole_p50_ms"`
	WholeP99 float64 `json:"whole_p99_ms"`
}

type processReport struct {
	Name       string  `json:"name"`
	CPUSeconds float64 `json:"cpu_seconds"`
	PeakMB     float64 `json:"peak_mb"` // since the process started
}

func newReport(rate int, duration time.Duration, sides []sideReport) Report {
	memory := 0.0
	if m, err := mem.VirtualMemory(); err == nil {
		memory = math.Round(float64(m.Total)/1e8) / 10
	}
	return Report{
		Machine:   machine{runtime.GOOS + "/" + runtime.GOARCH, runtime.NumCPU(), memory, runtime.Version()},
		PerSecond: rate, Seconds: duration.Seconds(), Sides: sides,
	}
}

// report returns what became of the requests that were sent to a side.
func (s *side) report(rate int, duration time.Duration, sent *Requests, processes []processReport) sideReport {
	results := sent.Ended()
	r := sideReport{Side: s.name, Sent: len(results), Answered: Answered(results), Processes: processes}
	var late, fromSend []time.Duration
	var ids []string
	for _, result := range results {
		late = append(late, sent.late(result))
		fromSend = append(fromSend, result.Latency)
		if result.Code == http.StatusOK {
			ids = append(ids, result.Headers.Get("Trace-Id"))
		}
	}
	r.Latency, r.FromSend = newQuantiles(late), newQuantiles(fromSend)
	if len(s.backends) > 0 {
		r.SpansMade = SpansPerRequest * r.Answered
		r.Backends = map[string]backendReport{}
	}
	for name, a := range s.backends {
		r.Backends[name] = a.report(ids)
	}
	r.Gave = r.failures(int(float64(rate) * duration.Seconds()))
	return r
}

func (a *Arrivals) report(ids []string) backendReport {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := backendReport{}
	var whole []time.Duration
	for _, id := range ids {
		trace := a.traces[id]
		if trace == nil {
			continue
		}
		r.Arrived += len(trace.spans)
		if len(trace.spans) == SpansPerRequest {
			whole = append(whole, trace.arrived.Sub(trace.end))
		}
	}
	r.Lost = SpansPerRequest*len(ids) - r.Arrived
	q := newQuantiles(whole)
	r.WholeP50, r.WholeP99 = q.P50, q.P99
	return r
}

// failures returns what failed, or "".
func (r sideReport) failures(planned int) string {
	var all []string
	if r.Sent < planned {
		all = append(all, fmt.Sprintf("%d of %d requests could not be sent, not even 10 s late", planned-r.Sent, planned))
	}
	if failed := r.Sent - r.Answered; failed > 0 {
		all = append(all, fmt.Sprintf("%d requests failed", failed))
	}
	if r.Latency.P99 > 1000 {
		all = append(all, fmt.Sprintf("the p99 is above a second: %.0f ms", r.Latency.P99))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Backends)) {
		if lost := r.Backends[name].Lost; lost > 0 {
			all = append(all, fmt.Sprintf("%s lacks %d of %d spans", name, lost, r.SpansMade))
		}
	}
	return strings.Join(all, "; ")
}

// newQuantiles sorts all.
func newQuantiles(all []time.Duration) quantiles {
	if len(all) == 0 {
		return quantiles{}
	}
	slices.Sort(all)
	at := func(quantile float64) float64 {
		i := int(math.Ceil(quantile*float64(len(all)))) - 1
		return math.Round(float64(all[i].Nanoseconds())/1e3) / 1e3
	}
	return quantiles{at(0.5), at(0.9), at(0.99), at(0.999)}
}

// WriteJSON writes the report as is, on one line.
func (r Report) WriteJSON(w io.Writer) error { return json.NewEncoder(w).Encode(r) }

// WriteText writes the report for people. Two sides are shown next to each other.
func (r Report) WriteText(w io.Writer) error {
	how := ""
	if len(r.Sides) > 1 {
		how = ", on each side"
	}
	fmt.Fprintf(w, "\n%d requests a second for %v s%s; %s, %d cores, %v GB, %s\n\n", r.PerSecond, r.Seconds, how,
		r.Machine.OS, r.Machine.Cores, r.Machine.Memory, r.Machine.Go)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(name, format string, value func(s sideReport) float64) {
		fmt.Fprint(t, name, "\t")
		for _, s := range r.Sides {
			fmt.Fprintf(t, format+"\t", value(s))
		}
		if len(r.Sides) == 2 && value(r.Sides[0]) > 0 && strings.Contains(name, "ms") {
			fmt.Fprintf(t, "%.2f\t", value(r.Sides[1])/value(r.Sides[0]))
		}
		fmt.Fprintln(t)
	}
	if len(r.Sides) == 2 {
		fmt.Fprintf(t, "\t%s\t%s\tratio\t\n", r.Sides[0].Side, r.Sides[1].Side)
	} else {
		fmt.Fprintf(t, "\t%s\t\n", r.Sides[0].Side)
	}
	row("requests", "%.0f", func(s sideReport) float64 { return float64(s.Sent) })
	row("succeeded", "%.0f", func(s sideReport) float64 { return float64(s.Answered) })
	row("latency p50, ms", "%.2f", func(s sideReport) float64 { return s.Latency.P50 })
	row("p90, ms", "%.2f", func(s sideReport) float64 { return s.Latency.P90 })
	row("p99, ms", "%.2f", func(s sideReport) float64 { return s.Latency.P99 })
	row("p99.9, ms", "%.2f", func(s sideReport) float64 { return s.Latency.P999 })
	row("p50 from the send, ms", "%.2f", func(s sideReport) float64 { return s.FromSend.P50 })
	for _, s := range r.Sides {
		for _, name := range slices.Sorted(maps.Keys(s.Backends)) {
			b := s.Backends[name]
			fmt.Fprintf(t, "\nat %s\t\t\nspans made\t%d\t\narrived\t%d\t\nlost\t%d\t\n", name, s.SpansMade, b.Arrived, b.Lost)
			fmt.Fprintf(t, "complete trace after its last span's end, p50, ms\t%.0f\t\np99, ms\t%.0f\t\n", b.WholeP50, b.WholeP99)
		}
	}
	fmt.Fprintf(t, "\nprocess\tCPU, s\tpeak, MB\t\n")
	for i, s := range r.Sides {
		for _, p := range s.Processes {
			name := s.Side + " " + p.Name
			if p.Name == runnerItself {
				if name = p.Name; i < len(r.Sides)-1 {
					continue // it is the same for both
				}
			}
			fmt.Fprintf(t, "%s\t%.1f\t%.0f\t\n", name, p.CPUSeconds, p.PeakMB)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, s := range r.Sides {
		if s.Gave != "" {
			fmt.Fprintf(w, "\n%s failed: %s\n", s.Side, s.Gave)
		}
	}
	return nil
}
