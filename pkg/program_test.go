package pkg

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// A log pipeline looks for trace_id at the top level. Groups and attributes of the logger don't hide it.
func TestTheIDsStayOutsideOfGroups(t *testing.T) {
	log := captureLog(t)
	ctx, span := otel.Tracer("test").Start(t.Context(), "span")
	defer span.End()
	ids := "trace_id=" + span.SpanContext().TraceID().String() + " span_id=" + span.SpanContext().SpanID().String()
	parent := slog.With("a", 1).WithGroup("http").With("b", 2)
	parent.WithGroup("request").With("c", 3).InfoContext(ctx, "m", "d", 4)
	parent.InfoContext(ctx, "m", "e", 5)
	slog.InfoContext(ctx, "m", "f", 6)
	parent.Info("without a context")
	for _, want := range []string{ids + " a=1 http.b=2 http.request.c=3 http.request.d=4\n", ids + " a=1 http.b=2 http.e=5\n", ids + " f=6\n",
		"context\" a=1 http.b=2\n"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("logged\n%swant %s", log, want)
		}
	}
}

// noticing is a listener that says when it has accepted a connection, and when it is closed.
type noticing struct {
	net.Listener
	accepted, closed chan struct{} // with room for each event
}

func (l noticing) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted <- struct{}{}
	}
	return c, err
}

func (l noticing) Close() error {
	err := l.Listener.Close()
	l.closed <- struct{}{}
	return err
}

// A connection that was accepted gets its response, although its request arrives later than the signal.
func TestServeLetsWhatItAcceptedArrive(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := noticing{inner, make(chan struct{}, 1), make(chan struct{}, 9)}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, listener, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), 0)
	}()
	connection, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	<-listener.accepted
	io.WriteString(connection, "GET / HTTP/1.1\r\n")
	cancel()
	<-listener.closed
	time.Sleep(300 * time.Millisecond) // the sender is slow
	io.WriteString(connection, "Host: localhost\r\n\r\n")
	response, err := io.ReadAll(connection) // until the server closes it
	if err != nil || !strings.HasPrefix(string(response), "HTTP/1.1 200 OK\r\n") {
		t.Errorf("got %q, %v", response, err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// A request that is cut off ends before Serve returns, and so do its spans: tracing shuts down after that.
func TestServeWaitsForTheHandlersThatItCutsOff(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	begun := make(chan struct{})
	var cause error
	handler := otelhttp.NewHandler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		ctx, span := provider.Tracer("test").Start(r.Context(), "handle request")
		defer span.End()
		close(begun)
		cause = SimulateWork(ctx, time.Minute)
		time.Sleep(50 * time.Millisecond) // such as a rollback
	}), "", otelhttp.WithTracerProvider(provider))
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, listener, handler, time.Minute) }()
	go func() {
		if response, err := http.Get("http://" + listener.Addr().String() + "/hello"); err == nil {
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
	}()
	<-begun
	cancel()
	begin := time.Now()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if took, n := time.Since(begin), len(recorder.Ended()); n != 2 || took > 6*time.Second || cause != errCutOff {
		t.Errorf("after %v, %d of 2 spans had ended when Serve returned; the cause is %v", took, n, cause)
	}
}

// A handler that never returns doesn't keep the server from stopping.
func TestServeAbandonsAHandlerThatHangs(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := captureLog(t)
	begun, forever := make(chan struct{}), make(chan struct{})
	defer close(forever)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, listener, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(begun); <-forever }), 0)
	}()
	go http.Get("http://" + listener.Addr().String())
	<-begun
	cancel()
	select {
	case err := <-served:
		if err != nil || !strings.Contains(log.String(), "handlers don't return") {
			t.Errorf("Serve returned %v and logged %s", err, log)
		}
	case <-time.After(7 * time.Second):
		t.Error("Serve did not return within 7 s")
	}
}
