package e2e

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"otel-demo/local/runner"
	"otel-demo/local/spans"
)

// A connection that goes silent without closing, as after a lost node, or behind a NAT or a firewall: each hop notices
// within 45 s, opens another, and loses nothing.
func TestAConnectionThatGoesSilent(t *testing.T) {
	t.Parallel()
	needsLong(t)
	jaeger, zipkin := (*runner.Demo).Jaeger, (*runner.Demo).Zipkin
	for name, hop := range map[string]struct {
		overlay string // with the relay's address in place of %s
		to      string
		port    int
		store   func(*runner.Demo) *spans.Store
		log     string // of whoever notices
	}{
		"from the programs to the agent": {`services: {server: {environment: {OTEL_EXPORTER_OTLP_ENDPOINT: "http://%s"}}}`,
			"otel-agent", 4317, jaeger, "server | "},
		"from the programs to the agent, over HTTP": {`services: {server: {environment: {OTEL_EXPORTER_OTLP_ENDPOINT: "http://%s",
			OTEL_EXPORTER_OTLP_PROTOCOL: http/protobuf}}}`, "otel-agent", 4318, jaeger, ""},
		"from the agent to the collector": {`services: {otel-agent: {command: ["--config=/etc/otel-agent-config.yaml",
			"--set=exporters.otlp_http.endpoint=http://%s"]}}`, "otel-collector", 4318, jaeger, "otel-agent | "},
		"from the collector to Jaeger": {`services: {otel-collector: {command: ["--config=/etc/otel-collector-config.yaml",
			"--set=exporters.otlp_http/jaeger.endpoint=http://%s", "--set=exporters.otlp_http/jaeger.headers.Host=localhost"]}}`, "jaeger", 4318, jaeger, "otel-collector | "},
		"from the collector to Zipkin": {`services: {otel-collector: {command: ["--config=/etc/otel-collector-config.yaml",
			"--set=exporters.zipkin.endpoint=http://%s/api/v2/spans", "--set=exporters.zipkin.headers.Host=localhost"]}}`, "zipkin", 9411, zipkin, "otel-collector | "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			relay := startRelay(t)
			d, log := startDemo(t, fmt.Sprintf(hop.overlay, relay.Addr()), noClient)
			relay.to(address(t, d, hop.to, hop.port))
			isWell(t, d)
			load := startLoad(t, address(t, d, "server", 8080), 5)
			load.wait(20)
			relay.silence()
			silent, before := time.Now(), len(load.Ended())
			var noticed time.Duration
			eventuallyWithin(t, 45*time.Second, "the trace of a request after the silence", func() bool {
				for _, r := range load.Ended()[before:] {
					if n, _ := lost(hop.store(d), []string{r.Headers.Get("Trace-Id")}, requestSpans); n == 0 {
						noticed = time.Since(silent).Round(time.Second)
						return true
					}
				}
				return false
			})
			load.Stop()
			ids := load.answered()
			eventuallyWithin(t, 60*time.Second, "all spans", func() bool { n, _ := lost(hop.store(d), ids, requestSpans); return n == 0 })
			if hop.log != "" && !strings.Contains(log.String(), hop.log) {
				t.Errorf("no line of %s", hop.log)
			}
			t.Logf("measured: the connection %s went silent: noticed after %v, 0 of %d spans lost", name, noticed, 5*len(ids))
		})
	}
}

// relay forwards connections. Those that are open when it goes silent stay open, and nothing passes through them.
type relay struct {
	net.Listener
	mu     sync.Mutex
	target string
	silent chan struct{}
}

func startRelay(t *testing.T) *relay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.2:0") // in a service's settings, 127.0.0.1 is the service itself
	if err != nil {
		t.Skip("needs a second loopback address: ", err)
	}
	r := &relay{Listener: listener, silent: make(chan struct{})}
	t.Cleanup(func() { r.Close(); r.silence() })
	go func() {
		for {
			in, err := r.Accept()
			if err != nil {
				return
			}
			r.mu.Lock()
			target, silent := r.target, r.silent
			r.mu.Unlock()
			out, err := net.Dial("tcp", target)
			if err != nil {
				in.Close()
				continue
			}
			go pass(in, out, silent)
			go pass(out, in, silent)
		}
	}()
	return r
}

func pass(from, to net.Conn, silent chan struct{}) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		select {
		case <-silent:
			io.Copy(io.Discard, from) // until its owner closes it
			return
		default:
		}
		if n > 0 {
			_, _ = to.Write(buffer[:n])
		}
		if err != nil {
			to.Close()
			return
		}
	}
}

func (r *relay) to(target string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = target
}

func (r *relay) silence() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.silent)
	r.silent = make(chan struct{})
}
