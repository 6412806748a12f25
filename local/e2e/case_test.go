package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"otel-demo/local/runner"
	"otel-demo/local/spans"
)

// Every case produces the traces in its folder, before and after its fix, and their times have the relation that its
// page claims.
func TestCases(t *testing.T) {
	t.Parallel()
	checkPages(t, "cases", 5, "What you are told", "Try it", "Look", "The cause", "How the trace shows it",
		"What logs and metrics say", "After the fix")
	for _, lesson := range lessons(t, "cases") {
		for _, fix := range []string{"", "fixed"} {
			t.Run(fixed(lesson, fix), func(t *testing.T) {
				t.Parallel()
				runLesson(t, lesson, fix)
			})
		}
	}
}

func TestCasesOnEngine(t *testing.T) {
	needsEngine(t)
	for _, lesson := range lessons(t, "cases") {
		for _, fix := range []string{"", "fixed"} {
			t.Run(fixed(lesson, fix), func(t *testing.T) { runLessonOnEngine(t, lesson, fix) })
		}
	}
}

// fixed names a lesson with its fix, if there is one.
func fixed(lesson, fix string) string { return strings.TrimSpace(lesson + " " + fix) }

// clientStatus is the exit status of the clients of a lesson, if it isn't 0.
var clientStatus = map[string]int{"cases/impatient-caller": 1}

// caseChecks check what a case claims about times, and about which spans failed.
var caseChecks = map[string]func(t *testing.T, traces []*spans.Trace){
	"cases/bad-release":            func(t *testing.T, all []*spans.Trace) { checkReleases(t, all, "1.5.0", true) },
	"cases/bad-release fixed":      func(t *testing.T, all []*spans.Trace) { checkReleases(t, all, "1.5.1", false) },
	"cases/busy-worker":            func(t *testing.T, all []*spans.Trace) { checkWaits(t, all, true) },
	"cases/busy-worker fixed":      func(t *testing.T, all []*spans.Trace) { checkWaits(t, all, false) },
	"cases/failing-request":        checkFailingRequest,
	"cases/impatient-caller":       checkImpatientCaller,
	"cases/slow-broker":            func(t *testing.T, all []*spans.Trace) { checkBroker(t, all, true) },
	"cases/slow-broker fixed":      func(t *testing.T, all []*spans.Trace) { checkBroker(t, all, false) },
	"cases/failing-request fixed":  func(t *testing.T, all []*spans.Trace) { onlyTheseFailed(t, all) },
	"cases/impatient-caller fixed": func(t *testing.T, all []*spans.Trace) { onlyTheseFailed(t, all, "example error") },
}

// play sends the requests of lessons in which the reader does. log returns what the services have written.
func play(t *testing.T, lesson, fix string, log func() string, address func(service string, port int) string) {
	t.Helper()
	switch lesson {
	case "recipes/old-formats":
		sendOldSpan(t, address("server", 8080), address("otel-agent", 9411))
	case "cases/failing-request":
		var response answer
		eventually(t, "the server", func() bool {
			response = getURL("http://" + address("server", 8080) + "/hello")
			return response.status != 0
		})
		want, body := http.StatusServiceUnavailable, "no worker is listening\n"
		if fix != "" {
			want, body = http.StatusOK, "hello, world\n"
		}
		if response.status != want || response.body != body {
			t.Errorf("got %d %q, want %d %q", response.status, response.body, want, body)
		}
		// Both ways to the trace: the response's header, and the server's log line.
		line := regexp.MustCompile(`msg="GET /hello".*`)
		eventually(t, "the log line", func() bool {
			found := line.FindString(log())
			return strings.Contains(found, "trace_id="+response.traceID) && strings.Contains(found, fmt.Sprint("status=", want))
		})
	}
}

// spansNamed returns the spans of a name, one for each trace that has it.
func spansNamed(traces []*spans.Trace, name string) (named []*spans.Span) {
	for _, one := range traces {
		if i := slices.IndexFunc(one.Spans, func(s *spans.Span) bool { return s.Name == name }); i >= 0 {
			named = append(named, one.Spans[i])
		}
	}
	return named
}

// requests returns the traces of requests, each with its spans by name.
func requests(t *testing.T, traces []*spans.Trace) (all []map[string]*spans.Span) {
	t.Helper()
	for _, one := range traces {
		byName := map[string]*spans.Span{}
		for _, s := range one.Spans {
			byName[s.Name] = s
		}
		if byName["GET /hello"] != nil {
			all = append(all, byName)
		}
	}
	if len(all) == 0 {
		t.Fatal("no request's trace")
	}
	return all
}

// checkReleases compares the servers' durations by version: only if the release is bad, each of its requests takes
// longer than any of the other version's.
func checkReleases(t *testing.T, traces []*spans.Trace, released string, bad bool) {
	took := map[string][]time.Duration{}
	for _, s := range spansNamed(traces, "GET /hello") {
		for _, a := range s.Resource {
			if a.Key == "service.version" {
				took[a.Value] = append(took[a.Value], s.Duration())
			}
		}
	}
	before, after := took["1.4.0"], took[released]
	if len(before) != 60 || len(after) != 5 {
		t.Fatalf("by version: %v, want 60 of 1.4.0 and 5 of %s", took, released)
	}
	if isBad := slices.Min(after) >= 2*time.Second && slices.Max(before) < slices.Min(after); isBad != bad {
		t.Errorf("1.4.0 took %v, %s took %v: is it bad? %v, want %v", before, released, after, isBad, bad)
	}
}

// checkExemplar goes from the metric to the trace, as the page does.
func checkExemplar(t *testing.T, d *runner.Demo, _ *safeBuffer) []string {
	exemplar := regexp.MustCompile(`(?m)^traces_span_metrics_duration_seconds_bucket\{.*service_name="server",service_version="1\.5\.0",.*` +
		`span_name="GET /hello",.*le="2\.5"\} \S+ # \{.*trace_id="([0-9a-f]{32})"`)
	untilNil(t, func() error {
		request, err := http.NewRequest(http.MethodGet, "http://"+address(t, d, "otel-collector", 8889)+"/metrics", nil)
		if err != nil {
			return err
		}
		request.Header.Set("Accept", "application/openmetrics-text")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		found := exemplar.FindSubmatch(body)
		if err != nil || found == nil {
			return fmt.Errorf("no exemplar of version 1.5.0 above a second: %v\n%.3000s", err, bytes.TrimSpace(body))
		}
		slow := spansNamed([]*spans.Trace{d.Jaeger().Trace(string(found[1]))}, "GET /hello")
		if len(slow) != 1 || slow[0].Duration() < 2*time.Second {
			return fmt.Errorf("the exemplar %s leads to %+v", found[1], slow)
		}
		return nil
	})
	return nil
}

// checkWaits looks at the gap between publishing and processing. If the worker is busy, many messages waited there for
// a second or more, long after the response.
func checkWaits(t *testing.T, traces []*spans.Trace, busy bool) {
	waited, longest := 0, time.Duration(0)
	for _, r := range requests(t, traces) {
		gap := r["process work"].Start.Sub(r["publish work"].End)
		if gap > longest {
			longest = gap
		}
		if gap >= time.Second && r["make request"].End.Before(r["process work"].Start) {
			waited++
		}
	}
	t.Logf("%d messages waited for a second or more, the longest %v", waited, longest)
	if isBusy := waited >= 50; isBusy != busy || !busy && waited > 0 {
		t.Errorf("%d messages waited: is the worker busy? %v, want %v", waited, isBusy, busy)
	}
}

// onlyTheseFailed compares the failed spans of all traces, by name, from the root down.
func onlyTheseFailed(t *testing.T, traces []*spans.Trace, want ...string) {
	t.Helper()
	var failed []string
	var walk func(nodes []*spans.Node)
	walk = func(nodes []*spans.Node) {
		for _, n := range nodes {
			if n.Failed() {
				failed = append(failed, n.Name)
			}
			walk(n.Children)
		}
	}
	for _, one := range traces {
		walk(one.Tree())
	}
	if !slices.Equal(failed, want) {
		t.Errorf("the failed spans are %q, want %q", failed, want)
	}
}

// The deepest red span is the first that failed, and has the reason.
func checkFailingRequest(t *testing.T, traces []*spans.Trace) {
	onlyTheseFailed(t, traces, "GET /hello", "handle request", "publish work")
	publish := requests(t, traces)[0]["publish work"]
	if publish.Attribute("error.type") != "no_listener" || !strings.HasPrefix(publish.Status.Message, "no worker is listening") {
		t.Errorf("publish work says %+v, error.type=%s", publish.Status, publish.Attribute("error.type"))
	}
}

// The client gives up, and the server, whose work ends with it, has no error. Nothing is published.
func checkImpatientCaller(t *testing.T, traces []*spans.Trace) {
	for _, r := range requests(t, traces) {
		get, handle := r["HTTP GET"], r["handle request"]
		if !r["make request"].Failed() || !get.Failed() || r["GET /hello"].Failed() || handle.Failed() || r["publish work"] != nil {
			t.Error("the client's two spans should have failed, and no other, and nothing should be published")
		}
		if apart := handle.End.Sub(get.End).Abs(); get.Duration() < 10*time.Second || apart > time.Second {
			t.Errorf("HTTP GET took %v, and handle request ended %v apart: want 10 s, and both together", get.Duration(), apart)
		}
	}
}

// checkBroker looks at Redis's own command. If the broker is slow, most requests spend most of their time in it, and so
// does what the server does around it.
func checkBroker(t *testing.T, traces []*spans.Trace, slow bool) {
	mostly := 0
	for _, r := range requests(t, traces) {
		command := r["publish"].Duration()
		if 2*command >= r["make request"].Duration() && 10*command >= 9*r["publish work"].Duration() {
			mostly++
		}
	}
	if isSlow := mostly >= 6; isSlow != slow {
		t.Errorf("%d of 10 requests spent most of their time in publish: is the broker slow? %v, want %v", mostly, isSlow, slow)
	}
}
