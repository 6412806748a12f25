package e2e

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"otel-demo/local/runner"
)

// Each attribute that the demo's own code emits, on spans, events and resources, including those of failures, is a
// constant in the semconv package.
func TestEveryAttributeIsOfTheConventions(t *testing.T) {
	t.Parallel()
	d, _ := startDemo(t, `services: {client: {environment: {REQUESTS: "1"}}}`)
	if _, err := d.Wait(t.Context(), "client"); err != nil {
		t.Fatal(err)
	}
	broker := goredis.NewClient(&goredis.Options{Addr: address(t, d, "redis", 6379)})
	defer broker.Close()
	if err := broker.Publish(t.Context(), "work", "not JSON").Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the span of the undecodable message", func() bool { return failedSpans(d, "worker") == 1 })
	stopService(t, d, "worker")
	if got := getURL("http://" + address(t, d, "server", 8080) + "/hello"); got.status != 503 {
		t.Errorf("without a worker got %d", got.status)
	}
	eventually(t, "the failed spans of the server", func() bool { return failedSpans(d, "server") >= 3 })
	if err := d.Stop(); err != nil {
		t.Error(err)
	}

	emitted := map[string]bool{}
	for _, trace := range d.Jaeger().Traces() {
		for _, span := range trace.Spans {
			all := span.Resource
			if strings.HasPrefix(span.Scope, "otel-demo/") {
				all = append(slices.Clone(all), span.Attributes...)
				for _, event := range span.Events {
					if !strings.HasPrefix(event.Name, "http.") { // those of otelhttptrace, on the client's span
						all = append(all, event.Attributes...)
					}
				}
			}
			for _, a := range all {
				emitted[a.Key] = true
			}
		}
	}
	keys := slices.Sorted(maps.Keys(emitted))
	t.Logf("emitted: %s", strings.Join(keys, " "))
	for _, want := range []string{"error.type", "user.name", "messaging.system", "http.response.body.size", "service.version"} {
		if !emitted[want] {
			t.Errorf("%s was not emitted: this test has missed some", want)
		}
	}
	conventions := semconvKeys(t)
	for _, key := range keys {
		if !conventions[key] {
			t.Errorf("%s is not a constant in the semconv package: use one that is", key)
		}
	}
}

func failedSpans(d *runner.Demo, service string) (n int) {
	for _, trace := range d.Jaeger().Traces() {
		for _, span := range trace.Spans {
			if span.Service == service && span.Failed() {
				n++
			}
		}
	}
	return n
}

// semconvKeys returns the keys in the root module's version of the semconv package.
func semconvKeys(t *testing.T) map[string]bool {
	t.Helper()
	list := exec.Command(goCommand(t), "list", "-f", "{{.Dir}}", "go.opentelemetry.io/otel/semconv/v1.43.0")
	list.Dir = projectRoot(t)
	dir, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "attribute_group.go"))
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	for _, match := range regexp.MustCompile(`attribute\.Key\("([^"]+)"\)`).FindAllSubmatch(source, -1) {
		keys[string(match[1])] = true
	}
	return keys
}
