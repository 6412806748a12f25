package pkg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
)

// spans records the spans of all tests: a package's tracer stays on the first provider ever set.
var spans = tracetest.NewSpanRecorder()

func TestMain(m *testing.M) {
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	logging.Disable() // as Main does
	goleak.VerifyTestMain(m)
}

// start returns a Redis, and a broker on it.
func start(t *testing.T) (server *miniredis.Miniredis, broker *Broker) {
	t.Helper()
	spans.Reset()
	server = miniredis.RunT(t)
	broker, err := NewBroker(&redis.Options{Addr: server.Addr()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Close() })
	return server, broker
}

// receive starts Receive, and returns once messages will be received. stop stops it, and waits for those in progress.
func receive(t *testing.T, broker *Broker, handle Handler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- broker.Receive(ctx, handle) }()
	eventually(t, "a listener", func() bool { return broker.Ready(t.Context()) == nil })
	return func() {
		t.Helper()
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Receive returned %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("Receive did not return within 10 s")
		}
	}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("no %s within 10 s", what)
		}
	}
}

// named returns the only ended span with this name.
func named(t *testing.T, name string) sdktrace.ReadOnlySpan {
	t.Helper()
	var found []sdktrace.ReadOnlySpan
	for _, span := range spans.Ended() {
		if span.Name() == name {
			found = append(found, span)
		}
	}
	if len(found) != 1 {
		t.Fatalf("got %d spans %q, want 1", len(found), name)
	}
	return found[0]
}

func attributeOf(span sdktrace.ReadOnlySpan, key string) string {
	for _, attribute := range span.Attributes() {
		if string(attribute.Key) == key {
			return attribute.Value.String()
		}
	}
	return ""
}

// captureLog returns what is logged until the end of the test, as Main sets it up.
func captureLog(t *testing.T) *lockedBuffer {
	t.Helper()
	log, before := &lockedBuffer{}, slog.Default()
	slog.SetDefault(slog.New(newTraceHandler(slog.NewTextHandler(log, nil))))
	t.Cleanup(func() { slog.SetDefault(before) })
	return log
}

type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedBuffer) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(text)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func nothing(context.Context, Message) error { return nil }

func TestATraceCrossesTheBroker(t *testing.T) {
	_, broker := start(t)
	var got Message
	var username string
	stop := receive(t, broker, func(ctx context.Context, message Message) error {
		got = message
		username = baggage.FromContext(ctx).Member("username").Value()
		return nil
	})
	member, _ := baggage.NewMemberRaw("username", "дональд; donuts=1")
	bag, _ := baggage.New(member)
	ctx, root := otel.Tracer("test").Start(baggage.ContextWithBaggage(t.Context(), bag), "root")
	if err := broker.Publish(ctx, "hello, world"); err != nil {
		t.Fatal(err)
	}
	root.End()
	eventually(t, "process work", func() bool { return len(spans.Ended()) == 4 })
	stop()

	if got.Body != "hello, world" || username != "дональд; donuts=1" {
		t.Errorf("received body %q and username %q", got.Body, username)
	}
	publish, command, process := named(t, "publish work"), named(t, "publish"), named(t, "process work")
	for _, want := range []struct {
		span   sdktrace.ReadOnlySpan
		kind   trace.SpanKind
		parent trace.SpanContext
		remote bool
	}{
		{publish, trace.SpanKindProducer, root.SpanContext(), false},
		{command, trace.SpanKindClient, publish.SpanContext(), false},
		{process, trace.SpanKindConsumer, publish.SpanContext(), true},
	} {
		name := want.span.Name()
		if want.span.SpanKind() != want.kind {
			t.Errorf("%s has kind %v, want %v", name, want.span.SpanKind(), want.kind)
		}
		parent := want.span.Parent()
		if parent.SpanID() != want.parent.SpanID() || parent.TraceID() != want.parent.TraceID() || parent.IsRemote() != want.remote {
			t.Errorf("%s has the parent %v, want %v", name, parent, want.parent)
		}
		if want.span.Status().Code != codes.Unset {
			t.Errorf("%s has the status %v", name, want.span.Status())
		}
	}
	if links := process.Links(); len(links) != 1 || links[0].SpanContext.SpanID() != publish.SpanContext().SpanID() {
		t.Errorf("process work links to %v, want publish work", links)
	}
	if links := publish.Links(); len(links) != 0 {
		t.Errorf("publish work links to %v, want nothing", links)
	}
	for span, want := range map[sdktrace.ReadOnlySpan]map[string]string{
		publish: {"messaging.operation.name": "publish", "messaging.operation.type": "send"},
		process: {"messaging.operation.name": "process", "messaging.operation.type": "process"},
	} {
		want["messaging.system"] = "redis"
		want["messaging.destination.name"] = "work"
		want["messaging.message.id"] = got.ID
		want["messaging.message.body.size"] = "12"
		want["service.peer.name"] = "redis"
		for key, value := range want {
			if attributeOf(span, key) != value {
				t.Errorf("%s has %s=%q, want %q", span.Name(), key, attributeOf(span, key), value)
			}
		}
	}
	for _, attribute := range command.Attributes() {
		if strings.Contains(attribute.Value.String(), "hello, world") {
			t.Errorf("the command's span holds the payload, in %s", attribute.Key)
		}
	}
}

func TestProcessWorkCanStartATraceOfItsOwn(t *testing.T) {
	_, broker := start(t)
	broker.NewRoot = true
	stop := receive(t, broker, nothing)
	if err := broker.Publish(t.Context(), "hello"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "process work", func() bool { return len(spans.Ended()) == 3 })
	stop()
	publish, process := named(t, "publish work"), named(t, "process work")
	if process.Parent().IsValid() || process.SpanContext().TraceID() == publish.SpanContext().TraceID() {
		t.Error("process work is in the publisher's trace, want a new one")
	}
	if links := process.Links(); len(links) != 1 || links[0].SpanContext.SpanID() != publish.SpanContext().SpanID() {
		t.Errorf("process work links to %v, want publish work", links)
	}
}

func TestMessagesFromOtherProducers(t *testing.T) {
	const traceID, spanID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	tests := map[string]struct {
		payload  string
		trace    string // "" means a new one
		username string
	}{
		"headers in lower case": {
			payload:  `{"id":"1","headers":{"traceparent":"00-` + traceID + `-` + spanID + `-01","baggage":"username=donuts"},"body":"x"}`,
			trace:    traceID,
			username: "donuts",
		},
		"no headers":     {payload: `{"id":"1","body":"x"}`},
		"null headers":   {payload: `{"id":"1","headers":null,"body":"x"}`},
		"unknown fields": {payload: `{"id":"1","body":"x","more":[1]}`},
		"headers that aren't strings": {
			payload: `{"id":"1","headers":{"retry-count":3,"nested":{"a":[1]},"none":null,"traceparent":"00-` + traceID + `-` + spanID + `-01"},"body":"x"}`,
			trace:   traceID,
		},
		"headers that are no object": {payload: `{"id":"1","headers":"x","body":"x"}`},
		"a broken baggage": {
			payload: `{"id":"1","headers":{"traceparent":"00-` + traceID + `-` + spanID + `-01","baggage":"=;=,,\u0000"},"body":"x"}`,
			trace:   traceID,
		},
		"a broken traceparent":    {payload: `{"id":"1","headers":{"traceparent":"00-nonsense-01"},"body":"x"}`},
		"an enormous traceparent": {payload: `{"id":"1","headers":{"traceparent":"` + strings.Repeat("0", 50_000) + `"},"body":"x"}`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			server, broker := start(t)
			var username, body string
			stop := receive(t, broker, func(ctx context.Context, message Message) error {
				username, body = baggage.FromContext(ctx).Member("username").Value(), message.Body
				return nil
			})
			server.Publish(channel, test.payload)
			eventually(t, "process work", func() bool { return len(spans.Ended()) == 1 })
			stop()
			process := named(t, "process work")
			if process.Status().Code == codes.Error {
				t.Errorf("process work is an error: %v", process.Status())
			}
			if username != test.username || body != "x" {
				t.Errorf("username is %q and the body %q, want %q and x", username, body, test.username)
			}
			if test.trace == "" {
				if process.Parent().IsValid() || len(process.Links()) != 0 {
					t.Errorf("process work has the parent %v and links %v, want a new trace", process.Parent(), process.Links())
				}
			} else if process.Parent().TraceID().String() != test.trace || process.Parent().SpanID().String() != spanID {
				t.Errorf("process work has the parent %v, want the header's", process.Parent())
			}
		})
	}
}

func TestWhatCannotBeDecodedIsAFailedSpanAndSkipped(t *testing.T) {
	bad := map[string]string{
		"not JSON": "hello", "wrong types": `{"id":1,"headers":"x","body":[]}`, "no text as a body": `{"id":"1","body":7}`, "empty": "",
		"too long":     `{"body":"` + strings.Repeat("x", maxMessageSize) + `"}`,
		"deep nesting": strings.Repeat("[", 100_000), "NUL bytes": "\x00\x00",
	}
	for name, payload := range bad {
		t.Run(name, func(t *testing.T) {
			server, broker := start(t)
			stop := receive(t, broker, nothing)
			server.Publish(channel, payload)
			if err := broker.Publish(t.Context(), "good"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "second message", func() bool { return len(spans.Ended()) == 4 })
			stop()
			failed := 0
			for _, span := range spans.Ended() {
				if span.Status().Code == codes.Error {
					failed++
					if span.Name() != "process work" || !strings.Contains(span.Status().Description, "decode message") {
						t.Errorf("failed span %s: %v", span.Name(), span.Status())
					}
					for key, want := range map[string]string{
						"error.type": "undecodable", "messaging.system": "redis", "messaging.operation.name": "process",
					} {
						if got := attributeOf(span, key); got != want {
							t.Errorf("the failed span has %s=%q, want %q", key, got, want)
						}
					}
				}
			}
			if failed != 1 || broker.undecoded.Load() != 1 {
				t.Errorf("got %d failed spans and a count of %d, want 1 and 1", failed, broker.undecoded.Load())
			}
		})
	}
}

func TestManyBadMessagesMakeFewSpans(t *testing.T) {
	server, broker := start(t)
	stop := receive(t, broker, nothing)
	for range 1000 {
		server.Publish(channel, "bad")
	}
	eventually(t, "count of 1000", func() bool { return broker.undecoded.Load() == 1000 })
	stop()
	// One span a second. More than 20 seconds would be a failure of another kind.
	if n := len(spans.Ended()); n < 1 || n > 20 {
		t.Errorf("got %d spans for 1000 bad messages, want about 1 a second", n)
	}
}

func TestPublishFails(t *testing.T) {
	t.Run("nobody listens", func(t *testing.T) {
		_, broker := start(t)
		err := broker.Publish(t.Context(), "hello")
		if !errors.Is(err, ErrNoListener) {
			t.Errorf("got %v, want ErrNoListener", err)
		}
		if span := named(t, "publish work"); span.Status().Code != codes.Error || attributeOf(span, "error.type") != "no_listener" {
			t.Errorf("publish work has the status %v and error.type %q", span.Status(), attributeOf(span, "error.type"))
		}
		if err := broker.Ready(t.Context()); !errors.Is(err, ErrNoListener) {
			t.Errorf("Ready returned %v, want ErrNoListener", err)
		}
	})
	t.Run("Redis is down", func(t *testing.T) {
		server, broker := start(t)
		server.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		err := broker.Publish(ctx, "hello")
		if err == nil || errors.Is(err, ErrNoListener) {
			t.Errorf("got %v, want Redis's error", err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("Publish took %v, want at most 1 s", took)
		}
		if span := named(t, "publish work"); span.Status().Code != codes.Error || attributeOf(span, "error.type") == "" {
			t.Errorf("publish work has the status %v and error.type %q", span.Status(), attributeOf(span, "error.type"))
		}
		if err := broker.Ready(ctx); err == nil {
			t.Error("Ready returned nil")
		}
	})
}

func TestReceiveWaitsForRedis(t *testing.T) {
	server, broker := start(t)
	address := server.Addr()
	server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	received := make(chan string, 1)
	done := make(chan error, 1)
	go func() {
		done <- broker.Receive(ctx, func(_ context.Context, message Message) error { received <- message.Body; return nil })
	}()
	if err := server.StartAddr(address); err != nil {
		t.Fatal(err)
	}
	eventually(t, "listener", func() bool { return broker.Publish(ctx, "hello") == nil })
	select {
	case <-received:
	case <-time.After(10 * time.Second):
		t.Fatal("no message within 10 s")
	}
	cancel()
	<-done
}

func TestReceiveStopsWhileRedisIsDown(t *testing.T) {
	server, broker := start(t)
	server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- broker.Receive(ctx, nothing) }()
	cancel()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("Receive did not return within 5 s")
	}
}

func TestARefusedPasswordIsFinal(t *testing.T) {
	server, broker := start(t)
	server.RequireAuth("secret")
	err := broker.Receive(t.Context(), nothing)
	if !errors.Is(err, ErrRefused) || strings.Contains(err.Error(), "secret") {
		t.Errorf("Receive returned %v, want ErrRefused", err)
	}
	if err := broker.Ready(t.Context()); !errors.Is(err, ErrRefused) {
		t.Errorf("Ready returned %v, want ErrRefused", err)
	}
}

func TestStopFinishesWhatWasReceived(t *testing.T) {
	server, broker := start(t)
	release := make(chan struct{})
	var begun, finished atomic.Int32
	stop := receive(t, broker, func(context.Context, Message) error {
		begun.Add(1)
		<-release
		finished.Add(1)
		return nil
	})
	payload, _ := json.Marshal(Message{ID: "1", Body: "hello"})
	for range 130 { // 100 are processed at once, the others wait
		server.Publish(channel, string(payload))
	}
	eventually(t, "100 messages in progress", func() bool { return begun.Load() == 100 })
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	select {
	case <-stopped:
		t.Fatal("Receive returned before the messages were finished")
	case <-time.After(50 * time.Millisecond):
	}
	if begun.Load() != 100 {
		t.Errorf("%d messages are in progress, want at most 100", begun.Load())
	}
	close(release)
	<-stopped
	if finished.Load() != 130 {
		t.Errorf("%d messages were finished, want 130", finished.Load())
	}
	if n := server.Publish(channel, string(payload)); n != 0 {
		t.Errorf("%d still listen after the stop", n)
	}
}

func TestAHandlerThatFails(t *testing.T) {
	for name, handle := range map[string]Handler{
		"returns an error": func(context.Context, Message) error { return errors.New("no flour") },
		"panics":           func(context.Context, Message) error { panic("no flour") },
	} {
		t.Run(name, func(t *testing.T) {
			_, broker := start(t)
			log := captureLog(t)
			first := true
			stop := receive(t, broker, func(ctx context.Context, message Message) error {
				if first {
					first = false
					return handle(ctx, message)
				}
				return nil
			})
			if err := broker.Publish(t.Context(), "one"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "first message", func() bool { return len(spans.Ended()) == 3 })
			process := named(t, "process work")
			if process.Status().Code != codes.Error || !strings.Contains(process.Status().Description, "no flour") {
				t.Errorf("process work has the status %v, want the error", process.Status())
			}
			wantType := "*errors.errorString"
			if name == "panics" { // the stack is in the log, with the span's ids
				wantType = "panic"
				line := regexp.MustCompile(`.*stack=.*TestAHandlerThatFails.*`).FindString(log.String())
				if !strings.Contains(line, "trace_id="+process.SpanContext().TraceID().String()) {
					t.Errorf("logged\n%swant the stack and the trace id", log)
				}
			}
			if got := attributeOf(process, "error.type"); got != wantType || len(process.Events()) != 0 {
				t.Errorf("process work has error.type %q and %d events, want %q and none", got, len(process.Events()), wantType)
			}
			if err := broker.Publish(t.Context(), "two"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "second message", func() bool { return len(spans.Ended()) == 6 })
			stop()
		})
	}
}

// A handler that respects its context returns when time is up; one that doesn't is abandoned. Both spans are errors.
func TestHandlersThatHangAreCutOff(t *testing.T) {
	_, broker := start(t)
	var begun atomic.Int32
	forever := make(chan struct{})
	defer close(forever)
	stop := receive(t, broker, func(ctx context.Context, message Message) error {
		begun.Add(1)
		if message.Body == "deaf" {
			<-forever
		}
		<-ctx.Done()
		return context.Cause(ctx)
	})
	for _, body := range []string{"deaf", "good"} {
		if err := broker.Publish(t.Context(), body); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "two handlers", func() bool { return begun.Load() == 2 })
	begin := time.Now()
	stop()
	if took := time.Since(begin); took > finish+abandon+time.Second {
		t.Errorf("stopped after %v", took)
	}
	failed := 0
	for _, span := range spans.Ended() {
		if span.Name() == "process work" && span.Status().Code == codes.Error && attributeOf(span, "error.type") == "cut_off" {
			failed++
		}
	}
	if failed != 2 || broker.cutOff.Load() != 2 {
		t.Errorf("%d spans are errors of the type cut_off, and the count is %d, want 2 and 2", failed, broker.cutOff.Load())
	}
}

// Messages that wait for a slot behind handlers that hang are cut off too, and don't prolong the stop.
func TestMoreMessagesThanSlotsStopInTime(t *testing.T) {
	server, broker := start(t)
	var begun atomic.Int32
	forever := make(chan struct{})
	defer close(forever)
	stop := receive(t, broker, func(context.Context, Message) error { begun.Add(1); <-forever; return nil })
	for range 130 {
		server.Publish(channel, `{"id":"1","body":"hello"}`)
	}
	eventually(t, "100 messages in progress", func() bool { return begun.Load() == 100 })
	begin := time.Now()
	stop()
	if took := time.Since(begin); took > 5*time.Second+300*time.Millisecond || begun.Load() != 100 || broker.cutOff.Load() != 130 {
		t.Errorf("stopped after %v, %d of 130 had begun, %d are counted as cut off", took, begun.Load(), broker.cutOff.Load())
	}
}

// While all slots are taken, nothing is read, and go-redis replaces a lost connection by itself.
func TestALostSubscriptionIsLoggedEvenIfGoRedisReopensIt(t *testing.T) {
	server, broker := start(t)
	log := captureLog(t)
	release := make(chan struct{})
	var begun atomic.Int32
	stop := receive(t, broker, func(context.Context, Message) error { begun.Add(1); <-release; return nil })
	for range 110 {
		server.Publish(channel, `{"id":"1","body":"hello"}`)
	}
	eventually(t, "100 messages in progress", func() bool { return begun.Load() == 100 })
	server.Close()
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a new subscription", func() bool { return server.PubSubNumSub(channel)[channel] > 0 })
	close(release)
	eventually(t, "line in the log", func() bool { return strings.Contains(log.String(), "messages may have been missed") })
	stop()
}

// When Redis refuses the worker, Receive says so at once, and returns although a handler hangs.
func TestARefusalIsFinalThoughAHandlerHangs(t *testing.T) {
	server, broker := start(t)
	log := captureLog(t)
	done := make(chan error, 1)
	var begun atomic.Int32
	forever := make(chan struct{})
	defer close(forever)
	go func() {
		done <- broker.Receive(t.Context(), func(context.Context, Message) error { begun.Add(1); <-forever; return nil })
	}()
	eventually(t, "a listener", func() bool { return broker.Ready(t.Context()) == nil })
	server.Publish(channel, `{"id":"1","body":"hello"}`)
	eventually(t, "a message", func() bool { return begun.Load() == 1 })
	server.Close()
	server.RequireAuth("sesame")
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "line in the log", func() bool { return strings.Contains(log.String(), "Redis refuses") })
	select {
	case err := <-done:
		if !errors.Is(err, ErrRefused) {
			t.Errorf("Receive returned %v", err)
		}
	case <-time.After(6 * time.Second):
		t.Error("Receive did not return within 6 s")
	}
}

// NewBroker leaves its caller's options unchanged.
func TestNewBrokerLeavesItsOptionsAlone(t *testing.T) {
	options := &redis.Options{Addr: "localhost:6379"}
	broker, err := NewBroker(options)
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	if options.ContextTimeoutEnabled || options.MaxRetries != 0 || options.DisableIdentity {
		t.Errorf("the options are now %+v", options)
	}
}

func TestQuietRedis(t *testing.T) {
	server, broker := start(t)
	stop := receive(t, broker, nothing)
	server.Close() // connections break, and are reopened
	if err := broker.Ready(t.Context()); err == nil {
		t.Error("Ready returned nil without Redis")
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "listener", func() bool { return broker.Ready(t.Context()) == nil })
	stop()
	for _, span := range spans.Ended() {
		t.Errorf("an unneeded span: %s", span.Name())
	}
}

func FuzzDecodeMessage(f *testing.F) {
	payload, _ := json.Marshal(Message{ID: "1", Headers: propagation.MapCarrier{"traceparent": "00-0-0-01"}, Body: "x"})
	f.Add(string(payload))
	for _, seed := range []string{"", "null", "{}", `{"headers":{"baggage":"a=b"}}`, `[[`, "\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, payload string) {
		message, err := decodeMessage(payload)
		if err != nil {
			return
		}
		// What can be decoded can be processed.
		ctx := otel.GetTextMapPropagator().Extract(context.Background(), message.Headers)
		_ = fmt.Sprint(baggage.FromContext(ctx), trace.SpanContextFromContext(ctx))
	})
}
