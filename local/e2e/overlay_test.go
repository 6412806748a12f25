package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"otel-demo/local/compose"
	"otel-demo/local/runner"
	"otel-demo/local/spans/spantest"
)

// Several workers, a queue on disk in a volume, and a Prometheus: what recipes need beyond the shipped demo.
func TestOverlays(t *testing.T) {
	binary(t, "local")                           // built with all that is on the PATH
	t.Setenv("PATH", filepath.Dir(goCommand(t))) // without any Prometheus on this machine
	config, err := os.ReadFile(filepath.Join(projectRoot(t), "otel-agent-config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	yaml := strings.Replace(string(config), "sending_queue:\n", "sending_queue:\n      storage: file_storage\n", 1)
	yaml = strings.Replace(yaml, "\nextensions:\n", "\nextensions:\n  file_storage: {directory: /var/lib/storage}\n", 1)
	yaml = strings.Replace(yaml, "extensions: [health_check]", "extensions: [health_check, file_storage]", 1)
	agent := filepath.Join(t.TempDir(), "agent.yaml")
	scrape := filepath.Join(t.TempDir(), "prometheus.yml")
	for file, content := range map[string]string{agent: yaml, scrape: `scrape_configs: [{job_name: a, static_configs: [{targets: ["otel-agent:8888"]}]}]`} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d, log := startDemo(t, fmt.Sprintf(`
services:
  client: {environment: {REQUESTS: "2"}}
  worker: {scale: 3}
  otel-agent:
    image: otel/opentelemetry-collector-contrib:0.165.0
    volumes: !override ["%s:/etc/otel-agent-config.yaml:ro", "queue:/var/lib/storage"]
  prometheus:
    image: prom/prometheus:v3
    ports: ["127.0.0.1:9090:9090"]
    volumes: ["%s:/etc/prometheus/prometheus.yml:ro"]
volumes: {queue: {}}
`, agent, scrape))
	if pids := d.PIDs("worker"); len(pids) != 3 {
		t.Errorf("%d workers, want 3", len(pids))
	}
	metrics := address(t, d, "otel-agent", 8888)
	if want := "it would scrape http://" + metrics + "/metrics"; !strings.Contains(log.String(), want) {
		t.Errorf("the log does not contain %q", want)
	}
	if places := d.Places(); strings.Contains(places, "prometheus") || !strings.Contains(places, "jaeger") {
		t.Errorf("the services are announced as %s, though there is no Prometheus", places)
	}
	if body, err := fetch("http://" + metrics + "/metrics"); err != nil || !strings.Contains(string(body), "otelcol_process_uptime") {
		t.Errorf("the agent's metrics: %v\n%.300s", err, body)
	}
	if left, err := os.ReadDir(filepath.Join(d.Dir(), "volumes", "queue")); err != nil || len(left) == 0 {
		t.Errorf("the agent's queue is not in its volume: %v, %v", left, err)
	}
	eventually(t, "each of two messages to be processed by each of three workers", func() bool {
		processed := 0
		for _, trace := range d.Jaeger().Traces() {
			for _, span := range trace.Spans {
				if span.Kind == "consumer" {
					processed++
				}
			}
		}
		return processed == 6
	})
}

// Other services would dial a port that the collector never listens on. The error comes as soon as the collector is
// ready, not after a fixed time.
func TestACollectorThatDoesNotListenIsNamed(t *testing.T) {
	t.Parallel()
	files := []string{compose.File, overlay(t, `services:
  otel-collector: {command: ["--config=/etc/otel-collector-config.yaml", "--set=receivers.otlp.protocols.http.endpoint=0.0.0.0:4319"]}
`)}
	start := time.Now()
	d, err := runner.Start(t.Context(), runner.Options{Root: projectRoot(t), Binaries: filepath.Dir(binary(t, "local")), Files: files, FreePorts: true})
	if err == nil {
		t.Fatal("it started", d.Stop())
	}
	const want = "service otel-collector: it is ready but does not listen on port 4318, which another service uses"
	if took := time.Since(start); err.Error() != want || took > 9*time.Second {
		t.Errorf("after %v: got %v, want %s", took, err, want)
	}
}

// A collector sends to Zipkin's port but not to its API: the log line names what could not be sent.
func TestHopsNameWhatFailed(t *testing.T) {
	t.Parallel()
	d, _ := startDemo(t, `services:
  client: {environment: {REQUESTS: "1"}}
  otel-collector: {command: ["--config=/etc/otel-collector-config.yaml", "--set=exporters.zipkin.endpoint=http://zipkin:9411/nowhere",
    "--set=exporters.zipkin.retry_on_failure.enabled=false"]}
`)
	want := "spans: 8 sent by the programs, 8 accepted by otel-agent, 8 by otel-collector, 8 at jaeger, 0 at zipkin; " +
		"otel-collector's exporter zipkin failed to send 8"
	untilNil(t, func() error {
		if got := d.Hops().String(); got != want {
			return fmt.Errorf("got  %s\nwant %s", got, want)
		}
		return nil
	})
}

// An outage of the agent that is longer than the exporters retry by default, in the middle of the client's requests.
func TestNoTraceIsLostWhileTheAgentIsAway(t *testing.T) {
	if !*long {
		t.Skip("an outage takes time: run it with -long")
	}
	d, _ := startDemo(t, `services: {client: {environment: {REQUESTS: "150", WORK_DURATION: 50ms}}}`)
	eventually(t, "the first trace", func() bool { return len(d.Jaeger().Traces()) > 0 })
	if err := d.StopService("otel-agent"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(12 * time.Second) // the outage
	if err := d.StartService(t.Context(), "otel-agent"); err != nil {
		t.Fatal(err)
	}
	waitForTraces(t, d)
	want := strings.Replace(expected(t), "5 traces", "150 traces", 1)
	if err := spantest.Match(want, d.Jaeger().Traces()); err != nil {
		t.Error(err)
	}
}
