package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"otel-demo/local/compose"
	"otel-demo/local/runner"
	"otel-demo/local/spans"
	"otel-demo/local/spans/spantest"
)

// A lesson is a recipe or a case, by the path of its folder and perhaps a variant: recipes/b3, recipes/b3/both,
// cases/busy-worker. backendsElsewhere is the one that is never run: its backends are external services.
const backendsElsewhere = "recipes/swap-backend"

// lessons returns all recipes or all cases, with their variants.
func lessons(t *testing.T, folder string) (names []string) {
	t.Helper()
	for _, name := range compose.Overlays(projectRoot(t), folder) {
		names = append(names, folder+"/"+name)
	}
	return names
}

// lessonChecks check what a recipe promises besides its traces. Each returns the ids of the traces that it has made.
var lessonChecks = map[string]func(t *testing.T, d *runner.Demo, log *safeBuffer) []string{
	"recipes/b3":                   checkB3,
	"recipes/b3/both":              checkBothFormats,
	"recipes/head-sampling":        checkDecisionTravels,
	"recipes/redaction":            checkRedacted,
	"recipes/redaction/allow-list": checkAllowed,
	"recipes/durable-agent":        checkNothingIsLost,
	"recipes/span-metrics":         checkMetrics,
	"recipes/own-program":          checkOwnProgram,
	"cases/bad-release":            checkExemplar,
}

// Every recipe, and every variant of one, produces the traces in its folder.
func TestRecipes(t *testing.T) {
	t.Parallel()
	checkPages(t, "recipes", 14, "What it shows", "Try it", "What you see", "How it works")
	for _, recipe := range lessons(t, "recipes") {
		if recipe == backendsElsewhere {
			continue
		}
		t.Run(recipe, func(t *testing.T) {
			t.Parallel()
			if recipe == otherLanguage {
				checkOtherLanguage(t)
			} else {
				runLesson(t, recipe, "")
			}
		})
	}
	t.Run("tail-sampling with link", func(t *testing.T) {
		t.Parallel()
		checkTailSamplingWithLinks(t)
	})
	t.Run("head-sampling with link", func(t *testing.T) {
		t.Parallel()
		checkHeadSamplingWithLinks(t)
	})
}

// checkPages checks that the pages of all recipes or cases have the form that they share.
func checkPages(t *testing.T, folder string, atLeast int, headings ...string) {
	t.Helper()
	pages := globbed(t, folder+"/*/README.md")
	if len(pages) < atLeast {
		t.Errorf("there are %d %s, want at least %d: %v", len(pages), folder, atLeast, pages)
	}
	for _, page := range pages {
		t.Run(page, func(t *testing.T) { checkREADME(t, strings.TrimSuffix(page, "/README.md"), headings) })
	}
}

// text reads a file of the project.
func text(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(projectRoot(t), filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// overlayFile returns the overlay of a lesson.
func overlayFile(t *testing.T, lesson string) string {
	t.Helper()
	folder, name, _ := strings.Cut(lesson, "/")
	file, err := compose.OverlayFile(projectRoot(t), folder, name)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.ToSlash(file)
}

// lessonTraces returns the trace.txt of a lesson, or the trace.VARIANT.txt. A case's fix is such a variant.
func lessonTraces(t *testing.T, lesson, fix string) string {
	t.Helper()
	names := append(strings.Split(lesson, "/"), "", "")
	variant := cmp.Or(names[2], fix)
	if variant != "" {
		variant = "." + variant
	}
	return text(t, path.Join(names[0], names[1], "trace"+variant+".txt"))
}

// fixFile is what mends a case, on top of its overlay.
func fixFile(lesson, fix string) string { return lesson + "/" + fix + ".yml" }

// checkREADME checks that a lesson's page has these headings, and the commands and the traces of each variant.
func checkREADME(t *testing.T, folder string, want []string) {
	readme := text(t, folder+"/README.md")
	var headings []string
	for _, found := range regexp.MustCompile(`(?m)^## (.*)$`).FindAllStringSubmatch(readme, -1) {
		headings = append(headings, found[1])
	}
	if !slices.Equal(headings, want) {
		t.Errorf("the headings are %q, want %q", headings, want)
	}
	all, name := path.Split(folder)
	if !strings.Contains(text(t, all+"README.md"), "("+name+"/README.md)") {
		t.Errorf("%sREADME.md does not link to it", all)
	}
	contains := func(text string) {
		if folder != backendsElsewhere && !strings.Contains(readme, text) {
			t.Errorf("it does not contain %q", text)
		}
	}
	found := false
	for _, lesson := range lessons(t, strings.TrimSuffix(all, "/")) {
		if lesson != folder && path.Dir(lesson) != folder {
			continue
		}
		found = true
		flag := " -" + strings.TrimSuffix(all, "s/") + " " + strings.TrimPrefix(lesson, all)
		files := "docker compose -f docker-compose.yml -f " + overlayFile(t, lesson)
		contains("go run -C local ." + flag + "\n")
		contains(files + " up --build\n")
		if folder != backendsElsewhere {
			contains("```\n" + lessonTraces(t, lesson, "") + "```\n")
		}
		if fix := "fixed"; all == "cases/" {
			contains("go run -C local ." + flag + " -f " + fixFile(lesson, fix) + "\n")
			contains(files + " -f " + fixFile(lesson, fix) + " up --build\n")
			contains("```\n" + lessonTraces(t, lesson, fix) + "```\n")
		}
	}
	if !found {
		t.Error("there is no docker-compose.yml")
	}
}

// startLessons starts the demo with overlays, on free ports.
func startLessons(t *testing.T, files ...string) (*runner.Demo, *safeBuffer) {
	t.Helper()
	return startDemoWith(t, runner.Options{Files: append([]string{compose.File}, files...)})
}

// waitForClients waits until all clients have exited with this status.
func waitForClients(t *testing.T, d *runner.Demo, want int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	for _, name := range d.Clients() {
		if status, err := d.Wait(ctx, name); err != nil || status != want {
			t.Fatalf("%s exited with %d, %v", name, status, err)
		}
	}
}

// runLesson runs a recipe or a case, with its fix or without, and compares what arrives.
func runLesson(t *testing.T, lesson, fix string) {
	want, files := lessonTraces(t, lesson, fix), []string{overlayFile(t, lesson)}
	if fix != "" {
		files = append(files, fixFile(lesson, fix))
	}
	start := time.Now()
	d, log := startLessons(t, files...)
	play(t, lesson, fix, log.String, func(service string, port int) string { return address(t, d, service, port) })
	status := clientStatus[fixed(lesson, fix)]
	waitForClients(t, d, status)

	var own []string // traces that the check has made
	match := func() error {
		var others []*spans.Trace
		for _, trace := range d.Jaeger().Traces() {
			if !slices.Contains(own, trace.ID) {
				others = append(others, trace)
			}
		}
		return spantest.Match(want, others)
	}
	untilNil(t, match)
	t.Logf("the traces were there after %v", time.Since(start).Round(100*time.Millisecond))
	if check := lessonChecks[fixed(lesson, fix)]; check != nil {
		own = check(t, d, log)
	}
	if check := caseChecks[fixed(lesson, fix)]; check != nil {
		check(t, d.Jaeger().Traces())
	}

	select {
	case err := <-d.Failed():
		var end *runner.EndError
		if !errors.As(err, &end) || !end.OfClient || end.Status != status {
			t.Error(err)
		}
	default:
	}
	// Stopping flushes whatever is still in flight, so nothing else arrives after this.
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	if err := match(); err != nil {
		t.Errorf("something else came: %v", err)
	}
	for line := range strings.Lines(log.String()) {
		// A killed agent warns, as it should.
		if strings.HasPrefix(line, "otel-") && lesson != "recipes/durable-agent" &&
			(strings.Contains(line, "\twarn\t") || strings.Contains(line, "\terror\t")) {
			t.Errorf("a collector warns: %s", line)
		}
	}
}

// ask sends the server a request, and returns the id of its trace.
func ask(server string, header http.Header) (string, error) {
	request, err := http.NewRequest(http.MethodGet, "http://"+server+"/hello", nil)
	if err != nil {
		return "", err
	}
	request.Header = header
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the server responded %s", response.Status)
	}
	return response.Header.Get("Trace-Id"), nil
}

// The trace that a request continues, in both formats.
const (
	sentID = "4bf92f3577b34da6a3ce929d0e0e4736"
	asW3C  = "00-" + sentID + "-00f067aa0ba902b7-01"
	asB3   = sentID + "-00f067aa0ba902b7-1"
)

// onTheWire listens on the channel as `redis-cli subscribe work` does, sends the server a request with these headers,
// and returns the headers of the message that it publishes.
func onTheWire(t *testing.T, d *runner.Demo, header http.Header) map[string]string {
	t.Helper()
	conn, err := net.Dial("tcp", address(t, d, "redis", 6379))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(conn)
	fmt.Fprint(conn, "*2\r\n$9\r\nSUBSCRIBE\r\n$4\r\nwork\r\n")
	for lines.Scan() && lines.Text() != ":1" {
	}
	if _, err := ask(address(t, d, "server", 8080), header); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
		if !strings.HasPrefix(lines.Text(), "{") {
			continue
		}
		var message struct{ Headers map[string]string }
		if err := json.Unmarshal(lines.Bytes(), &message); err != nil {
			t.Fatal(err)
		}
		return message.Headers
	}
	t.Fatalf("no message came: %v", lines.Err())
	return nil
}

// An incoming B3 header goes out in the message, and no other format does.
func checkB3(t *testing.T, d *runner.Demo, _ *safeBuffer) []string {
	headers := onTheWire(t, d, http.Header{"B3": {asB3}, "Baggage": {"username=jo"}})
	if !strings.HasPrefix(headers["b3"], sentID+"-") || headers["baggage"] != "username=jo" || len(headers) != 2 {
		t.Errorf("the message's headers are %v, want b3 with the trace id, baggage, and nothing else", headers)
	}
	return []string{sentID}
}

// The recipe publishes the broker's port, and a message on it is as the page quotes it.
func TestTheMessageTellsWhoIsBroken(t *testing.T) {
	for recipe, quote := range map[string]string{
		"recipes/broken-propagation": `"headers":{}`, "recipes/broken-propagation/worker": `"headers":{"traceparent":"`,
	} {
		t.Run(recipe, func(t *testing.T) {
			t.Parallel()
			file := overlayFile(t, recipe)
			overlay := text(t, file)
			d, _ := startServices(t, overlay)
			headers := onTheWire(t, d, http.Header{})
			if written := len(headers) > 0; written != strings.Contains(quote, "traceparent") || written && headers["traceparent"] == "" {
				t.Errorf("the message's headers are %v, want %s", headers, quote)
			}
			if !strings.Contains(text(t, "recipes/broken-propagation/README.md"), quote) || !strings.Contains(overlay, "127.0.0.1:16379:6379") {
				t.Errorf("the page does not quote %s, or %s does not publish the port", quote, file)
			}
		})
	}
}

// Whichever format comes in, both go out.
func checkBothFormats(t *testing.T, d *runner.Demo, _ *safeBuffer) []string {
	for _, header := range []http.Header{{"B3": {asB3}}, {"Traceparent": {asW3C}}} {
		headers := onTheWire(t, d, header)
		if !strings.HasPrefix(headers["b3"], sentID+"-") || !strings.HasPrefix(headers["traceparent"], "00-"+sentID+"-") {
			t.Errorf("with %v the message's headers are %v, want the trace id in b3 and traceparent", header, headers)
		}
	}
	return []string{sentID}
}

// The server and the worker follow the decision in the request's headers.
func checkDecisionTravels(t *testing.T, d *runner.Demo, _ *safeBuffer) []string {
	dropped := strings.Replace(sentID, "4", "5", 1)
	flags := onTheWire(t, d, http.Header{"Traceparent": {"00-" + dropped + "-00f067aa0ba902b7-00"}})["traceparent"]
	if !strings.HasPrefix(flags, "00-"+dropped+"-") || !strings.HasSuffix(flags, "-00") {
		t.Errorf("the message of a trace that isn't recorded has the header traceparent: %s", flags)
	}
	onTheWire(t, d, http.Header{"Traceparent": {asW3C}})
	eventually(t, "the trace that is recorded", func() bool {
		trace := d.Jaeger().Trace(sentID)
		return trace != nil && len(trace.Spans) == 5
	})
	if d.Jaeger().Trace(dropped) != nil {
		t.Error("the trace that should not be recorded is there")
	}
	return []string{sentID}
}

// everything returns all that Jaeger has, as it was sent, including times and ids.
func everything(t *testing.T, d *runner.Demo) string {
	t.Helper()
	var all strings.Builder
	for _, store := range d.Backends() {
		for _, trace := range store.Traces() {
			for _, span := range trace.Spans {
				fmt.Fprintf(&all, "%+v\n", *span)
			}
		}
	}
	return all.String()
}

func checkRedacted(t *testing.T, d *runner.Demo, _ *safeBuffer) []string {
	all := everything(t, d)
	for _, private := range []string{"donuts", "s3cr3t", "Key:client.address", "Key:network.peer.address"} {
		if strings.Contains(all, private) {
			t.Errorf("%q got through:\n%s", private, all)
		}
	}
	if !strings.Contains(all, "/hello?****") {
		t.Errorf("the URL without its token is missing:\n%s", all)
	}
	return nil
}

func checkAllowed(t *testing.T, d *runner.Demo, _ *safeBuffer) []string {
	all := everything(t, d)
	for _, private := range []string{"donuts", "s3cr3t", "hello, world", "url.full", "user.name"} {
		if strings.Contains(all, private) {
			t.Errorf("%q got through:\n%s", private, all)
		}
	}
	if !strings.Contains(all, "Key:error.type ") {
		t.Errorf("nobody can count failures: error.type is missing:\n%s", all)
	}
	return nil
}

func checkNothingIsLost(t *testing.T, d *runner.Demo, log *safeBuffer) []string {
	ids := agentOutage{
		server:        address(t, d, "server", 8080),
		stopCollector: func() error { return d.StopService("otel-collector") },
		killAgent:     func() error { return d.Kill("otel-agent") },
		start: func() error {
			return errors.Join(d.StartService(t.Context(), "otel-agent"), d.StartService(t.Context(), "otel-collector"))
		},
		log:    log.String,
		traces: func() ([]*spans.Trace, error) { return d.Jaeger().Traces(), nil },
	}.losesNothing(t)
	const flags, freelist = 8, 0x10 // bbolt's header of a page, after two pages that describe the file
	damaged := startsWithANewQueue(t, d, func(file string) error {
		queue, err := os.ReadFile(file)
		for page := 2 * os.Getpagesize(); page < len(queue); page += os.Getpagesize() {
			queue[page+flags] = freelist // a type that these pages can't have
		}
		return errors.Join(err, os.WriteFile(file, queue, 0o600))
	})
	if !strings.Contains(log.String(), "Database corruption detected") {
		t.Error("the agent didn't notice that its queue was damaged")
	}
	truncated := startsWithANewQueue(t, d, func(file string) error {
		if said, err := checkQueue(t, file); err != nil || said != "" {
			t.Errorf("the check of a queue that is whole: %v, printed %q", err, said)
		}
		if err := os.Truncate(file, 3*int64(os.Getpagesize())); err != nil {
			return err
		}
		said, err := checkQueue(t, file)
		if !strings.Contains(said, "truncated") {
			t.Errorf("the check of a truncated queue printed %q", said)
		}
		return err
	})
	return append(ids, damaged, truncated)
}

// checkQueue runs the shell of the service agent-queue on a queue's folder, since the runner doesn't.
func checkQueue(t *testing.T, file string) (printed string, err error) {
	t.Helper()
	files := []string{compose.File, overlayFile(t, "recipes/durable-agent")}
	project, err := runner.Load(t.Context(), projectRoot(t), files)
	if err != nil {
		return "", err
	}
	command := project.Services["agent-queue"].Command
	cmd := exec.Command(command[0], command[1], strings.Replace(command[2], "cd /tmp", "", 1))
	cmd.Dir = filepath.Dir(file)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// startsWithANewQueue stops the agent, damages its queue's file, and returns the id of a trace that passes the agent
// after its next start.
func startsWithANewQueue(t *testing.T, d *runner.Demo, damage func(file string) error) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(d.Dir(), "volumes", "*", "exporter_*_traces"))
	if err != nil || len(files) != 1 {
		t.Fatalf("the queue's files are %v, %v", files, err)
	}
	if err := d.StopService("otel-agent"); err != nil {
		t.Fatal(err)
	}
	if err := damage(files[0]); err != nil {
		t.Fatal(err)
	}
	// Now and then, a goroutine of bbolt panics before the agent has noticed the damage. Docker starts it again, too.
	untilNil(t, func() error { return d.StartService(t.Context(), "otel-agent") })
	if _, err := os.Stat(files[0]); err != nil {
		t.Errorf("the agent has no queue: %v", err)
	}
	id, err := ask(address(t, d, "server", 8080), http.Header{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a trace that passes the agent", func() bool {
		trace := d.Jaeger().Trace(id)
		return trace != nil && len(trace.Spans) == 5
	})
	return id
}

// agentOutage is how to cause one, in the runner or on a real engine.
type agentOutage struct {
	server                          string
	stopCollector, killAgent, start func() error
	log                             func() string
	traces                          func() ([]*spans.Trace, error)
}

// losesNothing kills the agent under load while the collector is down, so that its queue is all that it has. It returns
// the ids of the traces.
func (o agentOutage) losesNothing(t *testing.T) []string {
	t.Helper()
	if err := o.stopCollector(); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var ids []string
	answered := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(ids)
	}
	var enough atomic.Bool
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for !enough.Load() {
				id, err := ask(o.server, http.Header{})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				ids = append(ids, id)
				mu.Unlock()
			}
		})
	}
	stopLoad := sync.OnceFunc(func() { enough.Store(true); load.Wait() })
	defer stopLoad()

	eventually(t, "a batch that the agent has accepted and can't send", func() bool {
		return answered() > 20 && strings.Contains(o.log(), "Exporting failed. Will retry")
	})
	if err := o.killAgent(); err != nil {
		t.Fatal(err)
	}
	before := answered()
	eventually(t, "requests while the agent is down", func() bool { return answered() > before+10 })
	if err := o.start(); err != nil {
		t.Fatal(err)
	}
	stopLoad()

	untilNil(t, func() error {
		traces, err := o.traces()
		if err != nil {
			return err
		}
		spans := map[string]map[string]bool{}
		for _, trace := range traces {
			spans[trace.ID] = map[string]bool{}
			for _, span := range trace.Spans {
				spans[trace.ID][span.ID] = true // a batch that was in flight comes twice
			}
		}
		for i, id := range ids {
			if len(spans[id]) != 5 {
				return fmt.Errorf("request %d of %d: %d spans of 5 have arrived", i+1, len(ids), len(spans[id]))
			}
		}
		return nil
	})
	t.Logf("%d requests, %d of them before the agent was killed; nothing is lost", len(ids), before)
	return ids
}

// The collector has the numbers. If there is a Prometheus, it has them too; if not, the runner reports it.
func checkMetrics(t *testing.T, d *runner.Demo, log *safeBuffer) []string {
	metrics := "http://" + address(t, d, "otel-collector", 8889) + "/metrics"
	for _, want := range []string{
		`traces_span_metrics_calls_total\{.*service_name="worker".*span_name="process work".*\} 100`,
		`traces_span_metrics_calls_total\{.*span_name="example error".*status_code="STATUS_CODE_ERROR".*\} 1`,
		`traces_span_metrics_duration_seconds_bucket\{.*service_name="server".*span_name="GET /hello".*le="0.025"\} 0`,
	} {
		line := regexp.MustCompile("(?m)^" + want + "$")
		untilNil(t, func() error {
			body, err := fetch(metrics)
			if err == nil && !line.Match(body) {
				err = fmt.Errorf("%s has no line %s:\n%s", metrics, want, body)
			}
			return err
		})
	}
	if _, err := exec.LookPath("prometheus"); err != nil {
		if !strings.Contains(log.String(), "prometheus is left out") || !strings.Contains(log.String(), metrics) {
			t.Errorf("the runner does not report that prometheus is left out, and that the metrics are at %s", metrics)
		}
		return nil
	}
	prometheusHas(t, address(t, d, "prometheus", 9090), func(trace string) error {
		if d.Jaeger().Trace(trace) == nil {
			return fmt.Errorf("the exemplar's trace %s is not there", trace)
		}
		return nil
	})
	return nil
}

// prometheusHas waits until a Prometheus has the numbers, and the id of a trace that is there.
func prometheusHas(t *testing.T, prometheus string, isThere func(trace string) error) {
	t.Helper()
	query := "http://" + prometheus + "/api/v1/query?" + url.Values{
		"query": {`sum by (service_name)(traces_span_metrics_calls_total{span_name="process work"})`},
	}.Encode()
	untilNil(t, func() error {
		body, err := fetch(query)
		if err == nil && !bytes.Contains(body, []byte(`"100"`)) {
			err = fmt.Errorf("%s: %s", query, body)
		}
		return err
	})
	// The way from a metric to a trace.
	query = "http://" + prometheus + "/api/v1/query_exemplars?" + url.Values{
		"query": {`traces_span_metrics_duration_seconds_bucket{span_name="HTTP GET"}`},
		"start": {strconv.FormatInt(time.Now().Add(-time.Hour).Unix(), 10)}, "end": {strconv.FormatInt(time.Now().Add(time.Minute).Unix(), 10)},
	}.Encode()
	untilNil(t, func() error {
		body, err := fetch(query)
		found := regexp.MustCompile(`"trace_id":"([0-9a-f]{32})"`).FindSubmatch(body)
		if err != nil || found == nil {
			return fmt.Errorf("%s: %v %s", query, err, body)
		}
		return isThere(string(found[1]))
	})
}

// sendOldSpan sends what curl sends in the README of old-formats.
func sendOldSpan(t *testing.T, server, agent string) {
	t.Helper()
	readme := text(t, "recipes/old-formats/README.md")
	find := func(pattern string) []string {
		found := regexp.MustCompile(pattern).FindStringSubmatch(readme)
		if found == nil {
			t.Fatalf("the README has no command like %s", pattern)
		}
		return found
	}
	header := find(`curl -H 'b3: ([^']+)' localhost:8080/hello\n`)
	change := find(`sed "s/(\d+)/\$now/" recipes/old-formats/(\S+) \|`)
	post := find(`curl --data-binary @- -H 'Content-Type: ([^']+)' localhost:9412(/\S+)\n`)

	now := fmt.Sprint(time.Now().Unix(), "000000")
	eventually(t, "the server", func() bool {
		_, err := ask(server, http.Header{"B3": {header[1]}})
		return err == nil
	})
	old := text(t, "recipes/old-formats/"+change[2])
	if strings.Count(old, change[1]) != 1 {
		t.Fatalf("%s should have the number %s once", change[2], change[1])
	}
	old = strings.Replace(old, change[1], now, 1)
	response, err := http.Post("http://"+agent+post[2], post[1], strings.NewReader(old))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusAccepted {
		t.Errorf("the agent responded %s", response.Status)
	}
}

// With links instead of parents, the worker's spans are in their own traces, and the samplers don't know about the slow
// traces that they belong to.
func checkTailSamplingWithLinks(t *testing.T) {
	d, _ := startLessons(t, overlayFile(t, "recipes/tail-sampling"), overlayFile(t, "recipes/link"))
	waitForClients(t, d, 0)
	if err := d.Stop(); err != nil { // now the samplers decide on the remaining traces
		t.Error(err)
	}
	slow, linked := 0, 0
	for _, trace := range d.Jaeger().Traces() {
		services := trace.Services()
		if slices.Contains(services, "slow-client") && slices.Contains(services, "server") {
			slow++
			if slices.Contains(services, "worker") {
				t.Error("a slow trace contains the worker's span")
			}
		} else if slices.Contains(services, "worker") {
			linked++
		}
	}
	// Of 103 traces of the worker, 5% are kept: more than 25 is less likely than 1 in 10 million.
	if slow != 3 || linked > 25 {
		t.Errorf("%d slow traces and %d of the worker were kept, want 3, and 5 %% of 103", slow, linked)
	}
	t.Logf("%d slow traces, and %d of 103 of the worker's", slow, linked)
}

// With the sampler of examples/links_test.go in the worker, linked traces are recorded together, or not at all.
func checkHeadSamplingWithLinks(t *testing.T) {
	root, dir := projectRoot(t), t.TempDir()
	_, sampler, found := strings.Cut(text(t, "examples/links_test.go"), "type linked ")
	sampler, _, found2 := strings.Cut(sampler, "// One message")
	const provider = "sdktrace.NewTracerProvider("
	patched := strings.Replace(text(t, "pkg/tracer.go"), provider, provider+"sdktrace.WithSampler(sampler), ", 1) + "\ntype linked " + sampler
	if !found || !found2 || !strings.Contains(patched, "WithSampler") {
		t.Fatal("examples/links_test.go or pkg/tracer.go has changed")
	}
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, "pkg", "tracer.go"): filepath.Join(dir, "tracer.go")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "tracer.go"), []byte(patched), 0o600),
		os.WriteFile(filepath.Join(dir, "overlay.json"), replace, 0o600)); err != nil {
		t.Fatal(err)
	}
	binaries := filepath.Join(dir, "bin")
	if err := runner.Build(t.Context(), root, binaries, "-overlay", filepath.Join(dir, "overlay.json"), "./cmd/worker"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"client", "server", "collector"} {
		path := binary(t, name)
		if err := os.Symlink(path, filepath.Join(binaries, filepath.Base(path))); err != nil {
			t.Skip(err) // Windows allows it only to some
		}
	}
	files := []string{compose.File, overlayFile(t, "recipes/head-sampling"), overlayFile(t, "recipes/link")}
	d, _ := startDemoWith(t, runner.Options{Files: files, Binaries: binaries})
	waitForClients(t, d, 0)
	if err := d.Stop(); err != nil { // now everything has arrived
		t.Error(err)
	}
	pairs := 0
	for _, trace := range d.Jaeger().Traces() {
		services := trace.Services()
		if !slices.Contains(services, "worker") {
			continue
		}
		pairs++
		if request := d.Jaeger().Trace(trace.Spans[0].Links[0].TraceID); request == nil {
			t.Error("a trace of the worker is there without the request's")
		}
	}
	requests := len(d.Jaeger().Traces()) - pairs
	// The client's example of a failure, which sends no message, may be there too. Of 200 requests at 10%, none or more
	// than 60 are less likely than 1 in a million.
	if pairs == 0 || pairs > 60 || requests-pairs > 1 {
		t.Errorf("%d traces of requests, and %d of the worker", requests, pairs)
	}
	t.Logf("measured: of 200 requests, %d were recorded, all with the worker's trace", pairs)
}

// The same on a real engine, with the real backends.
func TestRecipesOnEngine(t *testing.T) {
	needsEngine(t)
	for _, recipe := range lessons(t, "recipes") {
		if recipe != backendsElsewhere {
			t.Run(recipe, func(t *testing.T) { runLessonOnEngine(t, recipe, "") })
		}
	}
}

func runLessonOnEngine(t *testing.T, lesson, fix string) {
	files := []string{compose.File, overlayFile(t, lesson)}
	if fix != "" {
		files = append(files, fixFile(lesson, fix))
	}
	run := onEngine(t, files...)
	start := time.Now()
	if run(t.Context(), "up", "--detach"); t.Failed() {
		return
	}
	log := func() string { return run(t.Context(), "logs", "--no-color") }
	play(t, lesson, fix, log, func(service string, port int) string {
		if service == "otel-agent" {
			port = 9412 // the recipe old-formats publishes Zipkin's port there
		}
		return fmt.Sprint("127.0.0.1:", port)
	})
	var traces []*spans.Trace
	match := func() (err error) {
		if traces, err = jaegerTraces(start); err == nil {
			err = spantest.Match(lessonTraces(t, lesson, fix), traces)
		}
		return err
	}
	untilNil(t, match)
	t.Logf("the traces were there after %v", time.Since(start).Round(100*time.Millisecond))
	if check := caseChecks[fixed(lesson, fix)]; check != nil {
		check(t, traces)
	}
	isThere := func(id string) error {
		_, err := fetch("http://127.0.0.1:16686/api/v3/traces/" + id)
		return err
	}
	switch lesson {
	case "recipes/durable-agent":
		command := func(args ...string) func() error {
			return func() error { run(t.Context(), args...); return nil } // it reports its errors itself
		}
		agentOutage{
			server:        "127.0.0.1:8080",
			stopCollector: command("stop", "otel-collector"),
			killAgent:     command("kill", "otel-agent"),
			start:         command("start", "otel-agent", "otel-collector"),
			log:           func() string { return run(t.Context(), "logs", "--no-color", "otel-agent") },
			traces:        func() ([]*spans.Trace, error) { return jaegerTraces(start) },
		}.losesNothing(t)
		run(t.Context(), "stop", "otel-agent")
		run(t.Context(), "run", "--rm", "agent-queue", "sh", "-c", "truncate -s 12288 /tmp/exporter_*_traces")
		run(t.Context(), "up", "--detach")
		id, err := ask("127.0.0.1:8080", http.Header{})
		if err != nil {
			t.Fatal(err)
		}
		untilNil(t, func() error { return isThere(id) })
		if said := run(t.Context(), "logs", "--no-color", "agent-queue"); !strings.Contains(said, "truncated") {
			t.Errorf("the check of the queue printed %q", said)
		}
		return
	case "recipes/span-metrics":
		prometheusHas(t, "127.0.0.1:9090", isThere)
	case "recipes/own-program":
		sendOwnSpans(t, "127.0.0.1:4317", "127.0.0.1:4318", isThere)
		return
	}
	time.Sleep(2 * runner.Settled) // for anything else that may arrive
	untilNil(t, match)             // with `3-45 traces`, others may still be incomplete
}

// The YAML for other backends is valid as far as this collector has their exporters. Where it lacks one, it checks
// everything but the exporter itself.
func TestSwapBackend(t *testing.T) {
	t.Parallel()
	root := projectRoot(t)
	files, err := filepath.Glob(filepath.Join(root, backendsElsewhere, "*.yaml"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%d files, %v; want 4", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		cmd := exec.Command(binary(t, "contrib"), "print-config", "--mode=unredacted", // which validates it first
			"--config="+filepath.Join(root, "otel-collector-config.yaml"), "--config="+file)
		cmd.Env = append(os.Environ(), "BACKEND_ENDPOINT=https://otlp.example.com", "BACKEND_KEY=a$$b",
			"GOOGLE_CLOUD_PROJECT=project")
		out, err := cmd.CombinedOutput()
		if name == "otlp" {
			if err != nil || !bytes.Contains(out, []byte("value: a$b\n")) { // the page says to double each $
				t.Errorf("%s: %v\n%s", name, err, out)
			}
			continue
		}
		// One line for each missing component, and no other complaint.
		complaints := regexp.MustCompile(`(?m)^'.*$`).FindAllString(string(out), -1)
		if err == nil || len(complaints) == 0 {
			t.Errorf("%s: it is valid, though this collector lacks the exporter: %s", name, out)
		}
		for _, complaint := range complaints {
			if !strings.Contains(complaint, fmt.Sprintf("unknown type: %q", name)) {
				t.Errorf("%s: %s", name, complaint)
			}
		}
	}
}
