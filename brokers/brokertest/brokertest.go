// Package brokertest holds the tests that all brokers pass.
package brokertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"otel-demo/brokers/server"
)

// Handler has the type that each lesson calls Handler.
type Handler = func(ctx context.Context, task string) error

// Broker is what the tests need from a broker.
type Broker struct {
	System     string // messaging.system
	Publish    func(ctx context.Context, task string) error
	Receive    func(ctx context.Context, handle Handler) error
	Listening  func() bool // true once a message that is published now will be received
	Send       func(t *testing.T, headers []Header, body []byte)
	Published  string                          // the name of the producer's span
	Received   string                          // the name of the span between producer and process, if there is one
	Deliveries int                             // how often a message is delivered while its handler fails
	Keeps      bool                            // an unprocessed message stays for the next Receive
	First      bool                            // if a header occurs twice, the first one counts, otherwise the last
	Twice      bool                            // a header can occur twice
	Fail       func(t *testing.T, then func()) // calls then while the broker can't be reached
	Undecoded  []byte                          // a body that the lesson can't decode
	Server     *server.Server

	Created     string // the name of a span between the caller's and the producer's, if there is one
	Destination string // messaging.destination.name, if it isn't work
}

// Header is a message header, as a program in another language sends it.
type Header struct{ Key, Value string }

const (
	traceID     = "4bf92f3577b34da6a3ce929d0e0e4736"
	traceparent = "00-" + traceID + "-00f067aa0ba902b7-01"
	another     = "00-5bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
)

// Run runs the tests, each with a broker returned by start.
func Run(t *testing.T, start func(t *testing.T) Broker) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Broker)
	}{
		{"one whole trace", wholeTrace},
		{"headers of a program in another language", func(t *testing.T, b Broker) {
			continues(t, b, []Header{{"traceparent", traceparent}, {"baggage", "username=donuts"}})
		}},
		{"no headers", func(t *testing.T, b Broker) { startsATrace(t, b, nil) }},
		{"broken headers", func(t *testing.T, b Broker) {
			startsATrace(t, b, []Header{{"traceparent", "00-broken-01"}, {"baggage", "%"}})
		}},
		{"a header twice", headerTwice},
		{"a handler that fails", func(t *testing.T, b Broker) {
			failure(t, b, "no donuts left", "*errors.errorString", func() error { return errors.New("no donuts left") })
		}},
		{"a handler that panics", panics},
		{"a message that is given up", givenUp},
		{"a message that can't be decoded", undecodable},
		{"a publish that fails", failedPublish},
		{"SIGTERM with messages in flight", sigterm},
		{"a restart of the broker with messages in flight", restart},
		{"a broker that goes silent", silent},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.run(t, start(t))
		})
	}
}

func wholeTrace(t *testing.T, b Broker) {
	var username string
	stop := receive(t, b, func(ctx context.Context, task string) error {
		if task != "make donuts" {
			t.Errorf("received %q", task)
		}
		username = baggage.FromContext(ctx).Member("username").Value()
		return nil
	})
	member, _ := baggage.NewMemberRaw("username", "дональд; donuts=1")
	bag, _ := baggage.New(member)
	ctx, root := otel.Tracer("test").Start(baggage.ContextWithBaggage(t.Context(), bag), "root")
	if err := b.Publish(ctx, "make donuts"); err != nil {
		t.Fatal(err)
	}
	root.End()
	process := Named(t, "process work", 1)[0]
	stop()
	publish := Named(t, b.Published, 1)[0]
	parent := publish
	if b.Received != "" {
		parent = Named(t, b.Received, 1)[0]
		isChild(t, parent, publish)
	}
	created := publish
	if b.Created != "" {
		created = Named(t, b.Created, 1)[0]
		isChild(t, publish, created)
	}
	isChild(t, created, root.(sdktrace.ReadOnlySpan))
	isChild(t, process, parent)
	LinksTo(t, process, publish.SpanContext())
	if publish.SpanKind() != trace.SpanKindProducer || process.SpanKind() != trace.SpanKindConsumer {
		t.Errorf("the kinds are %v and %v, want producer and consumer", publish.SpanKind(), process.SpanKind())
	}
	if username != "дональд; donuts=1" {
		t.Errorf("the baggage arrived as %q", username)
	}
	for _, span := range []sdktrace.ReadOnlySpan{publish, process} {
		want := map[string]string{"messaging.system": b.System, "messaging.destination.name": cmp.Or(b.Destination, "work"), "server.address": "127.0.0.1"}
		if b.System == "kafka" { // a record doesn't say which of the brokers it comes from
			delete(want, "server.address")
		}
		for key, want := range want {
			if got := Attribute(span, key); got != want {
				t.Errorf("%s: %s is %q, want %q", span.Name(), key, got, want)
			}
		}
		if span.Status().Code != codes.Unset {
			t.Errorf("%s: the status is %v", span.Name(), span.Status())
		}
	}
	if name, kind := Attribute(process, "messaging.operation.name"), Attribute(process, "messaging.operation.type"); name != "process" || kind != "process" {
		t.Errorf("process work: the operation is %q of type %q", name, kind)
	}
}

// deliver sends a message as a program in another language would, and returns the span that processed it and the
// baggage that its handler found.
func deliver(t *testing.T, b Broker, headers []Header) (process sdktrace.ReadOnlySpan, username string) {
	t.Helper()
	stop := receive(t, b, func(ctx context.Context, _ string) error {
		username = baggage.FromContext(ctx).Member("username").Value()
		return nil
	})
	b.Send(t, headers, []byte("make donuts"))
	process = Named(t, "process work", 1)[0]
	stop()
	if b.Created != "" { // the producer's span is the one that extracts
		process = Named(t, b.Published, 1)[0]
	}
	return process, username
}

func continues(t *testing.T, b Broker, headers []Header) {
	process, username := deliver(t, b, headers)
	if got := process.SpanContext().TraceID().String(); got != traceID {
		t.Errorf("the trace is %s, want %s", got, traceID)
	}
	if links := process.Links(); len(links) != 1 || links[0].SpanContext.SpanID().String() != "00f067aa0ba902b7" {
		t.Errorf("the links are %v, want one to the producer", links)
	}
	if username != "donuts" {
		t.Errorf("the baggage is %q, want donuts", username)
	}
}

func startsATrace(t *testing.T, b Broker, headers []Header) {
	process, _ := deliver(t, b, headers)
	if b.Received == "" && process.Parent().IsValid() || len(process.Links()) > 0 {
		t.Errorf("the parent is %v and the links are %v, want none", process.Parent(), process.Links())
	}
	if process.SpanContext().TraceID().String() == traceID || process.Status().Code != codes.Unset {
		t.Errorf("the trace is %v, the status %v", process.SpanContext().TraceID(), process.Status())
	}
}

func headerTwice(t *testing.T, b Broker) {
	if !b.Twice {
		t.Skip("a header can't occur twice here")
	}
	headers := []Header{{"traceparent", traceparent}, {"traceparent", another}, {"baggage", "username=donuts"}}
	if !b.First {
		headers[0], headers[1] = headers[1], headers[0]
	}
	continues(t, b, headers)
}

// failure handles two messages and fails on the first. It returns the failed spans.
func failure(t *testing.T, b Broker, status, errorType string, fail func() error) []sdktrace.ReadOnlySpan {
	stop := receive(t, b, func(_ context.Context, task string) error {
		if task == "make coffee" {
			return fail()
		}
		return nil
	})
	for _, task := range []string{"make coffee", "make donuts"} {
		if err := b.Publish(t.Context(), task); err != nil {
			t.Fatal(err)
		}
	}
	spans := Named(t, "process work", b.Deliveries+1)
	stop()
	var failed []sdktrace.ReadOnlySpan
	for _, span := range spans {
		if span.Status().Code == codes.Error {
			failed = append(failed, span)
		}
	}
	if len(failed) != b.Deliveries {
		t.Fatalf("%d spans failed, want %d", len(failed), b.Deliveries)
	}
	for _, span := range failed {
		if got := Attribute(span, "error.type"); span.Status().Description != status || got != errorType {
			t.Errorf("the status is %+v with error.type=%q, want %q and %q", span.Status(), got, status, errorType)
		}
		LinksTo(t, span, Named(t, b.Published, 2)[0].SpanContext()) // each delivery links to the producer
	}
	return failed
}

// panics expects the stack in the log, with the ids of the failed span.
func panics(t *testing.T, b Broker) {
	for _, span := range failure(t, b, "panic: no donuts", "panic", func() error { panic("no donuts") }) {
		stacks := 0
		for _, line := range Lines("") {
			if line.Span.Equal(span.SpanContext()) && strings.Contains(line.Attributes["stack"], "brokertest.failure") {
				stacks++
			}
		}
		if stacks != 1 || len(span.Events()) > 0 {
			t.Errorf("%d lines have the stack, and the span has the events %v; want one line, and no event", stacks, span.Events())
		}
	}
}

// givenUp expects, for a message whose handler always fails, one line in the log and a failed span, both with the
// number of deliveries, and a link from the span to the producer.
func givenUp(t *testing.T, b Broker) {
	stop := receive(t, b, func(context.Context, string) error { return errors.New("no donuts left") })
	if err := b.Publish(t.Context(), "make donuts"); err != nil {
		t.Fatal(err)
	}
	Eventually(t, "line that says so", func() bool { return len(Lines("give up")) > 0 })
	stop()
	lines := Lines("give up")
	if len(lines) != 1 || lines[0].Attributes["deliveries"] != fmt.Sprint(b.Deliveries) {
		t.Fatalf("the lines are %v, want one with %d deliveries", lines, b.Deliveries)
	}
	producer := Named(t, b.Published, 1)[0].SpanContext()
	for _, span := range Spans.Ended() {
		if span.SpanContext().SpanID() != lines[0].Span.SpanID() {
			continue
		}
		LinksTo(t, span, producer)
		if span.Status().Code != codes.Error || Attribute(span, "error.type") == "" ||
			Attribute(span, "work.delivery_count") != fmt.Sprint(b.Deliveries) || span.SpanContext().TraceID() != producer.TraceID() {
			t.Errorf("%s: %v, %v; want an error and %d deliveries", span.Name(), span.Status(), span.Attributes(), b.Deliveries)
		}
		return
	}
	t.Error("the line has the ids of no span")
}

func undecodable(t *testing.T, b Broker) {
	stop := receive(t, b, func(_ context.Context, task string) error {
		if task != "make donuts" {
			t.Errorf("the handler got %q", task)
		}
		return nil
	})
	b.Send(t, []Header{{"traceparent", traceparent}}, b.Undecoded)
	b.Send(t, nil, []byte("make donuts"))
	Eventually(t, "a span that failed, and one that didn't", func() bool {
		failed, good := 0, 0
		for _, span := range named("process work") {
			if span.Status().Code == codes.Error && Attribute(span, "error.type") == "decode" &&
				span.SpanContext().TraceID().String() == traceID {
				failed++
			} else if span.Status().Code == codes.Unset {
				good++
			}
		}
		return failed > 0 && good == 1
	})
	stop()
}

func failedPublish(t *testing.T, b Broker) {
	b.Fail(t, func() {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if err := b.Publish(ctx, "make donuts"); err == nil {
			t.Error("Publish returned nil, though the broker can't be reached")
		}
	})
	span := Named(t, cmp.Or(b.Created, b.Published), 1)[0]
	if span.Status().Code != codes.Error || Attribute(span, "error.type") == "" {
		t.Errorf("the status is %+v with error.type=%q, want an error and its type", span.Status(), Attribute(span, "error.type"))
	}
}

// sigterm sends this process SIGTERM while the first of many messages is being processed. Each published message is
// processed once, though some may have to wait for the next worker.
func sigterm(t *testing.T, b Broker) {
	const messages = 200 // more than any worker takes at once
	ctx, ignore := signal.NotifyContext(t.Context(), syscall.SIGTERM)
	defer ignore()
	var mu sync.Mutex
	seen := map[string]int{}
	begun, release := make(chan struct{}, messages), make(chan struct{})
	handle := func(ctx context.Context, task string) error {
		begun <- struct{}{}
		<-release
		mu.Lock()
		defer mu.Unlock()
		seen[task]++
		return ctx.Err() // the message's context must outlive the signal
	}
	publish := func() {
		for i := range messages {
			if err := b.Publish(t.Context(), fmt.Sprint("task ", i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if b.Keeps { // so that a worker takes many in its first read
		publish()
	}
	done := make(chan error, 1)
	go func() { done <- b.Receive(ctx, handle) }()
	Eventually(t, "a listener", b.Listening)
	if !b.Keeps {
		publish()
	}
	<-begun
	self, _ := os.FindProcess(os.Getpid())
	if err := self.Signal(syscall.SIGTERM); err != nil {
		t.Skip("this system has no SIGTERM: ", err)
	}
	<-ctx.Done()
	close(release)
	if err := <-done; err != nil {
		t.Errorf("Receive returned %v", err)
	}
	first := len(named("process work"))
	if b.Keeps {
		stop := receive(t, b, handle)
		Named(t, "process work", messages)
		stop()
	}
	spans := Named(t, "process work", messages)
	if len(seen) != messages {
		t.Errorf("%d of %d messages were processed", len(seen), messages)
	}
	for _, span := range spans {
		if span.Status().Code != codes.Unset {
			t.Errorf("a message failed: %v", span.Status())
		}
	}
	t.Logf("%d of %d messages were processed before Receive returned, the rest by the next worker", first, messages)
}

// restart stops the broker while a message is being processed, and starts it again. The worker says so once, and goes
// on by itself. A broker that keeps messages loses none.
func restart(t *testing.T, b Broker) {
	if !b.Server.Restartable() {
		t.Skip("this server can't be started again")
	}
	const messages = 5
	var mu sync.Mutex
	seen := map[string]int{}
	begun, release := make(chan struct{}, 1000), make(chan struct{})
	stop := receive(t, b, func(_ context.Context, task string) error {
		begun <- struct{}{}
		<-release
		mu.Lock()
		defer mu.Unlock()
		seen[task]++
		return nil
	})
	for i := range messages {
		if err := b.Publish(t.Context(), fmt.Sprint("before ", i)); err != nil {
			t.Fatal(err)
		}
	}
	<-begun
	for range messages - 1 {
		if !b.Keeps { // what has been delivered must be done then
			<-begun
		}
	}
	b.Server.Stop()
	close(release)
	Eventually(t, "line that says that the broker is unreachable", func() bool { return len(Lines("unreachable")) > 0 })
	if err := b.Server.Start(); err != nil {
		t.Fatal(err)
	}
	recovered(t, b, func() bool {
		mu.Lock()
		defer mu.Unlock()
		for i := range messages {
			if seen[fmt.Sprint("before ", i)] == 0 {
				return false
			}
		}
		return seen["after"] > 0
	})
	stop()
	t.Logf("deliveries: %v", seen)
}

// silent makes the broker silent, with its connections open. Publish and the worker notice it, and the worker goes on
// once the broker responds again.
func silent(t *testing.T, b Broker) {
	var processed atomic.Int64
	stop := receive(t, b, func(context.Context, string) error { processed.Add(1); return nil })
	if err := b.Publish(t.Context(), "before"); err != nil {
		t.Fatal(err)
	}
	Named(t, "process work", 1)
	resume, err := b.Server.Pause()
	if errors.Is(err, errors.ErrUnsupported) {
		stop()
		t.Skip("this server can't be paused")
	} else if err != nil {
		t.Fatal(err)
	}
	defer resume()
	paused := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := b.Publish(ctx, "meanwhile"); err == nil {
		t.Error("Publish returned nil, though the broker is silent")
	} else if waited := time.Since(paused); waited > 45*time.Second {
		t.Errorf("Publish returned after %v, want at most 45 s", waited)
	} else {
		t.Logf("Publish returned after %v: %v", waited, err)
	}
	Eventually(t, "line that says that the broker is unreachable", func() bool { return len(Lines("unreachable")) > 0 })
	if noticed := time.Since(paused); noticed > 45*time.Second {
		t.Errorf("the worker has noticed it after %v, want at most 45 s", noticed)
	} else {
		t.Logf("the worker has noticed it after %v", noticed)
	}
	resume()
	before := processed.Load()
	recovered(t, b, func() bool { return processed.Load() > before })
	stop()
}

// recovered publishes until Publish succeeds, waits until all is done, and fails unless the log says once that the
// broker was unreachable, and once that it is back.
func recovered(t *testing.T, b Broker, done func() bool) {
	t.Helper()
	Eventually(t, "publish that succeeds", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return b.Listening() && b.Publish(ctx, "after") == nil
	})
	Eventually(t, "end of the work", done)
	Eventually(t, "second line, which says that the broker is back", func() bool { return len(Lines("is back")) > 1 })
	if lines := Lines("is back"); len(lines) != 2 || !strings.Contains(lines[0].Message, "is unreachable; trying again until it is back") {
		t.Errorf("the log has %v, want a line that says that the broker is unreachable, and one that it is back", lines)
	}
}

// receive starts Receive, and returns once messages will be received. stop stops it, and waits for those in progress.
func receive(t *testing.T, b Broker, handle Handler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Receive(ctx, handle) }()
	Eventually(t, "a listener", b.Listening)
	return sync.OnceFunc(func() {
		t.Helper()
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Receive returned %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("Receive did not return within 20 s")
		}
	})
}
