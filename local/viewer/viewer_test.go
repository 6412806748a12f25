package viewer

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/translator/zipkin/zipkinv2"
	"github.com/openzipkin/zipkin-go/proto/zipkin_proto3"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcgzip "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"

	"otel-demo/local/spans"
	"otel-demo/local/spans/spantest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ask sends one request to a handler, as a client on this machine does.
func ask(h http.Handler, method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = "localhost:16686"
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// zipkinBody returns spans as the collector's exporter sends them.
func zipkinBody(t testing.TB, from ptrace.Traces) (proto, text string) {
	t.Helper()
	spans, err := zipkinv2.FromTranslator{}.FromTraces(from)
	if err != nil {
		t.Fatal(err)
	}
	p, err := zipkin_proto3.SpanSerializer{}.Serialize(spans)
	if err != nil {
		t.Fatal(err)
	}
	j, err := json.Marshal(spans)
	if err != nil {
		t.Fatal(err)
	}
	return string(p), string(j)
}

func packed(body string) string {
	var packed bytes.Buffer
	pack := gzip.NewWriter(&packed)
	fmt.Fprint(pack, body)
	pack.Close()
	return packed.String()
}

// otlpBody returns spans as the collector's exporter for OTLP sends them.
func otlpBody(t testing.TB, from ptrace.Traces) []byte {
	t.Helper()
	body, err := ptraceotlp.NewExportRequestFromTraces(from).MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// Both stores have the same traces, as protocol buffers and as packed JSON, whose names are in lower case.
func TestZipkinsFormatKeepsTheShape(t *testing.T) {
	for name, from := range map[string]ptrace.Traces{"the demo": spantest.OTLP(spantest.Demo()), "everything": spantest.Everything()} {
		all, _ := spans.FromOTLP(from)
		want := spans.Shape(all)
		proto, text := zipkinBody(t, from)
		v := New()
		ask(v.ZipkinHandler(), "POST", "/api/v2/spans", proto, "Content-Type", protobuf)
		if err := spantest.Match(want, v.Zipkin().Traces()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, want := spans.Missing(v.Zipkin().Traces()), spans.Missing(all); !maps.Equal(got, want) {
			t.Errorf("%s: missing %v, want %v", name, got, want)
		}
		v = New()
		ask(v.ZipkinHandler(), "POST", "/api/v2/spans", packed(text), "Content-Encoding", "gzip", "Content-Type", "application/json")
		if err := spantest.MatchFold(want, v.Zipkin().Traces()); err != nil {
			t.Errorf("%s as JSON: %v", name, err)
		}
	}
}

func TestZipkinPost(t *testing.T) {
	for body, want := range map[string]int{
		`[]`:                         202,
		`[{"traceId":"a","id":"1"}]`: 202,
		`[{"traceId":"a","id":"1","timestamp":1,"unknown":{"a":[1]}}]`: 202,
		`[{"traceId":"a","id":"1","timestamp":-1}]`:                    400,
		``:                            400,
		`{}`:                          400,
		`hello`:                       400,
		`[{}]`:                        400,
		`[{"traceId":"a"}]`:           400,
		`[{"traceId":"0","id":"0"}]`:  400,
		`[{"traceId":"a","id":"zz"}]`: 400,
		`[{"traceId":"a","id":"11111111111111111"}]`: 400,
		`[{"traceId":"a","id":"1"}`:                  400,
	} {
		v := New()
		w := ask(v.ZipkinHandler(), "POST", "/api/v2/spans", body, "Content-Type", "application/json; charset=utf-8")
		if w.Code != want || w.Code != 202 && v.Zipkin().Spans() != 0 {
			t.Errorf("%s: %d %s, and %d spans were taken", body, w.Code, w.Body, v.Zipkin().Spans())
		}
	}
	large := strings.Repeat(" ", maxBody+1)
	for body, want := range map[string]int{"[]": 400, "\x0a\x02\x0a\x00": 400, "\x0a\x7f": 400, "\x0a\x02\x0a\x7f": 400, large: 413} {
		if w := ask(New().ZipkinHandler(), "POST", "/api/v2/spans", body, "Content-Type", protobuf); w.Code != want {
			t.Errorf("%.20q: %d %s", body, w.Code, w.Body)
		}
	}
	for body, want := range map[string]int{"[]": 400, packed(large): 413} {
		if w := ask(New().ZipkinHandler(), "POST", "/api/v2/spans", body, "Content-Encoding", "gzip", "Content-Type", protobuf); w.Code != want {
			t.Errorf("gzip %.20q: %d %s", body, w.Code, w.Body)
		}
	}
}

func TestOnlyThisMachineIsAnswered(t *testing.T) {
	b := New()
	for target, h := range map[string]http.Handler{"/style.css": b.JaegerHandler(), "/zipkin/": b.ZipkinHandler(), "/": b.OTLPHandler()} {
		for host, want := range map[string]int{
			"localhost": 200, "localhost:1": 200, "LOCALHOST:16686": 200, "127.0.0.1": 200, "127.0.0.1:9411": 200, "[::1]": 200, "[::1]:80": 200,
			"": 403, "evil.example": 403, "evil.example:16686": 403, "localhost.evil.example": 403, "127.0.0.1.evil.example": 403,
			"127.0.0.2": 403, "0.0.0.0:16686": 403, "192.168.0.1": 403, "localhost:x:y": 403,
		} {
			if target == "/" && want == 200 {
				want = 404 // it has no page
			}
			if w := ask(h, "GET", target, "", "Host", host); w.Code != want {
				t.Errorf("%s, Host %q: %d", target, host, w.Code)
			}
		}
	}
}

// A page of another site, open in a browser on this machine, can't post spans. Older browsers send no Sec-Fetch-Site, and
// without asking first, a browser sends only the three content types of a form.
func TestNoOtherSiteCanPostSpans(t *testing.T) {
	v := New()
	body := otlpBody(t, spantest.OTLP(spantest.Demo()))
	proto, _ := zipkinBody(t, spantest.OTLP(spantest.Demo()))
	for path, body := range map[string]string{"/api/v2/spans": proto, "/v1/traces": string(body)} {
		h := map[string]http.Handler{"/api/v2/spans": v.ZipkinHandler(), "/v1/traces": v.OTLPHandler()}[path]
		for name, request := range map[string]struct {
			want   int
			header []string
		}{
			"a page":                   {403, []string{"Content-Type", protobuf, "Sec-Fetch-Site", "cross-site"}},
			"a page in an old browser": {403, []string{"Content-Type", protobuf, "Origin", "http://evil.example"}},
			"a form":                   {415, []string{"Content-Type", "application/x-www-form-urlencoded"}},
			"text":                     {415, []string{"Content-Type", "text/plain"}},
			"no content type":          {415, nil},
		} {
			if w := ask(h, "POST", path, body, request.header...); w.Code != request.want {
				t.Errorf("%s, %s: %d %s, want %d", path, name, w.Code, w.Body, request.want)
			}
		}
	}
	if n := v.Jaeger().Spans() + v.Zipkin().Spans(); n != 0 {
		t.Errorf("%d spans were taken", n)
	}
}

func TestOTLP(t *testing.T) {
	b := New()
	server := b.OTLP()
	defer server.Stop()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	connection, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	export := ptraceotlp.NewGRPCClient(connection).Export

	if _, err := export(t.Context(), ptraceotlp.NewExportRequestFromTraces(spantest.OTLP(spantest.Demo())), grpc.UseCompressor(grpcgzip.Name)); err != nil {
		t.Fatal(err)
	}
	if err := spantest.Match(spantest.DemoShape, b.Jaeger().Traces()); err != nil {
		t.Error(err)
	}
	if got := b.Jaeger().Spans(); got != len(spantest.Demo()) {
		t.Errorf("%d spans are counted, want %d", got, len(spantest.Demo()))
	}

	bad := spantest.OTLP(spantest.Request(9, 1))
	bad.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).SetTraceID([16]byte{})
	bad.ResourceSpans().At(1).ScopeSpans().At(0).Spans().At(0).SetSpanID([8]byte{})
	response, err := export(t.Context(), ptraceotlp.NewExportRequestFromTraces(bad))
	if err != nil || response.PartialSuccess().RejectedSpans() != 2 {
		t.Errorf("%d spans without ids are rejected, %v", response.PartialSuccess().RejectedSpans(), err)
	}

	large := spantest.OTLP(spantest.Request(9, 1))
	large.ResourceSpans().At(0).Resource().Attributes().PutStr("large", strings.Repeat("x", maxMessage))
	if _, err = export(t.Context(), ptraceotlp.NewExportRequestFromTraces(large)); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a large message: %v", err)
	}
}

func TestOTLPOverHTTP(t *testing.T) {
	v := New()
	body := otlpBody(t, spantest.OTLP(spantest.Demo()))
	if w := ask(v.OTLPHandler(), "POST", "/v1/traces", packed(string(body)), "Content-Encoding", "gzip", "Content-Type", protobuf); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if err := spantest.Match(spantest.DemoShape, v.Jaeger().Traces()); err != nil {
		t.Error(err)
	}
	for body, want := range map[string]int{"\xff": 400, strings.Repeat("x", maxBody+1): 413, string(spantest.Nested(4_000_000)): 400} {
		if w := ask(v.OTLPHandler(), "POST", "/v1/traces", body, "Content-Type", protobuf); w.Code != want {
			t.Errorf("%.5q: %d, want %d", body, w.Code, want)
		}
	}
}

func FuzzZipkinPost(f *testing.F) {
	proto, text := zipkinBody(f, spantest.Everything())
	f.Add([]byte(proto), true)
	f.Add([]byte(text), false)
	f.Add([]byte(`[{"traceId":"ff","id":"1","timestamp":-9223372036854775808,"duration":9223372036854775807,"annotations":null}]`), false)
	f.Fuzz(func(t *testing.T, body []byte, proto bool) {
		kind := "application/json"
		if proto {
			kind = "application/x-protobuf"
		}
		b := New()
		h := b.ZipkinHandler()
		w := ask(h, "POST", "/api/v2/spans", string(body), "Content-Type", kind)
		if w.Code != 202 && (w.Code != 400 || b.Zipkin().Spans() != 0) {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		shown(t, b.Zipkin().Traces(), h, "/zipkin/traces/", "/zipkin/")
	})
}

func FuzzOTLP(f *testing.F) {
	f.Add(otlpBody(f, spantest.Everything()))
	f.Add(spantest.Nested(10_000))
	f.Add(spantest.Nested(200)) // just not too deep for the decoder
	f.Fuzz(func(t *testing.T, body []byte) {
		request := ptraceotlp.NewExportRequest()
		if request.UnmarshalProto(body) != nil {
			return
		}
		b := New()
		if _, err := (&otlpService{store: b.jaeger}).Export(t.Context(), request); err != nil {
			t.Fatal(err)
		}
		shown(t, b.Jaeger().Traces(), b.JaegerHandler(), "/trace/", "/")
	})
}

// shown renders traces in every available way.
func shown(t *testing.T, all []*spans.Trace, h http.Handler, page, list string) {
	t.Helper()
	if err := spantest.Match(spans.Shape(all), all); err != nil && !strings.Contains(err.Error(), "appear in the text twice") {
		t.Fatal(err)
	}
	spans.Missing(all)
	targets := []string{list}
	for _, tr := range all {
		spans.TreeText(tr, spans.TreeOptions{Width: 50})
		targets = append(targets, page+tr.ID)
	}
	for _, target := range targets {
		if w := ask(h, "GET", target, ""); w.Code != 200 {
			t.Fatalf("%s: %d %s", target, w.Code, w.Body)
		}
	}
}
