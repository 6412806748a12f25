package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"otel-demo/pkg"
)

var spans = tracetest.NewSpanRecorder()

func TestMain(m *testing.M) {
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	logging.Disable() // as Main does
	goleak.VerifyTestMain(m)
}

// start returns a Redis, with a listener if listen is true, and the server's address. finish stops the server: a
// response can arrive before its span has ended.
func start(t *testing.T, listen bool) (redisServer *miniredis.Miniredis, url string, finish func()) {
	return startWith(t, listen, time.Millisecond)
}

func startWith(t *testing.T, listen bool, work time.Duration) (redisServer *miniredis.Miniredis, url string, finish func()) {
	t.Helper()
	spans.Reset()
	redisServer = miniredis.RunT(t)
	if listen {
		listener := redisServer.NewSubscriber()
		listener.Subscribe("work")
		t.Cleanup(listener.Close)
		go func() {
			for range listener.Messages() {
			}
		}()
	}
	broker, err := pkg.NewBroker(&redis.Options{Addr: redisServer.Addr()})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(newHandler(broker, work))
	t.Cleanup(func() { server.Close(); broker.Close() })
	return redisServer, server.URL, server.Close
}

func do(t *testing.T, ctx context.Context, client *http.Client, method, url string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

// tree returns the spans as lines: name, kind, error, each indented two spaces more than its parent.
func tree() string {
	children := map[trace.SpanID][]sdktrace.ReadOnlySpan{}
	known := map[trace.SpanID]bool{}
	for _, span := range spans.Ended() {
		known[span.SpanContext().SpanID()] = true
	}
	for _, span := range spans.Ended() {
		parent := span.Parent().SpanID()
		if !known[parent] {
			parent = trace.SpanID{}
		}
		children[parent] = append(children[parent], span)
	}
	var lines []string
	var write func(parent trace.SpanID, indent string)
	write = func(parent trace.SpanID, indent string) {
		for _, span := range children[parent] {
			line := fmt.Sprintf("%s%s %v", indent, span.Name(), span.SpanKind())
			if span.Status().Code == codes.Error {
				line += " error"
			}
			lines = append(lines, line)
			write(span.SpanContext().SpanID(), indent+"  ")
		}
	}
	write(trace.SpanID{}, "")
	return strings.Join(lines, "\n")
}

// wantErrorTypes checks the demo's own failed spans: each has an error.type, and none an exception event.
func wantErrorTypes(t *testing.T, want string) {
	t.Helper()
	for _, span := range spans.Ended() {
		if span.Name() != "handle request" && span.Name() != "publish work" {
			continue
		}
		got := ""
		for _, a := range span.Attributes() {
			if a.Key == "error.type" {
				got = a.Value.String()
			}
		}
		if got != want {
			t.Errorf("%s has error.type %q, want %q", span.Name(), got, want)
		}
		for _, event := range span.Events() {
			if event.Name == "exception" {
				t.Errorf("%s has an exception event", span.Name())
			}
		}
	}
}

func wantTree(t *testing.T, want string) {
	t.Helper()
	if got := tree(); got != want {
		t.Errorf("got the spans\n%s\n\nwant\n%s", got, want)
	}
}

func TestARequestIsOneTrace(t *testing.T) {
	_, url, finish := start(t, true)
	client := &http.Client{Transport: otelhttp.NewTransport(http.DefaultTransport)}
	member, _ := baggage.NewMemberRaw("username", "donuts")
	bag, _ := baggage.New(member)
	response, body := do(t, baggage.ContextWithBaggage(t.Context(), bag), client, http.MethodGet, url+"/hello")
	finish()
	if response.StatusCode != 200 || body != "hello, world\n" {
		t.Errorf("got %d %q", response.StatusCode, body)
	}
	wantTree(t, `HTTP GET client
  GET /hello server
    handle request internal
      publish work producer
        publish client`)
	for _, span := range spans.Ended() {
		if id := span.SpanContext().TraceID().String(); id != response.Header.Get("Trace-Id") {
			t.Errorf("%s is in the trace %s, want the header's, %s", span.Name(), id, response.Header.Get("Trace-Id"))
		}
		if span.Name() == "handle request" {
			event := span.Events()[0]
			if event.Name != "read baggage" || event.Attributes[0].Value.AsString() != "donuts" {
				t.Errorf("handle request has the event %v, want the baggage", event)
			}
		}
	}
}

func TestFailuresAre503AndErrors(t *testing.T) {
	const failed = `GET /hello server error
  handle request internal error
    publish work producer error
      publish client`
	t.Run("nobody listens", func(t *testing.T) {
		_, url, finish := start(t, false)
		response, body := do(t, t.Context(), http.DefaultClient, http.MethodGet, url+"/hello")
		health, reason := do(t, t.Context(), http.DefaultClient, http.MethodGet, url+"/healthz")
		finish()
		if response.StatusCode != 503 || body != "no worker is listening\n" {
			t.Errorf("/hello responds %d %q", response.StatusCode, body)
		}
		if health.StatusCode != 503 || reason != body {
			t.Errorf("/healthz responds %d %q", health.StatusCode, reason)
		}
		wantTree(t, failed)
		wantErrorTypes(t, "no_listener")
	})
	t.Run("Redis is down", func(t *testing.T) {
		redisServer, url, finish := start(t, true)
		address := redisServer.Addr()
		redisServer.Close()
		begin := time.Now()
		response, body := do(t, t.Context(), http.DefaultClient, http.MethodGet, url+"/hello")
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("/hello took %v, want at most 2 s", took)
		}
		health, reason := do(t, t.Context(), http.DefaultClient, http.MethodGet, url+"/healthz")
		finish()
		if response.StatusCode != 503 || body != "the message can't be published now\n" || strings.Contains(body, address) {
			t.Errorf("/hello responds %d %q", response.StatusCode, body)
		}
		if health.StatusCode != 503 || reason != body {
			t.Errorf("/healthz responds %d %q", health.StatusCode, reason)
		}
		wantTree(t, failed+" error")
		wantErrorTypes(t, "*net.OpError")
	})
}

// A caller that hangs up is not a broker outage: no span is an error, and the log says what happened.
func TestACallerThatHangsUpIsNoError(t *testing.T) {
	var log strings.Builder
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(before)
	_, url, finish := startWith(t, true, 10*time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		request, _ := http.NewRequestWithContext(ctx, http.MethodGet, url+"/hello", nil)
		_, err := http.DefaultClient.Do(request)
		ended <- err
	}()
	for end := time.Now().Add(10 * time.Second); len(spans.Started()) < 2; {
		if time.Now().After(end) {
			t.Fatal("no request within 10 s")
		}
	}
	begin := time.Now()
	cancel()
	<-ended
	finish() // waits for the handler
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the handler kept running for %v", took)
	}
	wantTree(t, "GET /hello server\n  handle request internal")
	if text := log.String(); !strings.Contains(text, `status=499`) || !strings.Contains(text, `result="the caller hung up"`) || strings.Contains(text, "503") {
		t.Errorf("logged %q", text)
	}
}

func TestRoutes(t *testing.T) {
	_, url, finish := start(t, true)
	for _, want := range []struct {
		method, path string
		status       int
	}{
		{http.MethodGet, "/healthz", 200},
		{http.MethodGet, "/", 404},
		{http.MethodGet, "/hello/x", 404},
		{http.MethodPost, "/hello", 405},
		{http.MethodDelete, "/healthz", 405},
	} {
		if response, _ := do(t, t.Context(), http.DefaultClient, want.method, url+want.path); response.StatusCode != want.status {
			t.Errorf("%s %s responds %d, want %d", want.method, want.path, response.StatusCode, want.status)
		}
	}
	finish()
	wantTree(t, "") // none of these has a span
}

func TestABrokenTraceparentStartsANewTrace(t *testing.T) {
	_, url, finish := start(t, true)
	request, _ := http.NewRequest(http.MethodGet, url+"/hello", nil)
	request.Header.Set("Traceparent", "00-nonsense")
	request.Header.Set("Baggage", strings.Repeat("a=b,", 1000)+";;=")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	finish()
	if response.StatusCode != 200 || response.Header.Get("Trace-Id") == "" {
		t.Errorf("got %d and the trace %q", response.StatusCode, response.Header.Get("Trace-Id"))
	}
}
