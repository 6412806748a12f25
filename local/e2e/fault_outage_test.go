package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"otel-demo/local/runner"
	"otel-demo/local/spans"
)

// awayFor is how long something is down in these tests.
const awayFor = time.Minute

// stopFor stops a service for the length of an outage.
func stopFor(t *testing.T, d *runner.Demo, name string, meanwhile func()) {
	t.Helper()
	if err := d.StopService(name); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	meanwhile()
	time.Sleep(awayFor - time.Since(start))
	if err := d.StartService(t.Context(), name); err != nil {
		t.Fatal(err)
	}
}

func TestTheAgentIsAwayTwice(t *testing.T) {
	needsLong(t)
	t.Parallel()
	d, _ := startServices(t)
	var load *loading
	start := time.Now()
	stopFor(t, d, "otel-agent", func() {
		// The programs start without an agent, and never had a connection to one.
		for _, name := range []string{"worker", "server"} {
			if err := d.Restart(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		isWell(t, d)
		load = startLoad(t, address(t, d, "server", 8080), 10)
	})
	back := time.Now()
	allArrive(t, d, load.answered(), 45*time.Second)
	caughtUp := time.Now()
	load.wait(200)
	again := time.Now()
	stopFor(t, d, "otel-agent", func() {})
	end := time.Now()
	load.wait(50)
	load.Stop()
	answered := load.allAnswered()
	took := allArrive(t, d, answered, 45*time.Second)
	away := (load.latency(0.5, start, back) + load.latency(0.5, again, end)) / 2
	with := load.latency(0.5, caughtUp, again)
	t.Logf("measured: the agent down for %v from the start and again, 10 requests/s: %d requests, no span lost; caught up %v after the first, "+
		"%v after the second; p50 %v with the agent, %v without, ratio %.3f", awayFor, len(answered),
		caughtUp.Sub(back).Round(100*time.Millisecond), took, with, away, float64(away)/float64(with))
}

// The programs report early that there is no agent, and after two minutes they give up on the first spans.
func TestTheAgentNeverComes(t *testing.T) {
	needsLong(t)
	t.Parallel()
	d, log := startDemo(t, `services: {client: {environment: {REQUESTS: "1000"}}}`)
	for _, name := range []string{"otel-agent", "client", "worker", "server"} {
		if err := d.StopService(name); err != nil {
			t.Fatal(err)
		}
	}
	before := len(log.String())
	start := time.Now()
	for _, name := range []string{"worker", "server", "client"} {
		if err := d.StartService(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	isWell(t, d)
	load := startLoad(t, address(t, d, "server", 8080), 10)
	time.Sleep(150*time.Second - time.Since(start))
	load.Stop()
	answered := load.allAnswered()
	for _, name := range []string{"client", "server", "worker"} {
		lines := complaints(log.String()[before:], name)
		if len(lines) == 0 || !strings.Contains(lines[0], "export to ") || !strings.Contains(lines[0], "connection refused") {
			t.Errorf("%s does not name the endpoint first:\n%s", name, strings.Join(lines, "\n"))
		}
		if limit := 1 + int(time.Since(start)/(10*time.Second)); len(lines) > limit {
			t.Errorf("%s wrote %d lines, want at most 1 in 10 s:\n%s", name, len(lines), strings.Join(lines, "\n"))
		}
		status, took := terminateService(t, d, name, 10*time.Second)
		if want := map[string]int{"client": 143}[name]; status != want {
			t.Errorf("%s: exit status %d, want %d", name, status, want)
		}
		if !strings.Contains(log.String(), name+" | time=") || !strings.Contains(lastLines(log.String(), name), "spans were lost") {
			t.Errorf("%s does not report that spans were lost", name)
		}
		t.Logf("measured: the agent never comes: %s wrote %d lines in %v, exit %d after %v", name, len(lines),
			time.Since(start).Round(time.Second), status, took)
	}
	t.Logf("measured: the agent never comes: %d requests got 200, p50 %v", len(answered), load.latency(0.5, start, time.Now()))
}

// routine matches what a program writes when nothing is wrong: the client's line per request, level=INFO, and the
// server's line if it is up before the worker.
var routine = regexp.MustCompile(`\| (200 [0-9a-f]{32} |.* level=INFO |.*responds 503 for now)`)

// complaints returns the lines of a service that aren't routine.
func complaints(log, service string) (lines []string) {
	for line := range strings.Lines(log) {
		if strings.HasPrefix(line, service+" | ") && !routine.MatchString(line) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// lastLines returns what a service has written last.
func lastLines(log, service string) string {
	lines := complaints(log, service)
	return strings.Join(lines[max(0, len(lines)-3):], "\n")
}

func TestTheCollectorRestartsAndZipkinIsAway(t *testing.T) {
	needsLong(t)
	t.Parallel()
	d, _ := startServices(t)
	load := startLoad(t, address(t, d, "server", 8080), 10)
	load.wait(30)
	if err := d.Restart(t.Context(), "otel-collector"); err != nil {
		t.Fatal(err)
	}
	load.wait(30)
	// Everything sent before Zipkin stops is at both, so whatever arrives late at Jaeger is late because of Zipkin.
	allArrive(t, d, load.answered(), 45*time.Second)
	var delay time.Duration
	stopFor(t, d, "zipkin", func() {
		for start := time.Now(); time.Since(start) < awayFor-15*time.Second; {
			load.wait(10)
			delay = max(delay, arrivesAt(t, d.Jaeger(), load.answered()))
		}
	})
	load.wait(20)
	load.Stop()
	answered := load.allAnswered()
	took := allArrive(t, d, answered, 90*time.Second)
	t.Logf("measured: the collector restarted, then Zipkin down for %v, 10 requests/s: %d requests, no span lost at either backend; "+
		"Jaeger had all spans at most %v after the response, Zipkin caught up %v after it was back", awayFor, len(answered), delay, took)
}

// arrivesAt waits up to 15 s until a store has all spans of all traces, and returns how long that took.
func arrivesAt(t *testing.T, store *spans.Store, ids []string) time.Duration {
	t.Helper()
	return within(t, 15*time.Second, func() error {
		if n, example := lost(store, ids, requestSpans); n > 0 {
			return fmt.Errorf("%d spans did not arrive after the response: %s", n, example)
		}
		return nil
	})
}
