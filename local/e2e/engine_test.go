package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/translator/zipkin/zipkinv2"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"otel-demo/local/compose"
	"otel-demo/local/runner"
	"otel-demo/local/spans"
	"otel-demo/local/spans/spantest"
)

// composeFlag is -compose, or -compose='docker-compose' to choose the Compose command.
type composeFlag string

func (f *composeFlag) String() string   { return string(*f) }
func (f *composeFlag) IsBoolFlag() bool { return true }
func (f *composeFlag) Set(value string) error {
	*f = composeFlag(value)
	return nil
}

var engine composeFlag

func init() {
	flag.Var(&engine, "compose", "run the demo on a real engine too; -compose='docker-compose' chooses that Compose")
}

// composeCommand returns the command line of Compose: `docker compose` if the engine has it, otherwise docker-compose.
func composeCommand() []string {
	if engine != "true" {
		return strings.Fields(string(engine))
	}
	if exec.Command("docker", "compose", "version").Run() == nil {
		return []string{"docker", "compose"}
	}
	return []string{"docker-compose"}
}

func needsEngine(t *testing.T) {
	t.Helper()
	if engine == "" || engine == "false" {
		t.Skip("needs a container engine: run it with -compose")
	}
}

// onEngine builds the images in these files, and returns a function that runs Compose on them. At the test's end it
// runs `down`.
func onEngine(t *testing.T, files ...string) func(ctx context.Context, args ...string) string {
	t.Helper()
	for _, address := range []string{"127.0.0.1:8080", "127.0.0.1:16686", "127.0.0.1:9411"} {
		if !isFree(address) {
			t.Fatalf("the compose file publishes %s, which is taken", address)
		}
	}
	command := composeCommand()
	t.Logf("with %s", strings.Join(command, " "))
	run := func(ctx context.Context, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(ctx, command[0], append(slices.Clone(command[1:]), args...)...)
		cmd.Dir = projectRoot(t)
		cmd.Env = append(os.Environ(), "COMPOSE_PROJECT_NAME=otel-demo-test",
			"COMPOSE_FILE="+strings.Join(files, string(os.PathListSeparator)))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
		}
		return string(out)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(run(context.Background(), "logs", "--no-color", "--tail", "20"))
		}
		run(context.Background(), "down", "--volumes", "--rmi", "local")
	})
	// Building doesn't count as part of the demo's time.
	if run(t.Context(), "build"); t.Failed() {
		t.FailNow()
	}
	return run
}

// The same traces on a real engine, as the real Jaeger and Zipkin report them.
func TestComposeGivesTheSameTraces(t *testing.T) {
	needsEngine(t)
	run := onEngine(t, compose.File)
	start := time.Now()
	run(t.Context(), "up", "--detach")
	t.Logf("up took %v", time.Since(start))

	first := time.Duration(0)
	untilNil(t, func() error {
		traces, err := jaegerTraces(start)
		if err == nil && first == 0 && slices.ContainsFunc(traces, isWholeRequest) {
			first = time.Since(start)
		}
		if err == nil {
			err = spantest.Match(expected(t), traces)
		}
		return err
	})
	untilNil(t, func() error {
		traces, err := zipkinTraces()
		if err == nil {
			err = spantest.MatchFold(expected(t), traces)
		}
		return err
	})
	t.Logf("first whole trace at Jaeger %v after up, all at both %v", first, time.Since(start))

	// Wait until all spans in flight have arrived: nothing else may come.
	time.Sleep(2 * runner.Settled)
	if traces, err := jaegerTraces(start); err != nil {
		t.Error(err)
	} else if err := spantest.Match(expected(t), traces); err != nil {
		t.Errorf("something else came: %v", err)
	}
	// Zipkin's header lets a browser's page of another site read the response. By default it is there.
	request, err := http.NewRequest(http.MethodGet, "http://127.0.0.1:9411/api/v2/services", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Origin", "http://evil.example")
	if response, err := http.DefaultClient.Do(request); err != nil {
		t.Error(err)
	} else {
		response.Body.Close()
		if allowed := response.Header.Get("Access-Control-Allow-Origin"); allowed != "" {
			t.Errorf("pages of %s may read Zipkin's traces", allowed)
		}
	}
	logs := run(t.Context(), "logs", "--no-color", "otel-agent", "otel-collector")
	// Both keep their traces in memory.
	run(t.Context(), "kill", "jaeger")
	run(t.Context(), "stop", "zipkin")
	run(t.Context(), "start", "jaeger", "zipkin")
	untilNil(t, func() error {
		atJaeger, err1 := jaegerTraces(start)
		atZipkin, err2 := zipkinTraces()
		if n := len(atJaeger) + len(atZipkin); n > 0 {
			t.Fatalf("%d traces have survived: this is no longer so", n)
		}
		return errors.Join(err1, err2)
	})
	for line := range strings.Lines(logs) {
		if strings.Contains(line, "\terror\t") {
			t.Errorf("a collector reports an error: %s", line)
		} else if strings.Contains(line, "\twarn\t") {
			t.Logf("a collector warns: %s", line)
		}
	}
}

func isWholeRequest(t *spans.Trace) bool { return len(t.Spans) == 7 }

// untilNil waits up to 90 s until check returns nil.
func untilNil(t *testing.T, check func() error) {
	t.Helper()
	within(t, 90*time.Second, check)
}

// jaegerTraces returns all traces that Compose's Jaeger has.
func jaegerTraces(start time.Time) ([]*spans.Trace, error) {
	return jaegerTracesOf("127.0.0.1:16686", start)
}

// jaegerTracesOf queries service by service: Jaeger has no query for all traces.
func jaegerTracesOf(address string, start time.Time) ([]*spans.Trace, error) {
	api := "http://" + address + "/api/v3/"
	body, err := fetch(api + "services")
	if err != nil {
		return nil, err
	}
	var answer struct{ Services []string }
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, err
	}
	var all []*spans.Trace
	for _, service := range answer.Services {
		body, err := fetch(api + "traces?" + url.Values{
			"query.service_name":   {service},
			"query.start_time_min": {start.UTC().Format(time.RFC3339Nano)},
			"query.start_time_max": {time.Now().UTC().Format(time.RFC3339Nano)},
			"query.search_depth":   {"1000"},
			"query.num_traces":     {"1000"}, // as Jaeger before 2.14 names it
		}.Encode())
		if err != nil {
			return nil, err
		}
		traces, err := parseJaeger(body)
		if err != nil {
			return nil, err
		}
		for _, one := range traces {
			if !slices.ContainsFunc(all, func(t *spans.Trace) bool { return t.ID == one.ID }) {
				all = append(all, one)
			}
		}
	}
	return all, nil
}

// zipkinTraces returns all traces that Compose's Zipkin has.
func zipkinTraces() ([]*spans.Trace, error) { return zipkinTracesOf("127.0.0.1:9411") }

func zipkinTracesOf(address string) ([]*spans.Trace, error) {
	body, err := fetch("http://" + address + "/api/v2/traces?limit=1000&lookback=3600000")
	if err != nil {
		return nil, err
	}
	return parseZipkin(body)
}

// parseJaeger parses what Jaeger's API returns (/api/v3/traces and below).
func parseJaeger(body []byte) ([]*spans.Trace, error) {
	var answer struct {
		Result json.RawMessage `json:"result"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, err
	}
	return sorted((&ptrace.JSONUnmarshaler{}).UnmarshalTraces(answer.Result))
}

// parseZipkin parses what Zipkin's API returns: one trace (/api/v2/trace/ID) or several (/api/v2/traces).
func parseZipkin(body []byte) (all []*spans.Trace, err error) {
	var lists []json.RawMessage
	if err := json.Unmarshal(body, &lists); err != nil {
		return nil, err
	}
	if len(lists) > 0 && lists[0][0] == '{' {
		lists = []json.RawMessage{body}
	}
	for _, list := range lists {
		traces, err := sorted(zipkinv2.NewJSONTracesUnmarshaler(false).UnmarshalTraces(list))
		if err != nil {
			return nil, err
		}
		all = append(all, traces...)
	}
	return all, nil
}

// sorted groups spans into traces.
func sorted(from ptrace.Traces, err error) ([]*spans.Trace, error) {
	if err != nil {
		return nil, err
	}
	traces, rejected := spans.FromOTLP(from)
	if rejected > 0 {
		return nil, fmt.Errorf("%d spans have no id", rejected)
	}
	return traces, nil
}

func fetch(url string) ([]byte, error) {
	client := &http.Client{Timeout: 5 * time.Second}
	response, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %.200s", url, response.Status, body)
	}
	return body, err
}
