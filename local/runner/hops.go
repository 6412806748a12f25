package runner

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"otel-demo/local/spans"
)

// hop is a collector's own metrics of spans.
type hop map[outcome]int

// outcome is accepted, refused or failed for the receivers, whose exporter is "", and sent, send_failed or
// enqueue_failed for an exporter.
type outcome struct{ exporter, what string }

// exporters returns the names of a collector's exporters.
func (h hop) exporters() []string {
	names := map[string]bool{}
	for of := range h {
		names[of.exporter] = true
	}
	delete(names, "")
	return slices.Sorted(maps.Keys(names))
}

// Hops shows where spans are and were, in the order of their path.
type Hops struct {
	sent     int // to the collectors that the programs dial, accepted or not; -1 if there are no such collectors
	services []string
	hops     map[string]hop            // of collectors
	arrived  map[string]int            // at backends
	kept     map[string]map[string]int // at backends: the spans of each program, in the traces that are kept
	unknown  []string                  // collectors whose metrics can't be read
}

// Hops reads the collectors' metrics and counts the spans at the backends. It includes what a collector had counted
// before it was stopped, but not what it had counted before it was killed.
func (d *Demo) Hops() Hops {
	h := Hops{sent: -1, hops: map[string]hop{}, arrived: map[string]int{}, kept: map[string]map[string]int{}}
	for _, s := range slices.Backward(d.services) {
		if s.kind != collector {
			continue
		}
		now, err := d.readHop(s)
		d.mu.Lock()
		before, stopped := d.counted[s.Name]
		d.mu.Unlock()
		if err != nil && !stopped {
			h.unknown = append(h.unknown, s.Name)
			continue
		}
		now.add(before)
		h.services, h.hops[s.Name] = append(h.services, s.Name), now
		_, by := d.addresses.Dialed(s.Name)
		if slices.ContainsFunc(by, func(owner string) bool { return d.service(owner).kind == program }) {
			h.sent = max(h.sent, 0)
			for of, n := range now {
				if of.exporter == "" {
					h.sent += n
				}
			}
		}
	}
	for _, backend := range d.Backends() {
		h.services, h.arrived[backend.Service] = append(h.services, backend.Service), backend.Spans()
		of := map[string]int{}
		for _, t := range backend.Traces() {
			for _, span := range t.Spans {
				of[span.Service]++
			}
		}
		h.kept[backend.Service] = of
	}
	return h
}

// countHop saves a collector's counts before it is stopped.
func (d *Demo) countHop(s *service) {
	now, err := d.readHop(s)
	if err != nil {
		return // it has already been stopped, or exposes no metrics
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now.add(d.counted[s.Name])
	d.counted[s.Name] = now
}

func (h hop) add(other hop) {
	for of, n := range other {
		h[of] += n
	}
}

// readHop reads the current counts of all instances of a collector. It skips the debug exporter, which only logs.
func (d *Demo) readHop(s *service) (hop, error) {
	h := hop{}
	for i := range s.instances {
		samples, err := Metrics(d.addresses.Of(s.Name, i, 8888))
		if err != nil {
			return h, err
		}
		for _, sample := range samples {
			name, isSpans := strings.CutSuffix(strings.TrimSuffix(string(sample.Metric[model.MetricNameLabel]), "_total"), "_spans")
			at, what, _ := strings.Cut(strings.TrimPrefix(name, "otelcol_"), "_")
			exporter := string(sample.Metric["exporter"])
			if isSpans && (at == "receiver" || at == "exporter") && exporter != "debug" {
				h[outcome{exporter, what}] += int(sample.Value)
			}
		}
	}
	return h, nil
}

// Metrics reads all metrics that are exposed in Prometheus's format at an address.
func Metrics(address string) (all model.Vector, err error) {
	client := http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	response, err := client.Get("http://" + address + "/metrics")
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	decoder := expfmt.SampleDecoder{Dec: expfmt.NewDecoder(response.Body, expfmt.ResponseFormat(response.Header)), Opts: &expfmt.DecodeOptions{}}
	for {
		var samples model.Vector
		if err := decoder.Decode(&samples); err == io.EOF {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, samples...)
	}
}

// String returns one line: what each hop reported, and what was refused, failed or was dropped, if anything.
func (h Hops) String() string {
	var counts, losses []string
	accepted := "accepted by"
	if h.sent >= 0 {
		counts = append(counts, fmt.Sprintf("%d sent by the programs", h.sent))
	}
	for _, name := range h.services {
		of, ok := h.hops[name]
		if !ok {
			counts = append(counts, fmt.Sprintf("%d at %s", h.arrived[name], name))
			continue
		}
		counts = append(counts, fmt.Sprintf("%d %s %s", of[outcome{"", "accepted"}], accepted, name))
		accepted = "by"
		for _, what := range []string{"refused", "failed"} {
			if n := of[outcome{"", what}]; n > 0 {
				losses = append(losses, fmt.Sprintf("%s %s %d", name, what, n))
			}
		}
		for _, exporter := range of.exporters() {
			for _, loss := range []struct{ what, text string }{{"send_failed", "failed to send"}, {"enqueue_failed", "dropped"}} {
				if n := of[outcome{exporter, loss.what}]; n > 0 {
					losses = append(losses, fmt.Sprintf("%s's exporter %s %s %d", name, exporter, loss.text, n))
				}
			}
		}
	}
	for _, name := range h.unknown {
		losses = append(losses, "the metrics of "+name+" can't be read")
	}
	line := "spans: " + strings.Join(counts, ", ")
	if len(losses) > 0 {
		line += "; " + strings.Join(losses, ", ")
	}
	return line
}

// Table returns the same as a table, with what each exporter has sent, and a second table: whose spans the backends
// have.
func (h Hops) Table() string {
	var text strings.Builder
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SPANS AT\tACCEPTED\tREFUSED\tFAILED\tBY EXPORTER\tSENT\tFAILED\tDROPPED")
	for _, name := range h.services {
		of, ok := h.hops[name]
		if !ok {
			fmt.Fprintf(t, "%s\t%d\t\t\t\t\t\t\n", name, h.arrived[name])
			continue
		}
		row := fmt.Sprintf("%s\t%d\t%d\t%d", name, of[outcome{"", "accepted"}], of[outcome{"", "refused"}], of[outcome{"", "failed"}])
		for _, exporter := range of.exporters() {
			fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\n", row, exporter, of[outcome{exporter, "sent"}], of[outcome{exporter, "send_failed"}],
				of[outcome{exporter, "enqueue_failed"}])
			row = "\t\t\t"
		}
		if len(of.exporters()) == 0 {
			fmt.Fprintf(t, "%s\t\t\t\t\n", row)
		}
	}
	for _, name := range h.unknown {
		fmt.Fprintf(t, "%s\t?\t\t\t\t\t\t\n", name)
	}

	backends, programs := slices.Sorted(maps.Keys(h.kept)), map[string]bool{}
	for _, of := range h.kept {
		for program := range of {
			programs[program] = true
		}
	}
	if len(programs) > 0 {
		fmt.Fprintf(t, "\nSPANS OF\t%s\n", strings.Join(backends, "\t"))
	}
	for _, program := range slices.Sorted(maps.Keys(programs)) {
		row := spans.Printable(program)
		for _, backend := range backends {
			row += fmt.Sprintf("\t%d", h.kept[backend][program])
		}
		fmt.Fprintln(t, row)
	}
	_ = t.Flush() // into memory
	return regexp.MustCompile(`(?m) +$`).ReplaceAllString(text.String(), "")
}
