package pkg

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// agent receives OTLP over gRPC and HTTP, as the real one does.
type agent struct {
	coltracepb.UnimplementedTraceServiceServer
	grpc, http string // addresses
	respond    func() *coltracepb.ExportTraceServiceResponse
	mu         sync.Mutex
	received   []*tracepb.ResourceSpans
}

// startAgent starts an agent. With a certificate, it accepts only TLS.
func startAgent(t *testing.T, certificate *tls.Certificate) *agent {
	t.Helper()
	a := &agent{respond: func() *coltracepb.ExportTraceServiceResponse { return &coltracepb.ExportTraceServiceResponse{} }}
	var options []grpc.ServerOption
	web := httptest.NewUnstartedServer(http.HandlerFunc(a.post))
	if certificate != nil {
		options = append(options, grpc.Creds(credentials.NewServerTLSFromCert(certificate)))
		web.TLS = &tls.Config{Certificates: []tls.Certificate{*certificate}}
		web.StartTLS()
	} else {
		web.Start()
	}
	t.Cleanup(web.Close)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(options...)
	coltracepb.RegisterTraceServiceServer(server, a)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	a.grpc, a.http = listener.Addr().String(), web.Listener.Addr().String()
	return a
}

func (a *agent) Export(_ context.Context, request *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.received = append(a.received, request.ResourceSpans...)
	return a.respond(), nil
}

func (a *agent) post(w http.ResponseWriter, r *http.Request) {
	var request coltracepb.ExportTraceServiceRequest
	body, err := io.ReadAll(r.Body)
	if r.URL.Path != "/v1/traces" || r.Method != http.MethodPost {
		http.NotFound(w, r)
		return
	}
	if err = errors.Join(err, proto.Unmarshal(body, &request)); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	response, _ := a.Export(r.Context(), &request)
	encoded, _ := proto.Marshal(response)
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.Write(encoded)
}

func (a *agent) spans() (spans []*tracepb.Span) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, resource := range a.received {
		for _, scope := range resource.ScopeSpans {
			spans = append(spans, scope.Spans...)
		}
	}
	return spans
}

// over runs a test for each of OTLP's protocols, with the variables that lead to the agent.
func over(t *testing.T, test func(t *testing.T, a *agent)) {
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		t.Run(protocol, func(t *testing.T) {
			a := startAgent(t, nil)
			t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+map[string]string{"grpc": a.grpc, "http/protobuf": a.http}[protocol])
			test(t, a)
		})
	}
}

// newProvider returns a provider that exports as StartTracing's does. handled gets what otel.Handle gets.
func newProvider(t *testing.T, options ...sdktrace.TracerProviderOption) (provider *sdktrace.TracerProvider, handled func() string) {
	t.Helper()
	var mu sync.Mutex
	var errs []error
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, err)
	}))
	processor, err := newProcessor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return sdktrace.NewTracerProvider(append(options, sdktrace.WithSpanProcessor(processor))...), func() string {
		mu.Lock()
		defer mu.Unlock()
		return fmt.Sprint(errs)
	}
}

func end(provider *sdktrace.TracerProvider, n int) {
	for range n {
		_, span := provider.Tracer("test").Start(context.Background(), "span")
		span.End()
	}
}

// What OTLP calls a partial success is counted as such: with no span rejected, it is a warning.
func TestAPartialSuccessLosesWhatIsRejected(t *testing.T) {
	over(t, func(t *testing.T, a *agent) {
		for rejected, lost := range map[int64]int{0: 0, 1: 1, 100: 100, 1000: 100, -1: 0} {
			a.respond = func() *coltracepb.ExportTraceServiceResponse {
				return &coltracepb.ExportTraceServiceResponse{PartialSuccess: &coltracepb.ExportTracePartialSuccess{
					RejectedSpans: rejected, ErrorMessage: "attribute http.url is deprecated"}}
			}
			provider, handled := newProvider(t)
			end(provider, 100)
			err := provider.Shutdown(t.Context())
			if lost == 0 && err != nil || lost > 0 && !strings.Contains(fmt.Sprint(err), fmt.Sprintf("%d of 100 spans were lost", lost)) {
				t.Errorf("%d rejected: Shutdown returned %v, want %d lost", rejected, err, lost)
			}
			if !strings.Contains(handled(), "attribute http.url is deprecated") {
				t.Errorf("%d rejected: the message isn't reported: %s", rejected, handled())
			}
		}
	})
}

// A text that isn't UTF-8 can't be encoded. Wherever it is in a span, it is replaced, and no other span is lost.
func TestWhatIsNotUTF8CostsOnlyItself(t *testing.T) {
	const bad, good = "Caf\xe9/1.0", "Caf\uFFFD/1.0"
	over(t, func(t *testing.T, a *agent) {
		provider, handled := newProvider(t, sdktrace.WithResource(resource.NewSchemaless(attribute.String(bad, bad))))
		end(provider, 100)
		linked := trace.Link{SpanContext: trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}}),
			Attributes: []attribute.KeyValue{attribute.String(bad, bad)}}
		_, span := provider.Tracer(bad, trace.WithInstrumentationVersion(bad), trace.WithInstrumentationAttributes(attribute.String(bad, bad))).
			Start(t.Context(), bad, trace.WithLinks(linked), trace.WithAttributes(attribute.String(bad, bad), attribute.StringSlice("slice", []string{"fine", bad})))
		span.AddEvent(bad, trace.WithAttributes(attribute.String(bad, bad)))
		Fail(span, Error{bad, bad})
		span.End()
		if err := provider.Shutdown(t.Context()); err != nil || handled() != "[]" {
			t.Errorf("Shutdown returned %v, and %s was reported", err, handled())
		}
		if n := len(a.spans()); n != 101 {
			t.Fatalf("%d of 101 spans arrived", n)
		}
		var all strings.Builder
		for _, received := range a.received {
			all.WriteString(protojson.Format(received))
		}
		// Of the resource 2, the scope 4, the span 4 (name, attribute, slice), the event 3, the link 2, and the failure 2.
		if n := strings.Count(all.String(), good); n != 17 {
			t.Errorf("%d texts are %q, want 17: %s", n, good, all.String())
		}
	})
}

// The SDK truncates the values of a span's own attributes. Other texts may be just as long.
func TestLongTextsAreTruncated(t *testing.T) {
	over(t, func(t *testing.T, a *agent) {
		provider, _ := newProvider(t)
		long := strings.Repeat("ü", 50_000)
		_, span := provider.Tracer("test").Start(t.Context(), long)
		Fail(span, errors.New(long))
		span.AddEvent("event", trace.WithAttributes(attribute.String("text", long), attribute.StringSlice("texts", []string{long, "short"}),
			attribute.Int("number", 7)))
		span.End()
		if err := provider.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := a.spans()[0]
		values := got.Events[0].Attributes
		for what, text := range map[string]string{"name": got.Name, "status": got.Status.Message, "event": values[0].Value.GetStringValue(),
			"slice": values[1].Value.GetArrayValue().Values[0].GetStringValue()} {
			if text != long[:maxText] {
				t.Errorf("%s has %d bytes, want %d", what, len(text), maxText)
			}
		}
		if values[1].Value.GetArrayValue().Values[1].GetStringValue() != "short" || values[2].Value.GetIntValue() != 7 {
			t.Errorf("what was short has changed: %v", values)
		}
	})
}

// A user may want longer values than the SDK's limit is here.
func TestALimitThatTheUserRaisesHolds(t *testing.T) {
	before := maxText
	t.Cleanup(func() { maxText = before })
	t.Setenv("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "100000")
	maxText = 4 * max(1024, sdktrace.NewSpanLimits().AttributeValueLengthLimit) // as at the program's start
	over(t, func(t *testing.T, a *agent) {
		provider, _ := newProvider(t)
		_, span := provider.Tracer("test").Start(t.Context(), "span", trace.WithAttributes(attribute.String("text", strings.Repeat("x", 100_000))))
		span.End()
		if err := provider.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(a.spans()[0].Attributes[0].Value.GetStringValue()); n != 100_000 {
			t.Errorf("the value has %d bytes, want 100000", n)
		}
	})
}

// An agent that starts late gets everything, over either protocol.
func TestAnAgentThatStartsLateGetsAllSpans(t *testing.T) {
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		t.Run(protocol, func(t *testing.T) {
			reserved, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			address := reserved.Addr().String()
			reserved.Close()
			t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+address)
			provider, _ := newProvider(t)
			end(provider, 10)
			attempted := make(chan error, 1)
			go func() { attempted <- provider.ForceFlush(t.Context()) }()
			select {
			case err := <-attempted:
				t.Fatalf("gave up: %v", err)
			case <-time.After(1500 * time.Millisecond): // an attempt has failed by now
			}
			a := startAgent(t, nil)
			forward(t, address, map[string]string{"grpc": a.grpc, "http/protobuf": a.http}[protocol])
			if err := <-attempted; err != nil || len(a.spans()) != 10 {
				t.Errorf("flush returned %v, and %d of 10 spans arrived", err, len(a.spans()))
			}
			if err := provider.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// forward listens on an address, and forwards its connections to another.
func forward(t *testing.T, from, to string) {
	t.Helper()
	listener, err := net.Listen("tcp", from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				return
			}
			go func() { io.Copy(out, in); out.Close() }()
			go func() { io.Copy(in, out); in.Close() }()
		}
	}()
}

// Whoever copied tracer.go and batcher.go learns within 10 s why nothing arrives.
func TestFailedAttemptsAreReported(t *testing.T) {
	plain, secure := startAgent(t, nil), startAgent(t, certificate(t))
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "overloaded", http.StatusServiceUnavailable)
	}))
	t.Cleanup(busy.Close)
	var throttled atomic.Int32
	limited := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		throttled.Add(1)
		w.Header().Set("Retry-After", "20")
		http.Error(w, "slowly", http.StatusTooManyRequests)
	}))
	t.Cleanup(limited.Close)
	var mu sync.Mutex
	var lines []string
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, err.Error())
	}))
	t.Setenv("OTEL_BSP_EXPORT_TIMEOUT", "8000") // so that the test ends then
	wants := map[string]string{}                // the cause, by the endpoint that is named
	for _, test := range []struct{ protocol, endpoint, want string }{
		{"grpc", "http://" + nobody.Addr().String(), "connection refused"},
		{"grpc", "http://" + plain.http, "want gRPC's port, often 4317, not 4318"},
		{"grpc", "https://" + plain.grpc, "https in the endpoint, and plaintext at the other end"},
		{"grpc", "http://" + secure.grpc, "http in the endpoint, and perhaps TLS at the other end"},
		{"grpc", "http://no-such-host.invalid:4317", "no such host"},
		{"http/protobuf", "http://" + plain.grpc, "want HTTP's port, often 4318, not 4317"},
		{"http/protobuf", "https://" + plain.http, "server gave HTTP response to HTTPS client"},
		{"http/protobuf", "http://" + secure.http, "400 Bad Request"},
		{"http/protobuf", limited.URL, "max retry time would elapse: retry-able request failure: body: slowly"},
		{"http/protobuf", busy.URL, "retry-able request failure: body: overloaded"},
		{"http/protobuf", "http://" + plain.http + "/v1/traces", "404 Not Found"}, // the path, twice
	} {
		t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", test.protocol)
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", test.endpoint)
		processor, err := newProcessor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(processor))
		t.Cleanup(func() { provider.Shutdown(context.Background()) })
		wants["export to "+strings.TrimPrefix(test.endpoint, "http://")] = test.want
		end(provider, 1)
	}
	for endpoint, want := range wants {
		eventually(t, endpoint+" ... "+want, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, endpoint) && strings.Contains(line, want) })
		})
	}
	if n := throttled.Load(); n != 1 {
		t.Errorf("the server that asked for a pause of 20 s got %d requests", n)
	}
}

// certificate returns a certificate for 127.0.0.1 that is its own authority.
func certificate(t *testing.T) *tls.Certificate {
	t.Helper()
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	return &server.TLS.Certificates[0]
}

// The endpoint's scheme decides on TLS, whatever the other variables say.
func TestTheSchemeDecidesOnTLS(t *testing.T) {
	own := certificate(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate[0]}), 0o600); err != nil {
		t.Fatal(err)
	}
	plain, secure := startAgent(t, nil), startAgent(t, own)
	for _, test := range []struct {
		scheme string
		agent  *agent
		env    []string
	}{
		{"http", plain, nil},
		{"http", plain, []string{"INSECURE=true"}},
		{"http", plain, []string{"INSECURE=false"}},
		{"http", plain, []string{"CERTIFICATE=" + file}},
		{"https", secure, []string{"CERTIFICATE=" + file}},
		{"https", secure, []string{"CERTIFICATE=" + file, "INSECURE=true"}},
	} {
		for _, protocol := range []string{"grpc", "HTTP/protobuf"} {
			t.Run(fmt.Sprint(protocol, " ", test.scheme, " ", test.env), func(t *testing.T) {
				address := map[string]string{"grpc": test.agent.grpc, "HTTP/protobuf": test.agent.http}[protocol]
				t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
				t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", test.scheme+"://"+address)
				for _, setting := range test.env {
					name, value, _ := strings.Cut(setting, "=")
					t.Setenv("OTEL_EXPORTER_OTLP_"+name, value)
				}
				before := len(test.agent.spans())
				provider, handled := newProvider(t)
				end(provider, 1)
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				if err := provider.Shutdown(ctx); err != nil || len(test.agent.spans()) != before+1 {
					t.Errorf("the span didn't arrive: %v, %s", err, handled())
				}
			})
		}
	}
}

func TestTracesExporter(t *testing.T) {
	for value, arrive := range map[string]int{"": 1, "otlp": 1, "OTLP": 1, "none": 0, "zipkin": 1} {
		t.Run(value, func(t *testing.T) {
			a := startAgent(t, nil)
			t.Setenv("OTEL_TRACES_EXPORTER", value)
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+a.grpc)
			provider, handled := newProvider(t)
			end(provider, 1)
			if err := provider.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := len(a.spans()); n != arrive {
				t.Errorf("%d spans arrived, want %d", n, arrive)
			}
			if strings.Contains(handled(), "isn't read") != (value == "zipkin") {
				t.Errorf("reported %s", handled())
			}
		})
	}
}

// A malformed pair costs itself.
func TestAMalformedResourceAttributeIsLeftOut(t *testing.T) {
	for value, want := range map[string]string{"team=donuts,oops": "oops", "team=donuts,": "missing value"} {
		t.Setenv("OTEL_RESOURCE_ATTRIBUTES", value)
		var warned error
		otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { warned = err }))
		service := newResource(t.Context(), "test")
		if team, ok := service.Set().Value("team"); !ok || team.AsString() != "donuts" {
			t.Errorf("%s: the resource is %v", value, service)
		}
		if !strings.Contains(fmt.Sprint(warned), "OTEL_RESOURCE_ATTRIBUTES") || !strings.Contains(fmt.Sprint(warned), want) {
			t.Errorf("%s: warned %v", value, warned)
		}
	}
}

// By default, gRPC asks DNS for a service config before it connects, for localhost too.
func TestADNSServerThatDoesNotRespondDelaysNothing(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	before := net.DefaultResolver
	defer func() { net.DefaultResolver = before }()
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", silent.LocalAddr().String())
	}}
	a := startAgent(t, nil)
	_, port, _ := net.SplitHostPort(a.grpc)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:"+port)
	provider, handled := newProvider(t)
	end(provider, 12)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	if err := provider.Shutdown(ctx); err != nil || len(a.spans()) != 12 {
		t.Errorf("%d of 12 spans arrived; Shutdown returned %v; %s", len(a.spans()), err, handled())
	}
}
