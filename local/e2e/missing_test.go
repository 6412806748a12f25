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
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"otel-demo/local/compose"
	"otel-demo/local/load"
	"otel-demo/local/runner"
	"otel-demo/local/spans"
)

// missingPage is the page whose rows are tested here, each by the test that its last column names.
const missingPage = "docs/missing-spans.md"

// notHere is in the last column of a row whose fault can't be made here.
const notHere = "not reproduced"

// faults cause the fault of a row, and check what the row says that you see.
var faults = map[string]func(m *missing){
	"wrong-host": func(m *missing) {
		m.sees(m.run("client", "OTEL_EXPORTER_OTLP_ENDPOINT=http://otel-agent.invalid:4317").output)
	},
	"wrong-port": func(m *missing) {
		server := m.server("OTEL_EXPORTER_OTLP_ENDPOINT=http://" + freeAddress(m.T))
		start := time.Now()
		m.request(server.address)
		m.sees(server.output) // while it runs, not at its end
		if took := time.Since(start); took > 16*time.Second {
			m.Errorf("it took %v until the server reported it", took)
		}
	},
	"grpc-to-http": func(m *missing) {
		m.sees(m.run("client", "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+address(m.T, m.demo, "otel-agent", 4318)).output)
	},
	"https-to-plaintext": func(m *missing) {
		m.sees(m.run("client", "OTEL_EXPORTER_OTLP_ENDPOINT=https://"+address(m.T, m.demo, "otel-agent", 4317)).output)
	},
	"plaintext-to-https": func(m *missing) {
		cert, key := certificate(m.T)
		const tls = "--set=receivers.otlp.protocols.grpc.tls."
		_, log := startDemo(m.T, fmt.Sprintf(`services:
  client: {environment: {REQUESTS: "1"}}
  otel-agent: {command: ["--config=/etc/otel-agent-config.yaml", "%scert_file=%s", "%skey_file=%s"]}`, tls, cert, tls, key))
		m.sees(log.String)
	},
	"only-localhost": func(m *missing) {
		if runtime.GOOS != "linux" {
			m.Skip("only Linux has 127.0.0.2, which stands for another container")
		}
		_, port := compose.HostAndPort(address(m.T, m.demo, "otel-agent", 4317))
		client := m.run("client", "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.2:"+port)
		m.sees(func() string { return client.output() + m.log.String() })
	},
	"sdk-disabled": func(m *missing) {
		m.sees(m.run("client", "OTEL_SDK_DISABLED=true").output)
	},
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
		if err := d.Stop(); err != nil { // so that everything that will arrive has arrived
			m.Error(err)
		}
		m.sees(func() string { return d.Hops().String() })
	},
	"never-ended": func(m *missing) {
		m.breaksInto(m.run("client", m.edited()).trace(), nil)
	},
	"killed": func(m *missing) {
		d, _ := startServices(m.T, `services: {server: {environment: {OTEL_BSP_SCHEDULE_DELAY: "60000"}}}`)
		id := m.request(address(m.T, d, "server", 8080))
		if err := d.Signal("server", os.Kill); err != nil {
			m.Fatal(err)
		}
		end := <-d.Failed()
		m.sees(func() string { return fmt.Sprint(end, "\n", paths(d.Jaeger().Trace(id))) })
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
	"agent-killed": func(m *missing) {
		d, id := m.heldByTheAgent()
		if err := d.Signal("otel-agent", os.Kill); err != nil {
			m.Fatal(err)
		}
		end := <-d.Failed()
		m.sees(func() string { return end.Error() })
		m.isLost(d, id)
	},
	"agent-stopped": func(m *missing) {
		d, id := m.heldByTheAgent()
		stopService(m.T, d, "otel-agent")
		m.sees(m.log.String)
		m.isLost(d, id)
	},
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

	"no-propagator":    func(m *missing) { m.brokenServer(m.edited()) },
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
	"background": func(m *missing) { m.brokenServer(m.edited()) },
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

// Each row of the page's tables is a fault that is caused here, and what the row quotes is seen: a log line, a number,
// or the pieces into which a trace breaks.
func TestMissingSpans(t *testing.T) {
	t.Parallel()
	rows := missingRows(t)
	for name := range faults {
		if !slices.ContainsFunc(rows, func(r missingRow) bool { return r.test == name }) {
			t.Errorf("%s: no row of %s names it", name, missingPage)
		}
	}
	d, log := startServices(t)
	dir := t.TempDir()
	build := sync.OnceValues(func() (string, error) {
		return dir, buildEdited(t.Context(), projectRoot(t), dir, edits, "./cmd/client", "./cmd/server")
	})
	for _, row := range rows {
		if row.test == notHere {
			t.Logf("not reproduced here: %s", row.see)
			continue
		}
		t.Run(row.test, func(t *testing.T) {
			t.Parallel()
			fault := faults[row.test]
			if fault == nil {
				t.Fatalf("%s names it, but there is no such test", missingPage)
			}
			m := &missing{T: t, name: row.test, quotes: row.quotes, demo: d, log: log, build: build}
			fault(m)
			t.Logf("%s: seen: %s", row.test, strings.Join(row.quotes, " | "))
		})
	}
}

// missingRow is a row of the page: what its first cell quotes, and its test.
type missingRow struct {
	see, test string
	quotes    []string
}

func missingRows(t *testing.T) (rows []missingRow) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(projectRoot(t), filepath.FromSlash(missingPage)))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if len(cells) != 5 || !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| What you see") {
			continue
		}
		r := missingRow{see: strings.TrimPrefix(cells[0], "| "), test: strings.Trim(cells[4], " |`")}
		for _, quote := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(r.see, -1) {
			r.quotes = append(r.quotes, quote[1])
		}
		if len(r.quotes) == 0 && r.test != notHere {
			t.Errorf("%s: the row %s quotes nothing", missingPage, r.test)
		}
		rows = append(rows, r)
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

// breaksInto waits until the trace with that id, with what belongs to this test, has exactly the paths that the row
// quotes. A quote that begins with a quotation mark is from the message, identified by the trace's id or its own.
func (m *missing) breaksInto(id string, wire func(texts ...string) string) {
	m.Helper()
	var want, message []string
	for _, quote := range m.quotes {
		if strings.HasPrefix(quote, `"`) {
			message = append(message, quote)
		} else {
			want = append(want, quote)
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

// heldByTheAgent starts a demo whose agent holds the spans of one request, because the collector is down.
func (m *missing) heldByTheAgent() (d *runner.Demo, id string) {
	m.Helper()
	d, m.log = startServices(m.T)
	stopService(m.T, d, "otel-collector")
	id = m.request(address(m.T, d, "server", 8080))
	eventually(m.T, "the agent to accept 5 spans", func() bool { return strings.Contains(d.Hops().String(), " 5 accepted by otel-agent") })
	return d, id
}

// isLost checks that a trace doesn't arrive once everything runs again.
func (m *missing) isLost(d *runner.Demo, id string) {
	m.Helper()
	startService(m.T, d, "otel-collector")
	startService(m.T, d, "otel-agent")
	m.demo = d
	m.isNowhere(id)
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
	{"pkg/row.go", "", "package pkg\nimport \"os\"\nfunc Row(name string) bool { return os.Getenv(\"ROW\") == name }"},
	{"cmd/client/client.go", "defer span.End()\n\n\t// Baggage", `if !pkg.Row("never-ended") { defer span.End() }` + "\n// Baggage"},
	{"cmd/client/client.go", "\tdefer shutdown()", `if !pkg.Row("no-shutdown") { defer shutdown() }`},
	{"pkg/tracer.go", "otel.SetTextMapPropagator(autoprop", `if !Row("no-propagator") { otel.SetTextMapPropagator(autoprop`},
	{"pkg/tracer.go", "autoprop.NewTextMapPropagator())", "autoprop.NewTextMapPropagator()) }"},
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
