package load

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	gopsutil "github.com/shirou/gopsutil/v4/process"
	vegeta "github.com/tsenart/vegeta/v12/lib"

	"otel-demo/local/compose"
	"otel-demo/local/poll"
	"otel-demo/local/runner"
	"otel-demo/local/spans"
)

// Options configure a run.
type Options struct {
	runner.Options               // for each of the two demos; without REDIS_URL, since each needs its own Redis
	Rates          []int         // requests a second, one rate after another
	Duration       time.Duration // of each rate
	Progress       func(text string)
}

// SpansPerRequest is how many spans a request produces when its client produces none: four in the server, one in the worker.
const SpansPerRequest = 5

// warmUp is how long each side gets the load before it counts, so that connections and the like are set up.
const warmUp = 2 * time.Second

// side is one of the two demos.
type side struct {
	name     string
	demo     *runner.Demo
	server   string // its address
	backends map[string]*Arrivals
	failed   bool // it could not keep up with an earlier rate
}

// Arrivals records when the spans of each trace arrived at a backend.
type Arrivals struct {
	mu     sync.Mutex
	traces map[string]*arrival
	spans  int
}

type arrival struct {
	spans   []string  // ids: a span that was sent twice counts once
	end     time.Time // of the span that ended last
	arrived time.Time // when the last one arrived
}

// Take counts newly arrived spans, as Divert passes them.
func (a *Arrivals) Take(parts []*spans.Trace) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, part := range parts {
		all := a.traces[part.ID]
		if all == nil {
			all = &arrival{}
			a.traces[part.ID] = all
		}
		for _, span := range part.Spans {
			if slices.Contains(all.spans, span.ID) {
				continue
			}
			all.spans, all.arrived = append(all.spans, span.ID), now
			if span.End.After(all.end) {
				all.end = span.End
			}
			a.spans++
		}
	}
}

// NewArrivals returns empty Arrivals.
func NewArrivals() *Arrivals { return &Arrivals{traces: map[string]*arrival{}} }

// Count returns how many different spans have arrived.
func (a *Arrivals) Count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.spans
}

// Run measures each rate in turn: a single rate on both sides at the same time, several rates on one side after the
// other, each side until it fails. report receives the results of one or two sides for a rate.
func Run(ctx context.Context, o Options, report func(Report) error) (err error) {
	o.Line("", "starting the demo twice")
	o.FreePorts, o.Line = true, quietLines(o.Line)
	// The user's files come later, so they can override the workload.
	files := slices.Concat([]string{compose.File, "local/load/workload.yml"}, o.Files[1:])
	sides := []*side{{name: "untraced"}, {name: "traced"}}
	for _, s := range sides {
		options := o.Options
		options.Files = files
		if s.name == "untraced" {
			options.Files = append(slices.Clone(files), "local/load/untraced.yml")
		}
		if s.demo, err = runner.Start(ctx, options); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.demo.Stop()) }()
		if err = s.demo.WaitHealthy(ctx, "server"); err != nil {
			return err
		}
		if s.server, err = s.demo.Addr("server", 8080); err != nil {
			return err
		}
		s.count()
	}
	groups := [][]*side{sides}
	if len(o.Rates) > 1 {
		groups = [][]*side{sides[:1], sides[1:]}
	}
	for _, rate := range o.Rates {
		var results []sideReport
		for _, group := range groups {
			if group[0].failed {
				continue
			}
			some, err := measure(ctx, o, rate, group...)
			if err != nil {
				return err
			}
			group[0].failed = some[0].Gave != ""
			results = append(results, some...)
		}
		if len(results) == 0 {
			break
		}
		if err := report(newReport(rate, o.Duration, results)); err != nil {
			return err
		}
	}
	return nil
}

// quietLines drops what services write when nothing is wrong: under load, the server alone writes a line per request.
func quietLines(write func(service, line string)) func(service, line string) {
	return func(service, line string) {
		if !strings.Contains(line, "level=INFO") && !strings.Contains(line, "\tinfo\t") {
			write(service, line)
		}
	}
}

// count makes the backends count spans, from zero, instead of keeping them.
func (s *side) count() {
	s.backends = map[string]*Arrivals{}
	for _, backend := range s.demo.Backends() {
		s.backends[backend.Service] = NewArrivals()
		backend.Divert(s.backends[backend.Service].Take)
	}
}

// measure sends requests to all given sides at the same time, and returns a report for each.
func measure(ctx context.Context, o Options, rate int, sides ...*side) ([]sideReport, error) {
	if _, err := attack(ctx, rate, warmUp, sides, func(string) {}); err != nil {
		return nil, err
	}
	for _, s := range sides {
		if err := s.drain(ctx, 0); err != nil {
			return nil, err
		}
		s.count()
	}
	watches := make([]*watch, len(sides))
	for i, s := range sides {
		watches[i] = s.watch()
	}
	sent, err := attack(ctx, rate, o.Duration, sides, func(text string) { o.Progress(text + arrivedText(sides)) })
	if err != nil {
		return nil, err
	}
	var reports []sideReport
	for i, s := range sides {
		if err := s.drain(ctx, SpansPerRequest*Answered(sent[i].Ended())); err != nil {
			return nil, err
		}
		reports = append(reports, s.report(rate, o.Duration, sent[i], watches[i].stop()))
	}
	return reports, nil
}

// attack sends requests for duration, and returns when all have ended.
func attack(ctx context.Context, rate int, duration time.Duration, sides []*side, progress func(string)) ([]*Requests, error) {
	var all []*Requests
	for _, s := range sides {
		all = append(all, Start(s.server, rate, duration, "username=donuts")) // like the client
		// Staggered: otherwise the second side would always find the machine busy with the first one's request.
		time.Sleep(time.Second / time.Duration(rate*len(sides)))
	}
	start := time.Now()
	err := poll.Until(ctx, time.Second, 0, func() error {
		running, text := false, fmt.Sprintf("%d/s: %v of %v", rate, time.Since(start).Round(time.Second), duration)
		for i, r := range all {
			ended := r.Ended()
			text += fmt.Sprintf(", %s %d succeeded", sides[i].name, Answered(ended))
			if failed := len(ended) - Answered(ended); failed > 0 {
				text += fmt.Sprintf(" and %d failed", failed)
			}
			select {
			case <-r.done:
			default:
				running = true
			}
		}
		if !running {
			return nil
		}
		progress(text)
		return errors.New("requests are still being sent")
	})
	if err != nil {
		for _, r := range all {
			r.Stop()
		}
	}
	return all, err
}

// Answered counts the requests with a 200 response.
func Answered(results []*vegeta.Result) int {
	n := 0
	for _, result := range results {
		if result.Code == http.StatusOK {
			n++
		}
	}
	return n
}

func arrivedText(sides []*side) (text string) {
	for _, s := range sides {
		for _, name := range slices.Sorted(maps.Keys(s.backends)) {
			text += fmt.Sprintf(", %s %d spans", name, s.backends[name].Count())
		}
	}
	return text
}

// drain waits until that many spans have arrived at each backend, or none has arrived for a while.
func (s *side) drain(ctx context.Context, spans int) error {
	last, since := -1, time.Now()
	return poll.Until(ctx, 20*time.Millisecond, 0, func() error {
		total, all := 0, spans > 0
		for _, a := range s.backends {
			n := a.Count()
			total += n
			all = all && n >= spans
		}
		if total != last {
			last, since = total, time.Now()
		}
		if len(s.backends) == 0 || all || time.Since(since) > runner.Quiet {
			return nil
		}
		return fmt.Errorf("%d spans have arrived", total)
	})
}

// watch measures what each process uses.
type watch struct {
	processes []*watched
	ended     chan struct{}
	done      chan struct{}
}

type watched struct {
	processReport
	*gopsutil.Process
	before float64
}

// watch starts measuring the side's processes and the runner itself.
func (s *side) watch() *watch {
	w := &watch{ended: make(chan struct{}), done: make(chan struct{})}
	add := func(name string, pid int) {
		if p, err := gopsutil.NewProcess(int32(pid)); err == nil {
			one := &watched{processReport: processReport{Name: name}, Process: p}
			one.before = one.cpu()
			w.processes = append(w.processes, one)
		}
	}
	for _, service := range s.demo.Services() {
		for _, pid := range s.demo.PIDs(service) {
			add(service, pid)
		}
	}
	add(runnerItself, os.Getpid())
	go func() {
		defer close(w.done)
		for {
			for _, p := range w.processes {
				if m, err := p.MemoryInfo(); err == nil {
					p.PeakMB = max(p.PeakMB, float64(m.RSS)/1e6, float64(m.HWM)/1e6) // Linux records the peak itself
				}
			}
			select {
			case <-w.ended:
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	return w
}

// cpu returns the CPU time that a process has used so far, in seconds.
func (p *watched) cpu() float64 {
	times, err := p.Times()
	if err != nil {
		return 0
	}
	return times.User + times.System
}

// stop returns what each process has used.
func (w *watch) stop() []processReport {
	close(w.ended)
	<-w.done
	var reports []processReport
	for _, p := range w.processes {
		p.CPUSeconds, p.PeakMB = math.Round(100*(p.cpu()-p.before))/100, math.Round(10*p.PeakMB)/10
		reports = append(reports, p.processReport)
	}
	return reports
}
