package backend

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/translator/zipkin/zipkinv2"
	"github.com/openzipkin/zipkin-go/proto/zipkin_proto3"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcgzip "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
)

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

// zipkinBody is spans as the collector's exporter sends them.
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

// filled is a backend with the demo's traces in both stores.
func filled(t testing.TB) *Backend {
	t.Helper()
	b := New()
	b.jaeger.add(traces(demo()))
	proto, _ := zipkinBody(t, otlp(demo()))
	if w := ask(b.ZipkinHandler(), "POST", "/api/v2/spans", proto, "Content-Type", "application/x-protobuf"); w.Code != http.StatusAccepted {
		t.Fatalf("POST /api/v2/spans: %d %s", w.Code, w.Body)
	}
	return b
}

// sameJSON compares without the order of attributes, which Jaeger sorts.
func sameJSON(t *testing.T, got, want []byte) bool {
	t.Helper()
	var values [2]any
	for i, text := range [][]byte{got, want} {
		if err := json.Unmarshal(text, &values[i]); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		sortAttributes(values[i])
	}
	return reflect.DeepEqual(values[0], values[1])
}

func sortAttributes(value any) {
	switch value := value.(type) {
	case map[string]any:
		if list, ok := value["attributes"].([]any); ok {
			slices.SortFunc(list, func(a, b any) int {
				return strings.Compare(a.(map[string]any)["key"].(string), b.(map[string]any)["key"].(string))
			})
		}
		for _, v := range value {
			sortAttributes(v)
		}
	case []any:
		for _, v := range value {
			sortAttributes(v)
		}
	}
}

// testdata/jaeger.json and testdata/zipkin.json are what Jaeger 2.13 and Zipkin 3.6.1 answered to these very spans.
func TestTheAPIsAnswerWhatJaegerAndZipkinAnswer(t *testing.T) {
	b := New()
	all, _ := fromOTLP(everything())
	b.jaeger.add(all)
	proto, text := zipkinBody(t, everything())
	ask(b.ZipkinHandler(), "POST", "/api/v2/spans", proto, "Content-Type", "application/x-protobuf")

	wantJaeger, err := os.ReadFile("testdata/jaeger.json")
	if err != nil {
		t.Fatal(err)
	}
	wantZipkin, err := os.ReadFile("testdata/zipkin.json")
	if err != nil {
		t.Fatal(err)
	}
	id := traceID(2).String()
	jaeger := ask(b.JaegerHandler(), "GET", "/api/v3/traces/"+id, "")
	if !sameJSON(t, jaeger.Body.Bytes(), wantJaeger) {
		t.Errorf("Jaeger's API answers\n%s\nnot\n%s", jaeger.Body, wantJaeger)
	}
	zipkin := ask(b.ZipkinHandler(), "GET", "/api/v2/trace/"+id, "")
	if strings.TrimSpace(zipkin.Body.String()) != strings.TrimSpace(string(wantZipkin)) {
		t.Errorf("Zipkin's API answers\n%s\nnot\n%s", zipkin.Body, wantZipkin)
	}

	// What was recorded reads back to the same shape, from both.
	shape := Shape(b.Jaeger().Traces())
	fromJaeger, err := ParseJaeger(wantJaeger)
	if err != nil {
		t.Fatal(err)
	}
	if err := Match(shape, fromJaeger); err != nil {
		t.Error(err)
	}
	for _, body := range []string{string(wantZipkin), "[" + string(wantZipkin) + "]"} {
		fromZipkin, err := ParseZipkin([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		if err := MatchFold(shape, fromZipkin); err != nil {
			t.Error(err)
		}
	}

	// The same spans as JSON, which has lower-case names, and packed.
	var packed bytes.Buffer
	pack := gzip.NewWriter(&packed)
	fmt.Fprint(pack, text)
	pack.Close()
	again := New()
	ask(again.ZipkinHandler(), "POST", "/api/v2/spans", packed.String(), "Content-Encoding", "gzip", "Content-Type", "application/json")
	if err := MatchFold(shape, again.Zipkin().Traces()); err != nil {
		t.Error(err)
	}
}

func TestZipkinsFormatKeepsTheShape(t *testing.T) {
	b := filled(t)
	for name, store := range map[string]*Store{"jaeger": b.Jaeger(), "zipkin": b.Zipkin()} {
		if err := Match(demoShape, store.Traces()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if missing := Missing(store.Traces()); len(missing) > 0 {
			t.Errorf("%s: missing %v", name, missing)
		}
	}
}

const day = "query.start_time_min=2026-11-23T00:00:00Z&query.start_time_max=2026-11-24T00:00:00Z&query.search_depth=20&"

func TestJaegerAPI(t *testing.T) {
	h, id := filled(t).JaegerHandler(), traceID(2).String()
	for target, want := range map[string]struct {
		code int
		text string // that the answer has, of an error
		ids  string // the last digits of the traces that are found, in their order
	}{
		"/api/v3/services":         {200, `{"services":["client","server","worker"]}`, ""},
		"/api/v3/traces/" + id:     {200, "", "2"},
		"/api/v3/traces/" + id[1:]: {200, "", "2"},
		"/api/v3/traces/" + id + "?start_time=2026-11-23T00:00:00Z":                               {200, "", "2"},
		"/api/v3/traces/" + id + "?start_time=x":                                                  {400, "malformed parameter start_time", ""},
		"/api/v3/traces/" + id + "?end_time=x":                                                    {400, "malformed parameter end_time", ""},
		"/api/v3/traces/" + id + "?raw_traces=x":                                                  {400, "malformed parameter raw_traces", ""},
		"/api/v3/traces/0":                                                                        {404, "No traces found", ""},
		"/api/v3/traces/xyz":                                                                      {400, `malformed parameter trace_id: strconv.ParseUint: parsing \"xyz\"`, ""},
		"/api/v3/traces/0" + id:                                                                   {400, "TraceID cannot be longer than 32 hex characters", ""},
		"/api/v3/traces":                                                                          {400, "query.start_time_min and query.start_time_max are required", ""},
		"/api/v3/traces?query.start_time_min=x&query.start_time_max=y":                            {400, "malformed parameter query.start_time_min", ""},
		"/api/v3/traces?" + strings.Replace(day, "=20&", "=&", 1):                                 {500, "search depth must be greater than 0", ""},
		"/api/v3/traces?" + strings.Replace(day, "=20&", "=x&", 1):                                {400, "malformed parameter query.search_depth", ""},
		"/api/v3/traces?" + strings.Replace(day, "search_depth=20", "num_traces=2", 1):            {200, "", "7 6"},
		"/api/v3/traces?" + strings.Replace(day, "24T", "22T", 1):                                 {404, "No traces found", ""},
		"/api/v3/traces?" + day:                                                                   {200, "", "7 6 5 4 3 2 1"},
		"/api/v3/traces?" + day + "query.service_name=worker":                                     {200, "", "6 5 4 3 2"},
		"/api/v3/traces?" + day + "query.service_name=Worker":                                     {404, "", ""},
		"/api/v3/traces?" + day + "query.operation_name=HTTP%20GET":                               {200, "", "6 5 4 3 2"},
		"/api/v3/traces?" + day + "query.service_name=client&query.operation_name=process%20work": {404, "", ""},
		"/api/v3/traces?" + day + "query.service_name=client&query.duration_min=20ms":             {200, "", "1"},
		"/api/v3/traces?" + day + "query.duration_max=500us":                                      {404, "", ""},
		"/api/v3/traces?" + day + "query.service_name=client&query.duration_max=5ms":              {200, "", "7"},
		"/api/v3/traces?" + day + "query.duration_min=x":                                          {400, "malformed parameter query.duration_min", ""},
		"/api/v3/traces?" + day + "query.duration_max=1":                                          {400, "malformed parameter query.duration_max", ""},
		"/api/v3/traces?" + day + "query.raw_traces=x":                                            {400, "malformed parameter query.raw_traces", ""},
		"/api/v3/operations":                                                                      {404, "", ""},
		"/api/traces":                                                                             {404, "", ""},
		"/nothing":                                                                                {404, "", ""},
	} {
		w := ask(h, "GET", target, "")
		if w.Code != want.code || !strings.Contains(w.Body.String(), want.text) {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
		if want.ids == "" {
			continue
		}
		found, err := ParseJaeger(w.Body.Bytes())
		if err != nil {
			t.Errorf("%s: %v", target, err)
		}
		if got := ids(found); got != want.ids {
			t.Errorf("%s: the traces are %s, not %s", target, got, want.ids)
		}
	}
	if w := ask(New().JaegerHandler(), "GET", "/api/v3/services", ""); strings.TrimSpace(w.Body.String()) != "{}" {
		t.Errorf("no services are %s", w.Body)
	}
	for _, method := range []string{"POST", "DELETE"} {
		if w := ask(h, method, "/api/v3/services", ""); w.Code != 404 {
			t.Errorf("%s: %d", method, w.Code)
		}
	}
}

func ids(traces []*Trace) string {
	var last []string
	for _, t := range traces {
		last = append(last, t.ID[31:])
	}
	return strings.Join(last, " ")
}

func TestZipkinAPI(t *testing.T) {
	h, id := filled(t).ZipkinHandler(), traceID(2).String()
	until := fmt.Sprintf("endTs=%d", began.Add(time.Minute).UnixMilli())
	for target, want := range map[string]struct {
		code int
		text string // the whole answer, of an error
		ids  string
	}{
		"/api/v2/services":                                                 {200, `["client","server","worker"]`, ""},
		"/api/v2/trace/" + id:                                              {200, "", "2"},
		"/api/v2/trace/" + id[1:]:                                          {200, "", "2"},
		"/api/v2/trace/2":                                                  {404, "0000000000000002 not found", ""},
		"/api/v2/trace/xyz":                                                {400, "xyz should be lower-hex encoded with no prefix", ""},
		"/api/v2/trace/FF":                                                 {400, "FF should be lower-hex encoded with no prefix", ""},
		"/api/v2/trace/0":                                                  {400, "traceId is all zeros", ""},
		"/api/v2/trace/0" + id:                                             {400, "traceId.length > 32", ""},
		"/api/v2/traces?" + until:                                          {200, "", "7 6 5 4 3 2 1"},
		"/api/v2/traces?lookback=1":                                        {200, "[]", ""},
		"/api/v2/traces?endTs=1000":                                        {200, "[]", ""},
		"/api/v2/traces?limit=2&" + until:                                  {200, "", "7 6"},
		"/api/v2/traces?limit=0":                                           {400, "limit <= 0", ""},
		"/api/v2/traces?limit=-1":                                          {400, "limit <= 0", ""},
		"/api/v2/traces?limit=x":                                           {400, `For input string: "x"`, ""},
		"/api/v2/traces?endTs=0":                                           {400, "endTs <= 0", ""},
		"/api/v2/traces?lookback=0":                                        {400, "lookback <= 0", ""},
		"/api/v2/traces?minDuration=0":                                     {400, "minDuration <= 0", ""},
		"/api/v2/traces?maxDuration=1":                                     {400, "maxDuration is only valid with minDuration", ""},
		"/api/v2/traces?minDuration=5&maxDuration=1":                       {400, "maxDuration < minDuration", ""},
		"/api/v2/traces?serviceName=WORKER&" + until:                       {200, "", "6 5 4 3 2"},
		"/api/v2/traces?serviceName=all&" + until:                          {200, "", "7 6 5 4 3 2 1"},
		"/api/v2/traces?serviceName=nobody&" + until:                       {200, "[]", ""},
		"/api/v2/traces?spanName=HTTP%20GET&" + until:                      {200, "", "6 5 4 3 2"},
		"/api/v2/traces?remoteServiceName=redis&" + until:                  {200, "[]", ""},
		"/api/v2/traces?serviceName=client&minDuration=20000&" + until:     {200, "", "1"},
		"/api/v2/traces?minDuration=20000&" + until:                        {200, "", "6 5 4 3 2 1"},
		"/api/v2/traces?minDuration=1500&maxDuration=2500&" + until:        {200, "", "7"},
		"/api/v2/traces?annotationQuery=error&" + until:                    {200, "", "7"},
		"/api/v2/traces?annotationQuery=user.name%3Ddonuts&" + until:       {200, "", "6 5 4 3 2"},
		"/api/v2/traces?annotationQuery=user.name%3Dbagels&" + until:       {200, "[]", ""},
		"/api/v2/traces?annotationQuery=user.name+and+http.route&" + until: {200, "", "6 5 4 3 2"},
		"/api/v2/traces?annotationQuery=user.name+and+error&" + until:      {200, "[]", ""},
		"/api/v2/dependencies":                                             {404, "404 page not found", ""},
		"/api/v2/spans":                                                    {404, "404 page not found", ""},
		"/api/v1/spans":                                                    {404, "404 page not found", ""},
	} {
		w := ask(h, "GET", target, "")
		if w.Code != want.code || want.text != "" && strings.TrimSpace(w.Body.String()) != want.text {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
		if want.ids == "" {
			continue
		}
		found, err := ParseZipkin(w.Body.Bytes())
		if err != nil {
			t.Errorf("%s: %v", target, err)
		}
		if got := ids(found); got != want.ids {
			t.Errorf("%s: the traces are %s, not %s", target, got, want.ids)
		}
	}
}

func TestZipkinPost(t *testing.T) {
	const lists = " reading List<Span> from json"
	for body, want := range map[string]struct {
		code int
		text string
	}{
		``:                           {202, ""},
		`[]`:                         {202, ""},
		`[{"traceId":"a","id":"1"}]`: {202, ""},
		`[{"traceId":"a","id":"1","timestamp":-1,"unknown":{"a":[1]},"parentId":"0"}]`: {202, ""},
		`{}`:                          {400, "Expected a JSON_V2 encoded list"},
		`hello`:                       {400, "Expected a JSON_V2 encoded list"},
		`[{}]`:                        {400, "Missing : traceId" + lists},
		`[{"traceId":"a"}]`:           {400, "Missing : id" + lists},
		`[{"traceId":"0","id":"1"}]`:  {400, "traceId is all zeros" + lists},
		`[{"traceId":"a","id":"zz"}]`: {400, "zz should be lower-hex encoded with no prefix" + lists},
		`[{"traceId":"a","id":"11111111111111111"}]`: {400, "id.length > 16" + lists},
		`[{"traceId":"a","id":"1","kind":"X"}]`:      {400, "No enum constant zipkin2.Span.Kind.X" + lists},
		`[{"traceId":"a","id":"1"}`:                  {400, "EOF" + lists},
	} {
		b := New()
		w := ask(b.ZipkinHandler(), "POST", "/api/v2/spans", body)
		if w.Code != want.code || w.Body.String() != want.text {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
		if w.Code != 202 && b.Zipkin().Spans() != 0 {
			t.Errorf("%s: it was taken", body)
		}
	}
	for body, want := range map[string]string{
		"xx":               "Expected a PROTO3 encoded list",
		"\x0a\x02\x0a\x00": "Missing : traceId reading List<Span> from proto3",
		"[]":               "Expected a PROTO3 encoded list",
		"\x0a\x7f":         "Expected a PROTO3 encoded list",
		"\x0a\x02\x0a\x7f": "",
	} {
		w := ask(New().ZipkinHandler(), "POST", "/api/v2/spans", body, "Content-Type", "application/x-protobuf")
		if w.Code != 400 || !strings.HasPrefix(w.Body.String(), want) {
			t.Errorf("%q: %d %s", body, w.Code, w.Body)
		}
	}
}

func TestZipkinLeavesOutWhatMakesNoSense(t *testing.T) {
	h := New().ZipkinHandler()
	ask(h, "POST", "/api/v2/spans", `[{"traceId":"a","id":"1","parentId":"0","timestamp":-1,"duration":-1,"localEndpoint":{},"unknown":1}]`)
	if w := ask(h, "GET", "/api/v2/trace/a", ""); strings.TrimSpace(w.Body.String()) != `[{"traceId":"000000000000000a","id":"0000000000000001"}]` {
		t.Error(w.Body)
	}
}

func TestRequestsAreBounded(t *testing.T) {
	h := New().ZipkinHandler()
	var packed bytes.Buffer
	pack := gzip.NewWriter(&packed)
	pack.Write(make([]byte, maxBody+1))
	pack.Close()
	for name, w := range map[string]*httptest.ResponseRecorder{
		"a large body":   ask(h, "POST", "/api/v2/spans", strings.Repeat(" ", maxBody+1)),
		"a small packed": ask(h, "POST", "/api/v2/spans", packed.String(), "Content-Encoding", "gzip"),
	} {
		if w.Code != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	for name, w := range map[string]*httptest.ResponseRecorder{
		"many JSON spans":  ask(h, "POST", "/api/v2/spans", "["+strings.Repeat(`{"traceId":"a","id":"1"},`, maxSpans)+`{"traceId":"a","id":"1"}]`),
		"many proto spans": ask(h, "POST", "/api/v2/spans", strings.Repeat("\x0a\x00", maxSpans+1), "Content-Type", "application/x-protobuf"),
		"not gzip":         ask(h, "POST", "/api/v2/spans", "[]", "Content-Encoding", "gzip"),
	} {
		if w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		if strings.HasPrefix(name, "many") && w.Body.String() != errTooManySpans.Error() {
			t.Errorf("%s: %s", name, w.Body)
		}
	}
}

func TestOnlyThisMachineIsAnswered(t *testing.T) {
	b := filled(t)
	for _, h := range []http.Handler{b.JaegerHandler(), b.ZipkinHandler()} {
		for host, want := range map[string]int{
			"localhost": 200, "localhost:1": 200, "LOCALHOST:16686": 200, "127.0.0.1": 200, "127.0.0.1:9411": 200, "[::1]": 200, "[::1]:80": 200,
			"": 403, "evil.example": 403, "evil.example:16686": 403, "localhost.evil.example": 403, "127.0.0.1.evil.example": 403,
			"127.0.0.2": 403, "0.0.0.0:16686": 403, "192.168.0.1": 403, "localhost:x:y": 403,
		} {
			if w := ask(h, "GET", "/style.css", "", "Host", host); w.Code != want {
				t.Errorf("Host %q: %d", host, w.Code)
			}
		}
	}
	w := ask(b.ZipkinHandler(), "POST", "/api/v2/spans", "[]", "Sec-Fetch-Site", "cross-site")
	if w.Code != 403 {
		t.Errorf("a page of another site can post spans: %d", w.Code)
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

	changed := b.Jaeger().Changed()
	if _, err := export(t.Context(), ptraceotlp.NewExportRequestFromTraces(otlp(demo())), grpc.UseCompressor(grpcgzip.Name)); err != nil {
		t.Fatal(err)
	}
	<-changed
	if err := Match(demoShape, b.Jaeger().Traces()); err != nil {
		t.Error(err)
	}
	if got := b.Jaeger().Spans(); got != len(demo()) {
		t.Errorf("%d spans are counted, not %d", got, len(demo()))
	}

	bad := otlp(request(9, 1))
	bad.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).SetTraceID([16]byte{})
	bad.ResourceSpans().At(1).ScopeSpans().At(0).Spans().At(0).SetSpanID([8]byte{})
	response, err := export(t.Context(), ptraceotlp.NewExportRequestFromTraces(bad))
	if err != nil || response.PartialSuccess().RejectedSpans() != 2 {
		t.Errorf("%d spans without ids are rejected, %v", response.PartialSuccess().RejectedSpans(), err)
	}

	large := otlp(request(9, 1))
	large.ResourceSpans().At(0).Resource().Attributes().PutStr("large", strings.Repeat("x", maxMessage))
	if _, err = export(t.Context(), ptraceotlp.NewExportRequestFromTraces(large)); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a large message: %v", err)
	}
}

func FuzzZipkinPost(f *testing.F) {
	proto, text := zipkinBody(f, everything())
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
		shown(t, b.Zipkin().Traces(), h, "/api/v2/trace/", "/zipkin/traces/", "/zipkin/")
	})
}

func FuzzOTLP(f *testing.F) {
	body, err := ptraceotlp.NewExportRequestFromTraces(everything()).MarshalProto()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Fuzz(func(t *testing.T, body []byte) {
		request := ptraceotlp.NewExportRequest()
		if request.UnmarshalProto(body) != nil {
			return
		}
		b := New()
		if _, err := (&otlpService{store: b.jaeger}).Export(t.Context(), request); err != nil {
			t.Fatal(err)
		}
		shown(t, b.Jaeger().Traces(), b.JaegerHandler(), "/api/v3/traces/", "/trace/", "/")
	})
}

// shown looks at traces in every way that there is.
func shown(t *testing.T, all []*Trace, h http.Handler, api, page, list string) {
	t.Helper()
	if err := Match(Shape(all), all); err != nil && !strings.Contains(err.Error(), "stand in the text twice") {
		t.Fatal(err)
	}
	Missing(all)
	targets := []string{list}
	for _, tr := range all {
		if err := WriteTree(&bytes.Buffer{}, tr, TreeOptions{Width: 50}); err != nil {
			t.Fatal(err)
		}
		targets = append(targets, api+tr.ID, page+tr.ID)
	}
	for _, target := range targets {
		if w := ask(h, "GET", target, ""); w.Code != 200 {
			t.Fatalf("%s: %d %s", target, w.Code, w.Body)
		}
	}
}

func FuzzQueries(f *testing.F) {
	b := filled(f)
	jaeger, zipkin := b.JaegerHandler(), b.ZipkinHandler()
	f.Add("2", day+"query.service_name=worker")
	f.Add("xyz", "limit=2&annotationQuery=a%3Db+and+c&minDuration=1&maxDuration=2")
	f.Add("0", "service=client&min=1ms&errors=1&paused=1")
	f.Fuzz(func(t *testing.T, id, query string) {
		for path, h := range map[string]http.Handler{
			"/api/v3/traces/" + url.PathEscape(id): jaeger, "/api/v3/traces": jaeger, "/trace/" + url.PathEscape(id): jaeger, "/": jaeger,
			"/api/v2/trace/" + url.PathEscape(id): zipkin, "/api/v2/traces": zipkin, "/zipkin/traces/" + url.PathEscape(id): zipkin, "/zipkin/": zipkin,
		} {
			r := httptest.NewRequest("GET", path, nil)
			r.URL.RawQuery, r.Host = query, "localhost"
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			noDepth := w.Code == 500 && strings.Contains(w.Body.String(), "search depth")
			if !noDepth && !slices.Contains([]int{200, 301, 307, 400, 404}, w.Code) {
				t.Fatalf("%s?%s: %d %s", path, query, w.Code, w.Body)
			}
		}
	})
}
