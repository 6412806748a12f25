package e2e

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jaegertracing/jaeger-idl/model/v1"
	"github.com/jaegertracing/jaeger-idl/proto-gen/api_v2"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"otel-demo/local/runner"
	"otel-demo/local/spans"
	"otel-demo/local/spans/spantest"
)

// The shipped demo in one run: what arrives, what else its collectors accept, what it shows, and what it leaves behind.
func TestDemo(t *testing.T) {
	running := goleak.IgnoreCurrent() // tests that run at the same time
	d, log := startDemo(t)
	waitForTraces(t, d)

	t.Run("traces at Jaeger", func(t *testing.T) {
		if err := spantest.Match(expected(t), d.Jaeger().Traces()); err != nil {
			t.Error(err)
		}
	})
	t.Run("traces at Zipkin", func(t *testing.T) {
		if err := spantest.MatchFold(expected(t), d.Zipkin().Traces()); err != nil {
			t.Error(err)
		}
	})
	t.Run("each hop has all spans", func(t *testing.T) {
		want := "spans: 36 sent by the programs, 36 accepted by otel-agent, 36 by otel-collector, 36 at jaeger, 36 at zipkin"
		if got := d.Hops().String(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		for _, name := range []string{"jaeger", "zipkin"} {
			url := "http://" + address(t, d, name, map[string]int{"jaeger": 16686, "zipkin": 9411}[name]) + "/hops"
			if table, err := fetch(url); err != nil || string(table) != d.Hops().Table() {
				t.Errorf("%s: %v\n%s", url, err, table)
			}
		}
	})
	t.Run("a span in Zipkin's format", func(t *testing.T) { sendZipkin(t, d) })
	t.Run("a span in Jaeger's format", func(t *testing.T) { sendJaeger(t, d) })
	t.Run("pages", func(t *testing.T) { look(t, d) })
	t.Run("one user's journey", func(t *testing.T) { followOneUser(t, d) })

	var pids []int
	for _, name := range []string{"client", "server", "worker", "otel-agent", "otel-collector"} {
		pids = append(pids, d.PIDs(name)...)
	}
	if len(pids) != 5 {
		t.Errorf("%d processes, want one per program and collector", len(pids))
	}
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	if got := d.Hops().String(); !strings.Contains(got, " accepted by otel-agent") || strings.Contains(got, ";") {
		t.Errorf("after everything has stopped: %s", got)
	}
	for _, pid := range pids {
		if isAlive(pid) {
			t.Errorf("process %d is still running", pid)
		}
	}
	for p, address := range d.Addresses() {
		if !isFree(address) {
			t.Errorf("port %d of %s is still taken", p.Number, p.Service)
		}
	}
	if _, err := os.Stat(d.Dir()); !os.IsNotExist(err) {
		t.Errorf("%s was not removed", d.Dir())
	}
	for line := range strings.Lines(log.String()) {
		if strings.HasPrefix(line, "otel-") && (strings.Contains(line, "\twarn\t") || strings.Contains(line, "\terror\t")) {
			t.Errorf("a collector warns: %s", line)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	goleak.VerifyNone(t, running)
}

// sendZipkin sends the agent a span as a service would that knows only Zipkin's format.
func sendZipkin(t *testing.T, d *runner.Demo) {
	const id = "463ac35c9f6413ad48485a3953bb6124"
	span := fmt.Sprintf(`[{"traceId":%q,"id":"a2fb4a1d1a96d312","kind":"SERVER","name":"old zipkin","timestamp":%d,
		"duration":1000,"localEndpoint":{"serviceName":"old"}}]`, id, time.Now().UnixMicro())
	response, err := http.Post("http://"+address(t, d, "otel-agent", 9411)+"/api/v2/spans", "application/json", strings.NewReader(span))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusAccepted {
		t.Fatalf("the agent responded %s", response.Status)
	}
	bothHave(t, d, id, "old zipkin")
}

// sendJaeger sends the agent a span as a service would that knows only Jaeger's format.
func sendJaeger(t *testing.T, d *runner.Demo) {
	const id = "0000000000000001000000000000002a"
	conn, err := grpc.NewClient(address(t, d, "otel-agent", 14250), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = api_v2.NewCollectorServiceClient(conn).PostSpans(t.Context(), &api_v2.PostSpansRequest{Batch: model.Batch{
		Process: &model.Process{ServiceName: "old"},
		Spans: []*model.Span{{
			TraceID: model.NewTraceID(1, 42), SpanID: model.NewSpanID(7), OperationName: "old jaeger",
			StartTime: time.Now(), Duration: time.Millisecond,
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	bothHave(t, d, id, "old jaeger")
}

func bothHave(t *testing.T, d *runner.Demo, id, name string) {
	t.Helper()
	for _, store := range d.Backends() {
		if span := arrived(t, store.Store, id).Spans[0]; span.Name != name || span.Service != "old" {
			t.Errorf("got the span %s of %s, want %s of old", span.Name, span.Service, name)
		}
	}
}

// followOneUser sends a request as another user. A search for the attribute, which only the worker's span has, finds
// that one trace, with the spans of server and worker; the other five are the first user's.
func followOneUser(t *testing.T, d *runner.Demo) {
	id, err := ask(address(t, d, "server", 8080), http.Header{"Baggage": {"username=alice"}})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the trace", func() bool { one := d.Jaeger().Trace(id); return one != nil && len(one.Spans) == 5 })
	if services := d.Jaeger().Trace(id).Services(); !slices.Equal(services, []string{"server", "worker"}) {
		t.Errorf("the trace has the services %v", services)
	}
	for user, want := range map[string]int{"alice": 1, "donuts": 5, "nobody": 0} {
		page, err := fetch("http://" + address(t, d, "jaeger", 16686) + "/?attribute=user.name%3D" + user)
		if got := strings.Count(string(page), `href="/trace/`); err != nil || got != want || strings.Contains(string(page), id) != (user == "alice") {
			t.Errorf("%s has %d traces, %v, want %d", user, got, err, want)
		}
	}
}

// look requests the pages of both backends, and the server's health.
func look(t *testing.T, d *runner.Demo) {
	var id string
	for _, trace := range d.Jaeger().Traces() {
		if len(trace.Spans) == 7 {
			id = trace.ID
		}
	}
	if _, err := hex.DecodeString(id); err != nil || id == "" {
		t.Fatal("no trace of 7 spans to request")
	}
	jaeger, zipkin := "http://"+address(t, d, "jaeger", 16686), "http://"+address(t, d, "zipkin", 9411)
	for _, test := range []struct{ url, want string }{
		{"http://" + address(t, d, "server", 8080) + "/healthz", ""},
		{jaeger + "/", id},
		{jaeger + "/trace/" + id, "process work"},
		{zipkin + "/", id},
		{zipkin + "/zipkin/traces/" + id, "process work"},
	} {
		response, err := http.Get(test.url)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK || !bytes.Contains(body, []byte(test.want)) {
			t.Errorf("GET %s: %s, %v; want 200 and %q in\n%.500s", test.url, response.Status, err, test.want, body)
		}
	}
}

func address(t *testing.T, d *runner.Demo, service string, port int) string {
	t.Helper()
	address, err := d.Addr(service, port)
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// Each service can be stopped and started again, on the same ports.
func TestServicesComeAndGo(t *testing.T) {
	t.Parallel()
	d, _ := startDemo(t, `services: {client: {scale: 0}}`)
	if err := d.Restart(t.Context(), "otel-agent"); err != nil {
		t.Fatal(err)
	}
	if err := d.Kill("otel-collector"); err != nil {
		t.Fatal(err)
	}
	if err := d.StartService(t.Context(), "otel-collector"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"jaeger", "zipkin", "redis"} {
		if err := d.Restart(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	// A running service is not started again: the first instance would be lost.
	for _, name := range []string{"worker", "zipkin"} {
		pids := d.PIDs(name)
		if err := d.StartService(t.Context(), name); err == nil || !strings.Contains(err.Error(), "already running") || !slices.Equal(pids, d.PIDs(name)) {
			t.Errorf("%s was started again: %v", name, err)
		}
	}
	eventually(t, "the server to be healthy", func() bool {
		response, err := http.Get("http://" + address(t, d, "server", 8080) + "/hello")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	for _, store := range d.Backends() {
		eventually(t, "a whole trace", func() bool {
			missing := spans.Missing(store.Traces())
			for _, trace := range store.Traces() {
				if len(trace.Spans) == 5 && missing[trace.ID] == "" {
					return true
				}
			}
			return false
		})
	}
	select {
	case err := <-d.Failed():
		t.Errorf("this was not a failure: %v", err)
	default:
	}
	if err := d.Signal("worker", os.Kill); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-d.Failed():
		if !strings.HasPrefix(err.Error(), "worker exited") {
			t.Errorf("got %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the worker's exit was not reported")
	}
}
