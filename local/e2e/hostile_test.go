package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcgzip "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"

	"otel-demo/local/compose"
	"otel-demo/local/load"
	"otel-demo/local/spans/spantest"
)

// hostile are payloads that nobody should publish, and how many of each a test sends. Those that can be decoded are
// messages, however odd: each is processed in its own trace. The others are bad.
var hostile = []struct {
	name    string
	n       int
	bad     bool
	payload string
}{
	{"not JSON", 2000, true, "hello"},
	{"empty", 1000, true, ""},
	{"cut off", 1000, true, `{"id":"1","headers":{"traceparent":"00-`},
	{"wrong types", 1000, true, `{"id":1,"headers":"x","body":[]}`},
	{"wrong types in headers", 1000, false, `{"headers":{"traceparent":["x",{}]}}`},
	{"NUL bytes", 1000, true, "\x00{\x00}"},
	{"not UTF-8", 500, true, "\xff\xfe"},
	{"5 MB of JSON", 30, true, `{"body":"` + strings.Repeat("x", 5_000_000) + `"}`},
	{"5 MB of something else", 30, true, strings.Repeat("x", 5_000_000)},
	{"an array in arrays", 100, true, strings.Repeat("[", 60_000)},
	{"an object in objects", 100, true, strings.Repeat(`{"headers":`, 5000)},
	{"an enormous number", 40, true, `{"id":` + strings.Repeat("1", 60_000) + `}`},
	{"a broken traceparent", 500, false, `{"headers":{"traceparent":"00-nonsense-01"}}`},
	{"a traceparent of zeros", 500, false, `{"headers":{"traceparent":"00-` + strings.Repeat("0", 32) + "-" + strings.Repeat("0", 16) + `-01"}}`},
	{"NUL bytes in headers", 500, false, `{"headers":{"traceparent":"\u0000","baggage":"\u0000=\u0000"}}`},
	{"a baggage of 1000 entries", 300, false, `{"headers":{"baggage":"` + strings.Repeat("username=donuts,", 1000) + `"}}`},
	{"an id of 60 kB", 100, false, `{"id":"` + strings.Repeat("x", 60_000) + `"}`},
	{"enormous headers", 100, false, `{"headers":{"traceparent":"` + strings.Repeat("0", 15_000) + `","tracestate":"` +
		strings.Repeat("a=b,", 4000) + `","baggage":"username=` + strings.Repeat("x", 15_000) + `"}}`},
	{"1 MB in a header", 100, true, `{"headers":{"baggage":"username=` + strings.Repeat("x", 1_000_000) + `"}}`},
	{"1 MB of body", 100, true, `{"body":"` + strings.Repeat("x", 1_000_000) + `"}`},
}

func TestHostileMessages(t *testing.T) {
	t.Parallel()
	d, log := startServices(t, `services: {worker: {environment: {WORK_DURATION: 20ms}}}`)
	broker := goredis.NewClient(&goredis.Options{Addr: address(t, d, "redis", 6379)})
	defer broker.Close()
	publish := func(payload string) {
		t.Helper()
		if heard, err := broker.Publish(t.Context(), "work", payload).Result(); heard != 1 || err != nil {
			t.Fatalf("%d subscribers, %v; want only the worker", heard, err)
		}
	}
	var good []string
	sent, bad := 0, 0
	start := time.Now()
	for _, kind := range hostile {
		for range kind.n {
			publish(kind.payload)
			sent++
			if kind.bad {
				bad++
			}
			if sent%10 == 0 && len(good) < 1000 {
				good = append(good, load.RandomHex(16))
				publish(goodMessage(good[len(good)-1]))
			}
		}
	}
	if sent != 10_000 || len(good) != 1000 {
		t.Errorf("%d hostile messages and %d good ones were sent", sent, len(good))
	}
	eventually(t, "all good messages to be processed", func() bool {
		n, _ := lost(d.Jaeger(), good, []string{"worker process work"})
		return n == 0
	})
	// There is at most one line a second, so the last count comes with a message after a pause.
	eventually(t, "a count of all bad messages", func() bool {
		time.Sleep(1100 * time.Millisecond)
		publish("one more")
		bad++
		time.Sleep(500 * time.Millisecond)
		return strings.Contains(log.String(), fmt.Sprintf(`"so far"=%d`, bad))
	})

	seconds := int(time.Since(start).Seconds())
	lines := complaints(log.String(), "worker")
	for _, line := range lines {
		if len(line) > 1000 {
			t.Errorf("a line of %d bytes: %.200s", len(line), line)
		}
	}
	failed := 0
	for _, trace := range d.Jaeger().Traces() {
		for _, span := range trace.Spans {
			if span.Failed() {
				failed++
			}
			if size := len(fmt.Sprint(*span)); size > 20_000 {
				t.Errorf("the span %s has %d bytes", span.Name, size)
			}
		}
	}
	if limit := seconds + 2; len(lines) > limit || failed > limit || failed == 0 {
		t.Errorf("%d lines and %d failed spans in %d s, want at most one a second", len(lines), failed, seconds)
	}
	memory := peakMemory(t, d, "worker")
	if memory >= 100 {
		t.Errorf("the worker took %d MB, want less than 100", memory)
	}
	t.Logf("measured: %d hostile messages among %d good ones: all good ones processed, %d bad ones counted, worker at up to %d MB, "+
		"%d lines and %d failed spans in %d s", sent, len(good), bad, memory, len(lines), failed, seconds)
}

// Each of these gets a response with a new trace or 4xx, or its connection is closed, within a bounded time.
func TestHostileRequests(t *testing.T) {
	d, log := startServices(t)
	server := address(t, d, "server", 8080)
	const get = "GET /hello HTTP/1.1\r\nHost: localhost\r\n"
	var tests sync.WaitGroup
	for _, test := range []struct {
		name, request string
		repeat        string // what is sent after it, again and again
		size          int    // how much of that, in bytes; -1: a byte a second, until the server closes it
		want          string // statuses, or closed: a connection without a response
		limit         time.Duration
	}{
		{"a traceparent that is none", get + "Traceparent: 00-nonsense\r\n\r\n", "", 0, "200", 3 * time.Second},
		{"a traceparent of zeros", get + "Traceparent: 00-" + strings.Repeat("0", 32) + "-" + strings.Repeat("0", 16) + "-01\r\n\r\n", "", 0, "200", 3 * time.Second},
		{"a baggage of 1,000 entries", get + "Baggage: " + strings.Repeat("username=x,", 1000) + "\r\n\r\n", "", 0, "200", 3 * time.Second},
		{"100 kB of baggage", get + "Baggage: username=" + strings.Repeat("x", 100_000) + "\r\n\r\n", "", 0, "431", 3 * time.Second},
		{"100 MB of headers", get, "X: " + strings.Repeat("x", 1000) + "\r\n", 100_000_000, "431 closed", 5 * time.Second},
		{"a path of 1 MB", "GET /" + strings.Repeat("x", 1_000_000) + " HTTP/1.1\r\nHost: localhost\r\n\r\n", "", 0, "431 closed", 5 * time.Second},
		{"an unknown method", "BREW /hello HTTP/1.1\r\nHost: localhost\r\n\r\n", "", 0, "405", 3 * time.Second},
		{"a method that is known", "POST /hello HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", "", 0, "405", 3 * time.Second},
		{"no HTTP", "\x16\x03\x01\x00\x00\r\n\r\n", "", 0, "400", 3 * time.Second},
		{"a NUL byte in a header", get + "X: \x00\r\n\r\n", "", 0, "400", 3 * time.Second},
		{"two lengths", get + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", "", 0, "400", 3 * time.Second},
		{"a body of 1 GB", get + "Content-Length: 1000000000\r\n\r\n", strings.Repeat("x", 100_000), 1_000_000_000, "200", 5 * time.Second},
		{"a body of 1 GB in chunks", get + "Transfer-Encoding: chunked\r\n\r\n", "186a0\r\n" + strings.Repeat("x", 100_000) + "\r\n", 1_000_000_000, "200", 5 * time.Second},
		{"slow headers", get + "X: ", "x", -1, "closed", 7 * time.Second},
		{"nothing", "", "", 0, "closed", 7 * time.Second},
	} {
		tests.Go(func() {
			status, trace, took, err := send(server, test.request, test.repeat, test.size, test.limit)
			if took > test.limit || !strings.Contains(test.want, status) {
				t.Errorf("%s: got %s after %v (%v), want %s within %v", test.name, status, took, err, test.want, test.limit)
			}
			if (status == "200") != (len(trace) == 32) || trace == strings.Repeat("0", 32) {
				t.Errorf("%s: %s has the trace %q", test.name, status, trace)
			}
		})
	}
	tests.Wait()
	if got := getURL("http://" + server + "/hello"); got.status != http.StatusOK {
		t.Errorf("afterwards /hello responds %+v", got)
	}
	memory := peakMemory(t, d, "server")
	if memory >= 100 {
		t.Errorf("the server took %d MB, want less than 100", memory)
	}
	if lines := complaints(log.String(), "server"); len(lines) > 2 {
		t.Errorf("the server wrote\n%s", strings.Join(lines, "\n"))
	}
	t.Logf("measured: hostile requests: all served or closed in time, none with 5xx, server at up to %d MB", memory)
}

// send sends a request over its own connection, and returns the response's status and trace, and how long that took.
// After the request it sends repeat until that makes size bytes; if size is -1, once a second for as long as the server
// accepts it.
func send(server, request, repeat string, size int, limit time.Duration) (status, trace string, took time.Duration, err error) {
	start := time.Now()
	conn, err := net.Dial("tcp", server)
	if err != nil {
		return "no connection", "", 0, err
	}
	var sending sync.WaitGroup
	defer sending.Wait()
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(limit + 5*time.Second)); err != nil {
		return "no connection", "", 0, err
	}
	sending.Go(func() {
		_, err := io.WriteString(conn, request)
		for left := size; left != 0 && err == nil; {
			_, err = io.WriteString(conn, repeat)
			if left > 0 {
				left = max(0, left-len(repeat))
			} else if err == nil {
				time.Sleep(time.Second)
			}
		}
	})
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	took = time.Since(start)
	if err != nil {
		return "closed", "", took, err
	}
	defer response.Body.Close()
	return fmt.Sprint(response.StatusCode), response.Header.Get("Trace-Id"), took, nil
}

func TestIdleConnections(t *testing.T) {
	t.Parallel()
	d, _ := startServices(t)
	server := address(t, d, "server", 8080)
	run := func(requests int) (p50, p99 time.Duration) {
		start := time.Now()
		load := startLoad(t, server, 20)
		load.wait(requests)
		load.Stop()
		load.allAnswered()
		return load.latency(0.5, start, time.Now()), load.latency(0.99, start, time.Now())
	}
	p50Before, p99Before := run(60)
	// Half have sent a request, the others nothing. The server closes the silent ones after 5 s.
	var idle sync.WaitGroup
	done := make(chan struct{})
	defer idle.Wait()
	defer close(done)
	for i := range 2000 {
		conn, err := net.Dial("tcp", server)
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
		}
		idle.Go(func() {
			<-done
			_ = conn.Close() // the server may have closed it
		})
	}
	p50, p99 := run(80)
	memory := peakMemory(t, d, "server")
	if memory >= 100 {
		t.Errorf("the server took %d MB, want less than 100", memory)
	}
	t.Logf("measured: 2,000 idle connections beside 20 requests/s: all got 200, p50 %v (%v without), p99 %v (%v), server at up to %d MB",
		p50, p50Before, p99, p99Before, memory)
}

// One request with deeply nested values once ended a collector with a stack overflow. Here agent, collector and viewer
// get such requests in every format that they accept, and continue to work.
func TestNestedRequests(t *testing.T) {
	needsProc(t)
	at, services := map[string]string{}, ""
	for service, ports := range map[string][]int{"otel-agent": {4317, 4318, 14250, 14268, 9411}, "otel-collector": {4317, 4318}, "jaeger": {4317, 4318}} {
		var published []string
		for _, port := range ports {
			address := freeAddress(t)
			at[fmt.Sprint(service, ":", port)] = address
			published = append(published, fmt.Sprintf("%q", fmt.Sprint(address, ":", port)))
		}
		services += fmt.Sprintf("  %s: {ports: [%s]}\n", service, strings.Join(published, ", "))
	}
	r := startRunner(t, "-f", overlay(t, "services:\n"+services))
	r.says("the client is done")
	at["zipkin:9411"] = r.ports[2]
	started := r.children()

	const proto, json, thrift, viaGRPC = "application/x-protobuf", "application/json", "application/x-thrift", ""
	const otlp, jaeger = "/opentelemetry.proto.collector.trace.v1.TraceService/Export", "/jaeger.api_v2.CollectorService/PostSpans"
	for _, size := range []int{4_000_000, 19_000_000} {
		bodies := nested(size)
		for _, request := range []struct{ to, path, kind, body string }{
			{"otel-agent:4317", otlp, viaGRPC, "OTLP"}, {"otel-collector:4317", otlp, viaGRPC, "OTLP"}, {"jaeger:4317", otlp, viaGRPC, "OTLP"},
			{"otel-agent:4318", "/v1/traces", proto, "OTLP"}, {"otel-collector:4318", "/v1/traces", proto, "OTLP"}, {"jaeger:4318", "/v1/traces", proto, "OTLP"},
			{"otel-agent:4318", "/v1/traces", json, "OTLP as JSON"}, // in the collector, whose exporters recurse too, it took up to 389 MB
			{"otel-agent:14250", jaeger, viaGRPC, "groups"}, {"otel-agent:14268", "/api/traces", thrift, "thrift"},
			{"otel-agent:9411", "/api/v1/spans", json, "arrays"}, {"otel-agent:9411", "/api/v1/spans", thrift, "thrift"},
			{"otel-agent:9411", "/api/v2/spans", json, "arrays"}, {"otel-agent:9411", "/api/v2/spans", proto, "groups"},
			{"zipkin:9411", "/api/v2/spans", json, "arrays"}, {"zipkin:9411", "/api/v2/spans", proto, "groups"},
		} {
			sent := fmt.Sprintf("%d MB of nested %s to %s%s %s", size/1_000_000, request.body, request.to, request.path, request.kind)
			var response string
			var err error
			if request.kind == viaGRPC {
				response, err = invoke(t, at[request.to], request.path, bodies[request.body])
			} else {
				response, err = postPacked("http://"+at[request.to]+request.path, request.kind, bodies[request.body])
			}
			if err != nil {
				t.Errorf("%s: %v", sent, err)
			}
			t.Logf("measured: %s: %s", sent, response)
		}
	}

	started[r.Process.Pid] = "the runner, which has the viewer"
	for pid, command := range started {
		name := strings.Trim(filepath.Base(command), "\x00")
		if name == "client" {
			continue // it is done
		}
		if !isAlive(pid) {
			t.Fatalf("%s has died", name)
		}
		memory := peakOf(t, pid)
		if memory >= 400 {
			t.Errorf("%s took %d MB, want less than 400", name, memory)
		}
		t.Logf("measured: nested requests: up to %d MB in %s", memory, name)
	}
	id, err := ask(r.ports[0], http.Header{})
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range []string{"http://" + r.ports[1] + "/trace/" + id, "http://" + r.ports[2] + "/zipkin/traces/" + id} {
		eventually(t, "the next trace at "+page, func() bool {
			body, err := fetch(page)
			return err == nil && strings.Contains(string(body), " 5 spans ")
		})
	}
}

// nested returns bodies of about that size whose values are nested as deep as fits, by format.
func nested(size int) map[string][]byte {
	const open, shut = `{"arrayValue":{"values":[`, `]}}`
	n := size / (len(open) + len(shut))
	id := `"traceId":"` + strings.Repeat("1", 32) + `"`
	return map[string][]byte{
		"OTLP": spantest.Nested(size),
		"OTLP as JSON": []byte(`{"resourceSpans":[{"scopeSpans":[{"spans":[{` + id + `,"spanId":"1111111111111111","attributes":[{"key":"k","value":` +
			strings.Repeat(open, n) + strings.Repeat(shut, n) + `}]}]}]}]}`),
		"arrays": []byte(`[{` + id + `,"id":"1","unknown":` + strings.Repeat("[", size/2) + strings.Repeat("]", size/2) + `}]`),
		"groups": []byte(strings.Repeat("\x7b", size/2) + strings.Repeat("\x7c", size/2)),              // field 15, which is unknown
		"thrift": []byte("\x0f\x00\x63" + strings.Repeat("\x0f\x00\x00\x00\x01", size/5) + "\x00\x00"), // field 99: a list of lists
	}
}

// postPacked posts a packed body, and returns the response.
func postPacked(url, kind string, body []byte) (string, error) {
	var packed bytes.Buffer
	pack := gzip.NewWriter(&packed)
	_, err := pack.Write(body)
	if err = errors.Join(err, pack.Close()); err != nil {
		return "", err
	}
	request, err := http.NewRequest(http.MethodPost, url, &packed)
	if err != nil {
		return "", err
	}
	request.Header = http.Header{"Content-Type": {kind}, "Content-Encoding": {"gzip"}}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return fmt.Sprintf("%s %.100q", response.Status, content), err
}

// invoke calls a method over gRPC with a packed request, and returns the status. It is an error if the server is gone.
func invoke(t *testing.T, address, method string, body []byte) (string, error) {
	t.Helper()
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", err
	}
	defer connection.Close()
	err = connection.Invoke(t.Context(), method, body, &[]byte{}, grpc.ForceCodec(rawCodec{}), grpc.UseCompressor(grpcgzip.Name))
	if status.Code(err) == codes.Unavailable {
		return "", err
	}
	return fmt.Sprintf("%.100s", fmt.Sprint(err)), nil
}

// rawCodec passes bytes on as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (rawCodec) Unmarshal([]byte, any) error   { return nil }
func (rawCodec) Name() string                  { return "proto" }

// No part of the demo can be reached from another machine, though the containers' own files say 0.0.0.0.
func TestAllListenOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	d, _ := startServices(t)
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	reached, elsewhere := 0, 0
	for p, address := range d.Addresses() {
		host, number := compose.HostAndPort(address)
		if host != "127.0.0.1" {
			t.Errorf("port %d of %s is at %s", p.Number, p.Service, address)
		}
		if conn, err := net.DialTimeout("tcp", address, time.Second); err == nil {
			reached++
			_ = conn.Close() // it was only a check
		}
		for _, a := range own {
			ip, ok := a.(*net.IPNet)
			if !ok || ip.IP.IsLoopback() || ip.IP.IsLinkLocalUnicast() {
				continue
			}
			elsewhere++
			if conn, err := net.DialTimeout("tcp", net.JoinHostPort(ip.IP.String(), number), time.Second); err == nil {
				_ = conn.Close()
				t.Errorf("port %d of %s can be reached at %s", p.Number, p.Service, ip.IP)
			}
		}
	}
	if reached < 10 {
		t.Errorf("only %d ports can be reached here", reached)
	}
	t.Logf("measured: %d ports listen on 127.0.0.1, none at another address of this machine (%d tried)", reached, elsewhere)
}
