package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"otel-demo/local/compose"
	"otel-demo/local/load"
	"otel-demo/local/runner"
	"otel-demo/local/spans"
)

// missingPage is the page whose causes are tested here, each by the test that it names.
const missingPage = "docs/missing-spans.md"

// notHere is the name of a cause that can't be made here.
const notHere = "not-reproduced"

// faults cause what the page names, and check that you see what it quotes.
var faults = map[string]func(m *missing){
	"wrong-host": func(m *missing) {
		m.cannotExport("http://otel-agent.invalid:4317", "http://otel-agent.invalid:4318")
	},
	"wrong-port": func(m *missing) { m.cannotExport("http://"+freeAddress(m.T), "http://"+freeAddress(m.T)) },
	"grpc-to-http": func(m *missing) {
		m.cannotExport("http://"+address(m.T, m.demo, "otel-agent", 4318), "")
	},
	"http-to-grpc": func(m *missing) {
		m.cannotExport("", "http://"+address(m.T, m.demo, "otel-agent", 4317))
	},
	"https-to-plaintext": func(m *missing) {
		m.cannotExport("https://"+address(m.T, m.demo, "otel-agent", 4317), "https://"+address(m.T, m.demo, "otel-agent", 4318))
	},
	"plaintext-to-https": func(m *missing) {
		cert, key := certificate(m.T)
		agent := `services: {otel-agent: {command: ["--config=/etc/otel-agent-config.yaml"`
		for _, protocol := range []string{"grpc", "http"} {
			tls := "--set=receivers.otlp.protocols." + protocol + ".tls."
			agent += fmt.Sprintf(`, "%scert_file=%s", "%skey_file=%s"`, tls, cert, tls, key)
		}
		d, _ := startServices(m.T, agent+"]}}")
		m.cannotExport("http://"+address(m.T, d, "otel-agent", 4317), "http://"+address(m.T, d, "otel-agent", 4318))
	},
	"no-scheme": func(m *missing) {
		_, port := compose.HostAndPort(address(m.T, m.demo, "otel-agent", 4318))
		m.cannotExport("", "localhost:"+port)
	},
	"path-twice": func(m *missing) {
		m.cannotExport("", "http://"+address(m.T, m.demo, "otel-agent", 4318)+"/v1/traces")
	},
	"only-localhost": func(m *missing) {
		if runtime.GOOS != "linux" {
			m.Skip("only Linux has 127.0.0.2, which stands for another container")
		}
		_, port := compose.HostAndPort(address(m.T, m.demo, "otel-agent", 4317))
		client := m.run("client", "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.2:"+port)
		m.sees(func() string { return client.output() + m.log.String() })
	},
	"unknown-service": func(m *missing) {
		m.run("client", m.edited())
		m.sees(func() string { return m.demo.Hops().Table() })
	},
	"sdk-disabled": func(m *missing) { m.logsNothing("OTEL_SDK_DISABLED=true") },
	"no-provider":  func(m *missing) { m.logsNothing(m.edited()) },

	"sampler": func(m *missing) {
		wire := m.wire()
		client := m.run("client", "OTEL_TRACES_SAMPLER=always_off")
		m.sees(func() string { return wire(client.trace()) })
		m.isNowhere(client.trace())
	},
	"unsampled-caller": func(m *missing) {
		wire := m.wire()
		id := load.RandomHex(16)
		m.request(address(m.T, m.demo, "server", 8080), strings.TrimSuffix(load.Traceparent(id), "1")+"0")
		m.sees(func() string { return wire(id) })
		m.isNowhere(id)
	},
	"not-in-pipeline": func(m *missing) {
		d, _ := startDemo(m.T, `services:
  client: {environment: {REQUESTS: "1"}}
  otel-collector: {command: ["--config=/etc/otel-collector-config.yaml", "--set=service.pipelines.traces.exporters=[debug]"]}`)
		if _, err := d.Wait(m.Context(), "client"); err != nil {
			m.Fatal(err)
		}
		stop(m.T, d)
		m.sees(func() string { return d.Hops().String() })
	},
	"never-ended": func(m *missing) {
		m.breaksInto(m.run("client", m.edited()).trace(), nil)
	},
	"client-killed": func(m *missing) {
		client := m.start("client", "OTEL_BSP_SCHEDULE_DELAY=60000", "REQUESTS=1000")
		eventually(m.T, "a response", func() bool { return strings.Contains(client.output(), "\n200 ") })
		if err := client.Process.Kill(); err != nil {
			m.Fatal(err)
		}
		m.control()
		m.quotes = []string{"? > GET /hello > handle request > publish work > process work"}
		m.breaksInto(client.trace(), nil)
	},
	"server-killed": func(m *missing) {
		d, log := startServices(m.T, `services: {server: {environment: {OTEL_BSP_SCHEDULE_DELAY: "60000"}}}`)
		id := m.request(address(m.T, d, "server", 8080))
		eventually(m.T, "the message to be processed", func() bool { return strings.Contains(log.String(), "msg=processed") })
		end := kill(m.T, d, "server")
		m.sees(func() string { return fmt.Sprint(end, "\n", paths(d.Jaeger().Trace(id))) })
	},
	// It has processed one message, and has just got another.
	"worker-killed": func(m *missing) {
		d, log := startServices(m.T, `services: {worker: {environment: {OTEL_BSP_SCHEDULE_DELAY: "60000", WORK_DURATION: 2s}}}`)
		ids := []string{m.request(address(m.T, d, "server", 8080))}
		eventually(m.T, "the message to be processed", func() bool { return strings.Contains(log.String(), "msg=processed") })
		ids = append(ids, m.request(address(m.T, d, "server", 8080)))
		kill(m.T, d, "worker")
		stop(m.T, d)
		for _, id := range ids {
			if got := fmt.Sprint(paths(d.Jaeger().Trace(id))); got != "[GET /hello > handle request > publish work]" {
				m.Errorf("got the paths %s", got)
			}
		}
	},
	"server-down": func(m *missing) {
		server := m.server()
		client := m.start("client", "REQUESTS=1000", "SERVER_URL=http://"+server.address+"/hello")
		eventually(m.T, "a response", func() bool { return strings.Contains(client.output(), "\n200 ") })
		if err := server.Process.Kill(); err != nil {
			m.Fatal(err)
		}
		var failed [][]string // the first one may have reached the worker
		eventually(m.T, "two requests without a response", func() bool {
			failed = regexp.MustCompile(`(?m)^0 ([0-9a-f]{32}) `).FindAllStringSubmatch(client.output(), -1)
			return len(failed) > 1
		})
		t := arrived(m.T, m.demo.Jaeger(), failed[1][1])
		for _, span := range t.Spans {
			if !span.Failed() || span.Service != "client" {
				m.Errorf("%s of %s isn't marked as failed", span.Name, span.Service)
			}
		}
	},
	"no-shutdown": func(m *missing) {
		// No batch is sent while it runs, however slow the machine is.
		m.breaksInto(m.run("client", m.edited(), "OTEL_BSP_SCHEDULE_DELAY=60000").trace(), nil)
	},

	"queue-full": func(m *missing) {
		server := m.server("OTEL_EXPORTER_OTLP_ENDPOINT=http://"+freeAddress(m.T), "OTEL_BSP_MAX_QUEUE_SIZE=10")
		for range 10 {
			m.request(server.address)
		}
		m.sees(server.output)
	},
	"too-large": func(m *missing) {
		d, log := startDemo(m.T, `services:
  client: {environment: {REQUESTS: "1"}}
  otel-collector: {command: ["--config=/etc/otel-collector-config.yaml",
    "--set=receivers.otlp.protocols.http.max_request_body_size=100"]}`)
		m.sees(func() string { return log.String() + d.Hops().String() })
	},
	"agent-killed":      func(m *missing) { m.holdsAndDies("otel-agent", "otel-collector", true) },
	"agent-stopped":     func(m *missing) { m.holdsAndDies("otel-agent", "otel-collector", false) },
	"collector-killed":  func(m *missing) { m.holdsAndDies("otel-collector", "zipkin", true) },
	"collector-stopped": func(m *missing) { m.holdsAndDies("otel-collector", "zipkin", false) },
	"backend-down": func(m *missing) {
		d, log := startServices(m.T, `services: {otel-collector: {command: ["--config=/etc/otel-collector-config.yaml",
    "--set=exporters.zipkin.retry_on_failure.max_interval=1s", "--set=exporters.zipkin.retry_on_failure.max_elapsed_time=1s"]}}`)
		stopService(m.T, d, "zipkin")
		m.request(address(m.T, d, "server", 8080))
		m.sees(func() string { return log.String() + d.Hops().String() })
	},
	"evicted": func(m *missing) {
		d, _ := startServices(m.T)
		id := m.request(address(m.T, d, "server", 8080))
		arrived(m.T, d.Zipkin(), id)
		zipkin := "http://" + address(m.T, d, "zipkin", 9411)
		var others []map[string]any
		for range spans.KeptTraces {
			others = append(others, map[string]any{"traceId": load.RandomHex(16), "id": load.RandomHex(8), "timestamp": time.Now().UnixMicro()})
		}
		post(m.T, zipkin, others)
		limits, err := os.ReadFile(filepath.Join(projectRoot(m.T), compose.File))
		if err != nil {
			m.Fatal(err)
		}
		m.sees(func() string { return fmt.Sprint(getURL(zipkin+"/zipkin/traces/"+id).status, string(limits)) })
	},
	"other-rate": func(m *missing) {
		wire := m.wire()
		server := m.server("OTEL_TRACES_SAMPLER=traceidratio", "OTEL_TRACES_SAMPLER_ARG=0")
		client := m.run("client", "SERVER_URL=http://"+server.address+"/hello")
		m.control()
		m.breaksInto(client.trace(), wire)
	},
	// Whether a trace is in the half that the worker's sampler keeps depends on the second half of its id.
	"worker-rate": func(m *missing) {
		m.demo, _ = startServices(m.T, `services: {worker: {environment: {OTEL_TRACES_SAMPLER: traceidratio, OTEL_TRACES_SAMPLER_ARG: "0.5"}}}`)
		wire := m.wire()
		dropped, kept := load.RandomHex(8)+"f"+load.RandomHex(8)[1:], load.RandomHex(8)+"0"+load.RandomHex(8)[1:]
		for _, id := range []string{dropped, kept} {
			m.request(address(m.T, m.demo, "server", 8080), load.Traceparent(id))
		}
		untilNil(m.T, func() error {
			if got := fmt.Sprint(paths(m.demo.Jaeger().Trace(kept))); got != "[? > GET /hello > handle request > publish work > process work]" {
				return fmt.Errorf("the trace that the worker samples is %s", got)
			}
			return nil
		})
		m.breaksInto(dropped, wire)
	},
	// The work takes a second, and the request's context is canceled at once.
	"request-ctx": func(m *missing) {
		wire := m.wire()
		server := m.server(m.edited(), "WORK_DURATION=1s")
		client := m.run("client", "SERVER_URL=http://"+server.address+"/hello")
		m.control()
		m.breaksInto(client.trace(), nil)
		if message := wire(client.trace()); message != "" {
			m.Errorf("a message came: %s", message)
		}
		for _, span := range m.demo.Jaeger().Trace(client.trace()).Spans {
			if took := span.End.Sub(span.Start); span.Failed() || span.Name == "handle request" && took > 100*time.Millisecond {
				m.Errorf("%s took %v, failed: %v", span.Name, took, span.Failed())
			}
		}
	},
	"canceled-shutdown": func(m *missing) { m.brokenWorker("OTEL_BSP_SCHEDULE_DELAY=60000") },
	"log-fatal":         func(m *missing) { m.brokenWorker() },
	"no-drain":          func(m *missing) { m.brokenWorker("WORK_DURATION=10s") },

	"other-backend": func(m *missing) {
		client := m.run("client", "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+address(m.T, m.demo, "jaeger", 4317))
		m.sees(func() string {
			return fmt.Sprintf("at Jaeger: %s\nat Zipkin: %s", paths(m.demo.Jaeger().Trace(client.trace())), paths(m.demo.Zipkin().Trace(client.trace())))
		})
	},
	"unfinished": func(m *missing) {
		d, _ := startServices(m.T, `services: {worker: {environment: {WORK_DURATION: 3s}}}`)
		id := m.request(address(m.T, d, "server", 8080))
		for _, quote := range m.quotes { // one after the other
			untilNil(m.T, func() error {
				if got := paths(d.Jaeger().Trace(id)); !slices.Equal(got, []string{quote}) {
					return fmt.Errorf("got %s, want %s", got, quote)
				}
				return nil
			})
		}
	},

	"no-propagator": func(m *missing) { m.brokenServer(m.edited()) },
	"consumer-reads-nothing": func(m *missing) {
		m.demo, _ = startServices(m.T, `services: {worker: {environment: {OTEL_PROPAGATORS: none, OTEL_RESOURCE_ATTRIBUTES: row=`+m.name+`}}}`)
		wire := m.wire()
		m.breaksInto(m.request(address(m.T, m.demo, "server", 8080)), wire)
	},
	"other-propagator": func(m *missing) { m.brokenServer("OTEL_PROPAGATORS=b3") },
	"proxy": func(m *missing) {
		server := m.server()
		proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: server.address})
			r.Out.Header.Del("Traceparent")
		}})
		m.Cleanup(proxy.Close)
		m.breaksInto(m.run("client", "SERVER_URL="+proxy.URL+"/hello").trace(), nil)
	},
	"no-handler":     func(m *missing) { m.brokenServer(m.edited()) },
	"no-transport":   func(m *missing) { m.brokenClient() },
	"no-request-ctx": func(m *missing) { m.brokenClient() },
	"background":     func(m *missing) { m.brokenServer(m.edited()) },
	"wrong-ctx": func(m *missing) {
		m.brokenServer(m.edited())
		const says = `the consumer of server "publish work" is there, but under server "handle request"`
		if all := spans.Missing(m.demo.Jaeger().Traces()); !slices.Contains(slices.Collect(maps.Values(all)), says) {
			m.Errorf("no trace is incomplete because %s: %v", says, all)
		}
	},
	"no-headers": func(m *missing) {
		m.publish(`{"id":"no-headers","body":"hello"}`)
		m.breaksInto("", nil)
	},
	"header-case": func(m *missing) {
		wire := m.wire()
		m.publish(`{"id":"header-case","headers":{"Traceparent":"` + load.Traceparent(load.RandomHex(16)) + `"},"body":"hello"}`)
		m.breaksInto("", wire)
	},
	"no-baggage": func(m *missing) {
		wire := m.wire()
		client := m.run("client", "OTEL_PROPAGATORS=tracecontext")
		m.sees(func() string {
			seen := wire(client.trace())
			if t := m.demo.Jaeger().Trace(client.trace()); t != nil && slices.ContainsFunc(t.Spans, func(s *spans.Span) bool {
				return s.Name == "process work" && slices.Contains(s.Attributes, spans.Attribute{Key: "user.name"})
			}) {
				seen += "user.name="
			}
			return seen
		})
	},
	"clock": func(m *missing) {
		id := m.request(address(m.T, m.demo, "server", 8080))
		allArrive(m.T, m.demo, []string{id}, 30*time.Second)
		parent := m.demo.Jaeger().Trace(id).Spans[0]
		post(m.T, "http://"+address(m.T, m.demo, "otel-agent", 9411), []map[string]any{{"traceId": id, "id": load.RandomHex(8), "parentId": parent.ID,
			"name": "an hour behind", "timestamp": parent.Start.Add(-time.Hour).UnixMicro(), "duration": 1000}})
		page := "http://" + address(m.T, m.demo, "jaeger", 16686) + "/trace/" + id
		m.sees(func() string { return getURL(page).body })
	},
}

// Each cause on the page is caused here, and what the page quotes is seen: a log line, a number, or the pieces into which
// a trace breaks.
func TestMissingSpans(t *testing.T) {
	t.Parallel()
	rows := missingRows(t)
	for name := range faults {
		if _, ok := rows[name]; !ok {
			t.Errorf("%s: %s doesn't name it", name, missingPage)
		}
	}
	d, log := startServices(t)
	dir := t.TempDir()
	build := sync.OnceValues(func() (string, error) {
		return dir, buildEdited(t.Context(), projectRoot(t), dir, edits, "./cmd/...")
	})
	for name, quotes := range rows {
		if name == notHere {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fault := faults[name]
			if fault == nil {
				t.Fatalf("%s names it, but there is no such test", missingPage)
			}
			m := &missing{T: t, name: name, quotes: quotes, demo: d, log: log, build: build}
			fault(m)
			t.Logf("%s: seen: %s", name, strings.Join(quotes, " | "))
		})
	}
}

var (
	named = regexp.MustCompile(`[^*]\*([a-z-]+(?:, [a-z-]+)*)\*(?:[^*]|$)`)
	code  = regexp.MustCompile("`([^`]+)`")
)

// missingRows returns the tests that the page names, each with what the page quotes: in the bold part of an item of a
// list, or in the first two cells of a row whose last cell is the test. The table of what dies quotes nothing.
func missingRows(t *testing.T) map[string][]string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(projectRoot(t), filepath.FromSlash(missingPage)))
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{}
	for line := range strings.Lines(strings.ReplaceAll(string(page), "\n  ", " ")) { // a line of an item continues the one before
		see, isItem := strings.CutPrefix(line, "- **")
		if cells := strings.Split(line, " | "); isItem {
			see, _, _ = strings.Cut(see, "**")
		} else if see = ""; len(cells) == 4 && strings.HasPrefix(cells[3], "*") {
			see = cells[0] + cells[1]
		}
		var quotes []string
		for _, quote := range code.FindAllStringSubmatch(see, -1) {
			quotes = append(quotes, quote[1])
		}
		for _, names := range named.FindAllStringSubmatch(line, -1) {
			if see != "" && quotes == nil && names[1] != notHere {
				t.Errorf("%s: %s quotes nothing", missingPage, names[1])
			}
			for name := range strings.SplitSeq(names[1], ", ") {
				rows[name] = append(rows[name], quotes...)
			}
		}
	}
	return rows
}

// missing is one row's test. Rows that need no fault of the agent, the collector or the backends share a demo, and run
// their own programs beside it.
type missing struct {
	*testing.T
	name   string
	quotes []string
	demo   *runner.Demo
	log    *safeBuffer
	build  func() (dir string, err error)
}

// quoted returns a pattern for a quote of the page, in which … stands for anything.
func quoted(quote string) *regexp.Regexp {
	return regexp.MustCompile(strings.ReplaceAll(regexp.QuoteMeta(quote), "…", ".*"))
}

// sees waits until a text contains all that the row quotes.
func (m *missing) sees(text func() string) {
	m.Helper()
	for _, quote := range m.quotes {
		seen := ""
		for end := time.Now().Add(40 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			if seen = text(); quoted(quote).MatchString(seen) {
				break
			}
			if time.Now().After(end) {
				m.Fatalf("waited 40 s for %s in\n%.5000s", quote, seen)
			}
		}
	}
}

var isPath = regexp.MustCompile(`^(\? > )?(make request|HTTP GET|GET /hello|handle request|publish work|process work)( > |$)`)

// breaksInto waits until the trace with that id, with what belongs to this test, has exactly the paths that the page
// quotes. The other quotes are from the message, identified by the trace's id or its own, or from a log.
func (m *missing) breaksInto(id string, wire func(texts ...string) string) {
	m.Helper()
	var want, message []string
	for _, quote := range m.quotes {
		if isPath.MatchString(quote) {
			want = append(want, quote)
		} else {
			message = append(message, quote)
		}
	}
	slices.Sort(want)
	untilNil(m.T, func() error {
		if got := paths(m.pieces(id)...); !slices.Equal(got, want) {
			return fmt.Errorf("got the paths\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		return nil
	})
	ids := []string{id}
	for _, t := range m.pieces(id) {
		for _, s := range t.Spans {
			ids = append(ids, s.Attribute("messaging.message.id"))
		}
	}
	m.quotes = message
	m.sees(func() string { return wire(ids...) })
}

// pieces returns the trace with that id, those with a span of a program that this test runs, and those in which one of
// their messages, or one whose id is the test's name, is processed.
func (m *missing) pieces(id string) (pieces []*spans.Trace) {
	messages := map[string]bool{m.name: true}
	for _, producing := range []bool{true, false} {
		for _, t := range m.demo.Jaeger().Traces() {
			mine := t.ID == id
			for _, s := range t.Spans {
				of := slices.Contains(s.Resource, spans.Attribute{Key: "row", Value: m.name})
				message := s.Attribute("messaging.message.id")
				mine = mine || of || messages[message]
				if of && message != "" {
					messages[message] = true
				}
			}
			if mine && !producing {
				pieces = append(pieces, t)
			}
		}
	}
	return pieces
}

// paths returns the paths from each root down to each leaf, by name. A span whose parent is missing has ? above it. The
// client's other traces, and Redis's own command, are left out.
func paths(traces ...*spans.Trace) (all []string) {
	var walk func(above string, n *spans.Node)
	walk = func(above string, n *spans.Node) {
		path, leaf := above+n.Name, true
		for _, child := range n.Children {
			if child.Name != "publish" {
				walk(path+" > ", child)
				leaf = false
			}
		}
		if leaf {
			all = append(all, path)
		}
	}
	for _, t := range traces {
		if t == nil {
			continue
		}
		for _, root := range t.Tree() {
			switch {
			case root.Name == "example error":
			case root.ParentID != "":
				walk("? > ", root)
			default:
				walk("", root)
			}
		}
	}
	slices.Sort(all)
	return all
}

// wire listens to the messages, and returns a function that returns those that contain one of the texts.
func (m *missing) wire() func(texts ...string) string {
	client := goredis.NewClient(&goredis.Options{Addr: address(m.T, m.demo, "redis", 6379)})
	subscription := client.Subscribe(m.Context(), "work")
	if _, err := subscription.Receive(m.Context()); err != nil {
		m.Fatal(err)
	}
	messages := &safeBuffer{}
	go func() {
		for message := range subscription.Channel() {
			fmt.Fprintln(messages, message.Payload)
		}
	}()
	m.Cleanup(func() { subscription.Close(); client.Close() })
	return func(texts ...string) (found string) {
		for line := range strings.Lines(messages.String()) {
			if slices.ContainsFunc(texts, func(text string) bool { return text != "" && strings.Contains(line, text) }) {
				found += line
			}
		}
		return found
	}
}

func (m *missing) publish(payload string) {
	m.Helper()
	client := goredis.NewClient(&goredis.Options{Addr: address(m.T, m.demo, "redis", 6379)})
	defer client.Close()
	if heard, err := client.Publish(m.Context(), "work", payload).Result(); heard == 0 || err != nil {
		m.Fatalf("%d subscribers, %v", heard, err)
	}
}

// request sends a request as curl would, optionally with a traceparent, and returns the trace's id.
func (m *missing) request(server string, traceparent ...string) string {
	m.Helper()
	request, err := http.NewRequestWithContext(m.Context(), http.MethodGet, "http://"+server+"/hello", nil)
	if err != nil {
		m.Fatal(err)
	}
	request.Header["Traceparent"] = traceparent
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		m.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != http.StatusOK {
		m.Fatalf("the server responds %s, %v", response.Status, err)
	}
	return response.Header.Get("Trace-Id")
}

// control sends a request without a fault, and waits for its spans. Anything sent before has arrived by then.
func (m *missing) control() {
	m.Helper()
	allArrive(m.T, m.demo, []string{m.request(address(m.T, m.demo, "server", 8080))}, 40*time.Second)
}

func (m *missing) isNowhere(id string) {
	m.Helper()
	m.control()
	for _, backend := range m.demo.Backends() {
		if backend.Trace(id) != nil {
			m.Errorf("%s has the trace", backend.Service)
		}
	}
}

// holdsAndDies lets a collector end while it holds the spans of one request, because the next hop is down. They don't
// arrive once everything runs again.
func (m *missing) holdsAndDies(collector, next string, killed bool) {
	m.Helper()
	d, log := startServices(m.T)
	stopService(m.T, d, next)
	id := m.request(address(m.T, d, "server", 8080))
	eventually(m.T, "the collector to accept 5 spans", func() bool {
		return regexp.MustCompile(" 5 (accepted )?by "+collector).MatchString(d.Hops().String()) && (next != "zipkin" || d.Jaeger().Spans() == 5)
	})
	if killed {
		kill(m.T, d, collector)
	} else {
		stopService(m.T, d, collector)
	}
	m.sees(log.String)
	startService(m.T, d, next)
	startService(m.T, d, collector)
	m.demo = d
	m.control()
	for _, backend := range d.Backends() {
		if lost := next == "otel-collector" || next == backend.Service; lost != (backend.Trace(id) == nil) {
			m.Errorf("at %s: %v", backend.Service, paths(backend.Trace(id)))
		}
	}
}

// kill kills a service, and returns how the demo reports it.
func kill(t *testing.T, d *runner.Demo, name string) error {
	t.Helper()
	if err := d.Signal(name, os.Kill); err != nil {
		t.Fatal(err)
	}
	return <-d.Failed()
}

// stop stops the demo, so that everything that will arrive has arrived.
func stop(t *testing.T, d *runner.Demo) {
	t.Helper()
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
}

// cannotExport runs clients that export over gRPC and over HTTP until they have logged all that the page quotes: what
// the network says first can differ.
func (m *missing) cannotExport(overGRPC, overHTTP string) {
	m.Helper()
	var said string
	m.sees(func() string {
		for protocol, endpoint := range map[string]string{"grpc": overGRPC, "http/protobuf": overHTTP} {
			if endpoint != "" {
				said += m.run("client", m.edited(), "OTEL_EXPORTER_OTLP_PROTOCOL="+protocol, "OTEL_EXPORTER_OTLP_ENDPOINT="+endpoint).output()
			}
		}
		return said
	})
}

// logsNothing runs a client that prints the id that the page quotes, and has nothing to complain about.
func (m *missing) logsNothing(env string) {
	m.Helper()
	client := m.run("client", env)
	m.sees(client.output)
	if strings.Contains(client.output(), "level=WARN") {
		m.Errorf("it logs\n%s", client.output())
	}
}

// brokenClient sends a request to a server, which continues its trace or doesn't.
func (m *missing) brokenClient() {
	m.Helper()
	m.breaksInto(m.run("client", m.edited(), "SERVER_URL=http://"+m.server().address+"/hello").trace(), nil)
}

// brokenWorker lets an edited worker, the only one, end by itself or by SIGTERM once it has a message.
func (m *missing) brokenWorker(env ...string) {
	m.Helper()
	if runtime.GOOS == "windows" {
		m.Skip("no signals on Windows")
	}
	m.demo, _ = startDemo(m.T, noClient, `services: {worker: {scale: 0}}`)
	worker := m.start("worker", append(env, m.edited())...)
	isWell(m.T, m.demo)
	client := m.run("client")
	if m.name == "canceled-shutdown" {
		eventually(m.T, "the message to be processed", func() bool { return strings.Contains(worker.output(), "msg=processed") })
	}
	if m.name != "log-fatal" {
		if err := worker.Process.Signal(syscall.SIGTERM); err != nil {
			m.Fatal(err)
		}
	}
	_ = worker.Wait() // its status is checked below
	stop(m.T, m.demo)
	m.breaksInto(client.trace(), func(...string) string { return worker.output() + worker.ProcessState.String() })
}

// brokenServer runs a server with this environment, and a client that sends it requests.
func (m *missing) brokenServer(env ...string) {
	m.Helper()
	wire := m.wire()
	server := m.server(env...)
	m.breaksInto(m.run("client", "SERVER_URL=http://"+server.address+"/hello").trace(), wire)
}

// program is one of the programs, or an edited copy of one, beside the demo.
type program struct {
	*exec.Cmd
	m       *missing
	out     safeBuffer
	address string // of a server
}

func (p *program) output() string { return p.out.String() }

// trace returns the id of the trace that the client prints.
func (p *program) trace() string {
	p.m.Helper()
	line := regexp.MustCompile(`(?m)^200 ([0-9a-f]{32}) `).FindStringSubmatch(p.output())
	if line == nil {
		p.m.Fatalf("the client prints no trace:\n%s", p.output())
	}
	return line[1]
}

// start starts a program with the environment of the shared demo, in which later variables win.
func (m *missing) start(name string, env ...string) *program {
	m.Helper()
	path := binary(m.T, name)
	if slices.Contains(env, m.edited()) {
		dir, err := m.build()
		if err != nil {
			m.Fatal(err)
		}
		path = filepath.Join(dir, filepath.Base(path))
	}
	p := &program{Cmd: exec.Command(path), m: m}
	p.Stdout, p.Stderr = &p.out, &p.out
	p.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "SystemRoot=" + os.Getenv("SystemRoot"), "REQUESTS=1", "WORK_DURATION=1ms",
		"SERVER_URL=http://" + address(m.T, m.demo, "server", 8080) + "/hello",
		"REDIS_URL=redis://" + address(m.T, m.demo, "redis", 6379) + "/0",
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + address(m.T, m.demo, "otel-agent", 4317),
		"OTEL_RESOURCE_ATTRIBUTES=row=" + m.name}, env...)
	if err := p.Start(); err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() {
		_ = p.Process.Kill() // it may have exited
		_ = p.Wait()         // likewise
	})
	return p
}

// run runs a program until its end.
func (m *missing) run(name string, env ...string) *program {
	m.Helper()
	p := m.start(name, env...)
	if err := p.Wait(); err != nil {
		m.Fatalf("%v\n%s", err, p.output())
	}
	return p
}

// server starts a server, which publishes to the shared demo's worker, and waits until it is healthy.
func (m *missing) server(env ...string) *program {
	m.Helper()
	listen := freeAddress(m.T)
	p := m.start("server", append(env, "LISTEN_ADDR="+listen)...)
	p.address = listen
	eventually(m.T, "the server to be healthy", func() bool { return getURL("http://"+listen+"/healthz").status == http.StatusOK })
	return p
}

// edited is the variable that makes an edited copy of a program cause the row's fault.
func (m *missing) edited() string { return "ROW=" + m.name }

// edits are the faults in code. One build of the programs has all of them, each for the row that it names.
var edits = []edit{
	{"pkg/row.go", "", `package pkg
		import ("os"; "go.opentelemetry.io/otel/attribute")
		func Row(name string) bool { return os.Getenv("ROW") == name }
		func serviceKey() attribute.Key { if Row("unknown-service") { return "service" }; return "service.name" }`},
	{"pkg/program.go", "`https?://[^/]+.*`", "`.*`"},                 // the demo's programs refuse an endpoint without a scheme
	{"pkg/batcher.go", "likely.Replace(err.Error())", "err.Error()"}, // as the SDK's exporters say it
	{"cmd/client/client.go", "defer span.End()\n\n\t// Baggage", `if !pkg.Row("never-ended") { defer span.End() }` + "\n// Baggage"},
	{"cmd/client/client.go", "return &http.Client{", `if pkg.Row("no-transport") { return http.DefaultClient }` + "\nreturn &http.Client{"},
	{"cmd/client/client.go", "request, err :=", `if pkg.Row("no-request-ctx") { ctx = context.Background() }` + "\nrequest, err :="},
	{"cmd/client/client.go", "\tdefer shutdown()", `if !pkg.Row("no-shutdown") { defer shutdown() }`},
	{"pkg/tracer.go", "otel.SetTextMapPropagator(autoprop", `if !Row("no-propagator") { otel.SetTextMapPropagator(autoprop`},
	{"pkg/tracer.go", "autoprop.NewTextMapPropagator())", "autoprop.NewTextMapPropagator()) }"},
	{"cmd/server/server.go", "s := &server{broker, work}\n", `s := &server{broker, work}
		if pkg.Row("no-handler") {
			mux := http.NewServeMux()
			mux.HandleFunc("GET /hello", s.hello)
			mux.HandleFunc("GET /healthz", s.healthz)
			return mux
		}
`},
	{"cmd/server/server.go", "if err := s.handle(ctx, body);", `handle := s.handle
		if pkg.Row("request-ctx") {
			handle = func(ctx context.Context, body string) error { go s.handle(ctx, body); return nil }
		}
		if err := handle(ctx, body);`},
	{"cmd/worker/worker.go", `"log/slog"`, `"log"; "log/slog"`},
	{"cmd/worker/worker.go", "username := ", `if pkg.Row("log-fatal") { log.Fatal("no flour") }` + "\nusername := "},
	{"cmd/worker/worker.go", "return broker.Receive(", `if pkg.Row("no-drain") { go broker.Receive(ctx, handle); <-ctx.Done(); return nil }
		return broker.Receive(`},
	{"pkg/tracer.go", "otel.SetTracerProvider(provider)", `if !Row("no-provider") { otel.SetTracerProvider(provider) }`},
	{"pkg/tracer.go", "semconv.ServiceName(name)", "serviceKey().String(name)"},
	{"pkg/tracer.go", "context.WithTimeout(context.Background(), 4*time.Second)",
		"context.WithTimeout(context.Background(), 4*time.Second)\n" + `if Row("canceled-shutdown") { cancel() }`},
	{"cmd/server/server.go", "ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx)",
		`if pkg.Row("background") { ctx = context.Background() }` + "\nctx, cancel := context.WithTimeout(context.WithoutCancel(ctx)"},
	{"pkg/broker.go", `ctx, span := tracer.Start(ctx, "publish "`, "before := ctx\n" + `ctx, span := tracer.Start(ctx, "publish "`},
	{"pkg/broker.go", "otel.GetTextMapPropagator().Inject(ctx", `if !Row("wrong-ctx") { before = ctx }` +
		"\notel.GetTextMapPropagator().Inject(before"},
}

// edit replaces a text, which must occur once, in a copy of a file.
type edit struct{ file, old, new string }

// buildEdited builds packages of the root module with edits into a folder.
func buildEdited(ctx context.Context, root, dir string, edits []edit, packages ...string) error {
	files, replace := map[string]string{}, map[string]string{}
	for i, edit := range edits {
		original := filepath.Join(root, filepath.FromSlash(edit.file))
		text, ok := files[original]
		if !ok && edit.old != "" {
			content, err := os.ReadFile(original)
			if err != nil {
				return err
			}
			text = string(content)
		}
		if strings.Count(text, edit.old) != 1 {
			return fmt.Errorf("%s: want one %q", edit.file, edit.old)
		}
		files[original] = strings.Replace(text, edit.old, edit.new, 1)
		replace[original] = filepath.Join(dir, fmt.Sprint(i, ".go"))
	}
	for original, text := range files {
		if err := os.WriteFile(replace[original], []byte(text), 0o600); err != nil {
			return err
		}
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return err
	}
	overlay := filepath.Join(dir, "overlay.json")
	return errors.Join(os.WriteFile(overlay, list, 0o600),
		runner.Build(ctx, root, dir, append([]string{"-overlay", overlay}, packages...)...))
}

// certificate writes a self-signed certificate for localhost, and its key.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// post sends spans in Zipkin's format.
func post(t *testing.T, to string, spans []map[string]any) {
	t.Helper()
	body, err := json.Marshal(spans)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Post(to+"/api/v2/spans", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusAccepted {
		t.Fatalf("the spans got %s", response.Status)
	}
}
