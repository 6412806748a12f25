package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	gopsutil "github.com/shirou/gopsutil/v4/process"
	"golang.org/x/term"

	"otel-demo/local/trace"
)

// collectorAlone are the arguments of the collector that the benchmarks export to.
const collectorAlone = `--config=yaml:receivers: {otlp: {protocols: {grpc: {endpoint: "127.0.0.1:4317"}}}}
--config=yaml:exporters: {debug: {}}
--config=yaml:service: {pipelines: {traces: {receivers: [otlp], exporters: [debug]}}, telemetry: {metrics: {level: none}, logs: {disable_zap_resource: true}}}`

// parseRates reads the value of -load.
func (f *flags) parseRates(value string) error {
	for one := range strings.SplitSeq(value, ",") {
		rate, err := strconv.Atoi(one)
		if err != nil || rate < 1 || rate > 100_000 {
			return fmt.Errorf("%q: want requests a second, from 1 to 100000, such as 200", one)
		}
		f.rates = append(f.rates, rate)
	}
	return nil
}

// loadAndReport is what -load does.
func loadAndReport(ctx context.Context, root string, f flags, c *console) error {
	if os.Getenv("REDIS_URL") != "" {
		return errors.New("REDIS_URL: want none with -load, whose two demos would hear each other's messages")
	}
	return runLoad(ctx, root, f, c, func(r loadReport) error {
		if f.json {
			return r.writeJSON(c.stdout)
		}
		return r.writeText(c.stdout)
	})
}

// What -load runs: the demo twice, without its client. One side is traced and one isn't; all else is the same.
const (
	workload = `
services:
  client: {scale: 0}
  server: {environment: {WORK_DURATION: 0s}}
  worker: {environment: {WORK_DURATION: 0s}}
`
	untraced = `
services:
  server: &off {environment: {OTEL_SDK_DISABLED: "true", OTEL_EXPORTER_OTLP_ENDPOINT: "http://localhost:4317"}}
  worker: *off
  otel-agent: {scale: 0}
  otel-collector: {scale: 0}
  jaeger: {scale: 0}
  zipkin: {scale: 0}
`
)

// spansPerRequest is how many spans a request makes when its client makes none: four in the server, one in the worker.
const spansPerRequest = 5

// warmUp is how long each side gets the load before it counts. Connections and the like are made in that time.
const warmUp = 2 * time.Second

// side is one of the two demos.
type side struct {
	name     string
	demo     *Demo
	server   string // its address
	backends map[string]*arrivals
	gave     bool // it could not take the rate before
}

// arrivals are when the spans of each trace came to a backend.
type arrivals struct {
	mu     sync.Mutex
	traces map[string]*arrival
	spans  int
}

type arrival struct {
	spans   []string  // ids: a span that was sent twice counts once
	end     time.Time // of the span that ended last
	arrived time.Time // when the last one came
}

func (a *arrivals) take(parts []*backend.Trace) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, part := range parts {
		trace := a.traces[part.ID]
		if trace == nil {
			trace = &arrival{}
			a.traces[part.ID] = trace
		}
		for _, span := range part.Spans {
			if slices.Contains(trace.spans, span.ID) {
				continue
			}
			trace.spans, trace.arrived = append(trace.spans, span.ID), now
			if span.End.After(trace.end) {
				trace.end = span.End
			}
			a.spans++
		}
	}
}

func (a *arrivals) reset() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.traces, a.spans = map[string]*arrival{}, 0
}

func (a *arrivals) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.spans
}

// runLoad measures each rate in turn: a single one on both sides at the same time, several on one side after the other,
// each until it gives. report gets what one or two sides did with a rate.
func runLoad(ctx context.Context, root string, f flags, c *console, report func(loadReport) error) (err error) {
	dir, err := os.MkdirTemp("", "otel-demo-load-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	base, disabled := filepath.Join(dir, "workload.yml"), filepath.Join(dir, "untraced.yml")
	err = errors.Join(os.WriteFile(base, []byte(workload), 0o600), os.WriteFile(disabled, []byte(untraced), 0o600))
	if err != nil {
		return err
	}
	c.line("", "building the programs, and starting the demo twice")
	if err := goBuild(ctx, root, dir, "./cmd/..."); err != nil {
		return err
	}
	files := slices.Concat([]string{composeFile, base}, f.files[1:]) // the user's own come later, and so may say otherwise
	sides := []*side{{name: "untraced"}, {name: "traced"}}
	for _, s := range sides {
		options := Options{Root: root, Files: files, FreePorts: true, Programs: dir, Line: quietLines(c)}
		if s.name == "untraced" {
			options.Files = append(slices.Clone(files), disabled)
		}
		if s.demo, err = Start(ctx, options); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.demo.Stop()) }()
		if err = s.prepare(ctx); err != nil {
			return err
		}
	}
	if len(f.rates) == 1 {
		sides, err := measure(ctx, c, f.rates[0], f.duration, sides...)
		if err != nil {
			return err
		}
		return report(newReport(f.rates[0], f.duration, sides))
	}
	for _, rate := range f.rates {
		var results []sideReport
		for _, s := range sides {
			if s.gave {
				continue
			}
			one, err := measure(ctx, c, rate, f.duration, s)
			if err != nil {
				return err
			}
			s.gave = one[0].Gave != ""
			results = append(results, one...)
		}
		if len(results) == 0 {
			break
		}
		if err := report(newReport(rate, f.duration, results)); err != nil {
			return err
		}
	}
	return nil
}

// quietLines leaves out what services write though nothing is wrong: under load, the server alone writes a line a
// request.
func quietLines(c *console) func(service, line string) {
	return func(service, line string) {
		if !strings.Contains(line, "level=INFO") && !strings.Contains(line, "\tinfo\t") {
			c.line(service, line)
		}
	}
}

// prepare finds the server, waits until it is well, and has the backends count what comes rather than keep it.
func (s *side) prepare(ctx context.Context) error {
	s.backends = map[string]*arrivals{}
	for name, store := range map[string]*backend.Store{"jaeger": s.demo.Jaeger(), "zipkin": s.demo.Zipkin()} {
		if s.demo.Has(name) {
			s.backends[name] = &arrivals{traces: map[string]*arrival{}}
			store.Divert(s.backends[name].take)
		}
	}
	var err error
	if s.server, err = s.demo.Addr("server", 8080); err != nil {
		return err
	}
	for end := time.Now().Add(30 * time.Second); ; {
		response, err := http.Get("http://" + s.server + "/healthz")
		if err == nil {
			_ = response.Body.Close() // its status says all
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: the server is not well after 30 s", s.name)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// measure sends requests to all given sides at once, and returns what each did.
func measure(ctx context.Context, c *console, rate int, duration time.Duration, sides ...*side) ([]sideReport, error) {
	const likeTheClient = "username=donuts"
	if _, err := attack(ctx, rate, warmUp, likeTheClient, sides, func(string) {}); err != nil {
		return nil, err
	}
	for _, s := range sides {
		if err := s.drain(ctx, 0); err != nil {
			return nil, err
		}
		for _, a := range s.backends {
			a.reset()
		}
	}
	watches := make([]*watch, len(sides))
	for i, s := range sides {
		watches[i] = s.watch()
	}
	progress := progressLine(c)
	sent, err := attack(ctx, rate, duration, likeTheClient, sides, func(text string) { progress(text + arrivedText(sides)) })
	if err != nil {
		return nil, err
	}
	var reports []sideReport
	for i, s := range sides {
		if err := s.drain(ctx, spansPerRequest*answered(sent[i].ended())); err != nil {
			return nil, err
		}
		reports = append(reports, s.report(rate, duration, sent[i], watches[i].stop()))
	}
	return reports, nil
}

// attack sends requests for a time, and returns when all have ended.
func attack(ctx context.Context, rate int, duration time.Duration, baggage string, sides []*side, progress func(string)) ([]*requests, error) {
	var all []*requests
	for _, s := range sides {
		all = append(all, startRequests(s.server, rate, duration, baggage))
		// In turn, or the side that is asked second would always find the machine busy with the first.
		time.Sleep(time.Second / time.Duration(rate*len(sides)))
	}
	start := time.Now()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for _, r := range all {
		for running := true; running; {
			select {
			case <-r.done:
				running = false
			case <-ticker.C:
				text := fmt.Sprintf("%d/s: %v of %v", rate, time.Since(start).Round(time.Second), duration)
				for i, r := range all {
					ended := r.ended()
					text += fmt.Sprintf(", %s %d answered", sides[i].name, answered(ended))
					if failed := len(ended) - answered(ended); failed > 0 {
						text += fmt.Sprintf(" and %d failed", failed)
					}
				}
				progress(text)
			case <-ctx.Done():
				for _, r := range all {
					r.stop()
				}
				return nil, context.Cause(ctx)
			}
		}
	}
	return all, nil
}

func answered(results []*vegetaResult) int {
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
		for _, name := range sortedKeys(s.backends) {
			text += fmt.Sprintf(", %s %d spans", name, s.backends[name].count())
		}
	}
	return text
}

// drain waits until so many spans have come to each backend, or nothing has come for a while.
func (s *side) drain(ctx context.Context, spans int) error {
	last, since := -1, time.Now()
	for {
		total, all := 0, spans > 0
		for _, a := range s.backends {
			n := a.count()
			total += n
			all = all && n >= spans
		}
		if total != last {
			last, since = total, time.Now()
		}
		if len(s.backends) == 0 || all || time.Since(since) > quiet {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// progressLine returns what writes how far the load is: over itself on a terminal, and otherwise every ten seconds.
func progressLine(c *console) func(string) {
	calls := 0
	return func(text string) {
		if calls++; term.IsTerminal(int(c.stderr.Fd())) {
			fmt.Fprintf(c.stderr, "\r\x1b[K%s", text)
		} else if calls%10 == 0 {
			c.line("", text)
		}
	}
}

// watch follows what each process uses.
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

// watch begins to follow the side's processes, and the runner itself.
func (s *side) watch() *watch {
	w := &watch{ended: make(chan struct{}), done: make(chan struct{})}
	add := func(name string, pid int) {
		if p, err := gopsutil.NewProcess(int32(pid)); err == nil {
			one := &watched{processReport: processReport{Name: name}, Process: p}
			one.before = one.cpu()
			w.processes = append(w.processes, one)
		}
	}
	for _, service := range s.demo.services {
		for _, pid := range s.demo.PIDs(service.Name) {
			add(service.Name, pid)
		}
	}
	add(runnerItself, os.Getpid())
	go func() {
		defer close(w.done)
		for {
			for _, p := range w.processes {
				if m, err := p.MemoryInfo(); err == nil {
					p.PeakMB = max(p.PeakMB, float64(m.RSS)/1e6, float64(m.HWM)/1e6) // Linux keeps the highest itself
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

// cpu is how long a process has run on a CPU so far, in seconds.
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
