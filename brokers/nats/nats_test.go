package nats

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"otel-demo/brokers/brokertest"
	"otel-demo/brokers/server"
)

func TestMain(m *testing.M) { brokertest.Main(m) }

// A connector starts a server, and returns a connection to it.
type connector func(t *testing.T) (*nats.Conn, *server.Server)

// on runs a test on each server.
func on(t *testing.T, test func(*testing.T, connector)) {
	brokertest.On(t, "nats", func(t *testing.T, start func(*testing.T) *server.Server) {
		test(t, func(t *testing.T) (*nats.Conn, *server.Server) {
			t.Helper()
			s := start(t)
			conn, err := Connect(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(conn.Close)
			return conn, s
		})
	})
}

func TestSuite(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		brokertest.Run(t, func(t *testing.T) brokertest.Broker {
			conn, s := connect(t)
			return brokertest.Broker{
				Server:    s,
				System:    "nats",
				Published: "publish work",
				Publish:   func(ctx context.Context, task string) error { return Publish(ctx, conn, task) },
				Receive: func(ctx context.Context, handle brokertest.Handler) error {
					return Receive(ctx, conn, handle)
				},
				Listening: func() bool { return conn.NumSubscriptions() > 0 },
				Send: func(t *testing.T, headers []brokertest.Header, body []byte) {
					message := &nats.Msg{Subject: "work", Data: body, Header: nats.Header{}}
					for _, header := range headers {
						message.Header.Add(header.Key, header.Value)
					}
					if err := conn.PublishMsg(message); err != nil {
						t.Fatal(err)
					}
				},
				Deliveries: 1,
				Twice:      true,
				First:      true,
				Undecoded:  []byte("\xff"),
				Fail: func(t *testing.T, then func()) {
					s.Stop()
					brokertest.Eventually(t, "lost connection", func() bool { return !conn.IsConnected() })
					then()
				},
			}
		})
	})
}

// The obvious carrier is OpenTelemetry's own, because its type fits.
func TestTrapHeadersAreCaseSensitive(t *testing.T) {
	const traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	fromAnotherLanguage := nats.Header{"traceparent": {traceparent}}
	extract := otel.GetTextMapPropagator().Extract

	obvious := extract(t.Context(), propagation.HeaderCarrier(fromAnotherLanguage))
	if trace.SpanContextFromContext(obvious).IsValid() {
		t.Error("HeaderCarrier finds traceparent: this is no longer a trap")
	}
	if lesson := extract(t.Context(), carrier(fromAnotherLanguage)); !trace.SpanContextFromContext(lesson).IsValid() {
		t.Error("the lesson's carrier does not find traceparent")
	}

	// Conversely, it writes a header that the other program doesn't find.
	ctx, span := otel.Tracer("test").Start(t.Context(), "root")
	defer span.End()
	written := nats.Header{}
	otel.GetTextMapPropagator().Inject(ctx, propagation.HeaderCarrier(written))
	if written.Get("traceparent") != "" || written.Get("Traceparent") == "" {
		t.Errorf("HeaderCarrier writes %v: this is no longer a trap", written)
	}
}

func TestTrapAMessageHasNoHeaders(t *testing.T) {
	ctx, span := otel.Tracer("test").Start(t.Context(), "root")
	defer span.End()
	defer func() {
		if recover() == nil {
			t.Error("Inject into a message without headers doesn't panic: this is no longer a trap")
		}
	}()
	message := &nats.Msg{Subject: "work"}
	otel.GetTextMapPropagator().Inject(ctx, carrier(message.Header))
}

func TestTrapPublishOnlyBuffers(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		conn, s := connect(t)
		s.Stop()
		brokertest.Eventually(t, "lost connection", func() bool { return !conn.IsConnected() })
		if err := conn.PublishMsg(nats.NewMsg("work")); err != nil {
			t.Errorf("without a server, PublishMsg returns %v: this is no longer a trap", err)
		}
		if err := Publish(t.Context(), conn, "make donuts"); err == nil {
			t.Error("without a server, the lesson's Publish returns nil")
		}
		if span := brokertest.Named(t, "publish work", 1)[0]; span.Status().Code != codes.Error {
			t.Errorf("the span's status is %v", span.Status())
		}
	})
}

// A program that starts before its server has no connection yet. It doesn't know then whether the server takes headers.
func TestTrapPublishBeforeTheFirstConnection(t *testing.T) {
	conn, err := nats.Connect("nats://127.0.0.1:1", nats.RetryOnFailedConnect(true))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	message := nats.NewMsg("work")
	if err := conn.PublishMsg(message); err != nil {
		t.Errorf("a message without headers: %v", err)
	}
	message.Header.Set("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	if err := conn.PublishMsg(message); err == nil || err.Error() != "nats: headers not supported by this server" {
		t.Errorf("a message with headers: %v: this is no longer a trap", err)
	}
}

func TestTrapAMessageWithoutAWorkerIsDropped(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		conn, _ := connect(t)
		if err := Publish(t.Context(), conn, "make donuts"); err != nil {
			t.Errorf("without a worker, Publish returns %v: this is no longer a trap", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- Receive(ctx, conn, func(_ context.Context, task string) error {
				if task == "make donuts" {
					t.Error("the message waited for the worker: this is no longer a trap")
				}
				cancel()
				return nil
			})
		}()
		brokertest.Eventually(t, "listener", func() bool { return conn.NumSubscriptions() > 0 })
		if err := Publish(t.Context(), conn, "make coffee"); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// The client's queue has room for one message. What it drops has no headers left, so its span has no link.
func TestAFullQueueShowsWhatIsDropped(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		conn, _ := connect(t)
		conn.Opts.SubChanLen = 1
		ctx, cancel := context.WithCancel(t.Context())
		done, release := make(chan error), make(chan struct{})
		go func() { done <- Receive(ctx, conn, func(context.Context, string) error { <-release; return nil }) }()
		brokertest.Eventually(t, "listener", func() bool { return conn.NumSubscriptions() > 0 })
		for range 200 { // 100 are handled at once
			if err := Publish(t.Context(), conn, "make donuts"); err != nil {
				t.Fatal(err)
			}
		}
		close(release)
		brokertest.Eventually(t, "line", func() bool { return len(brokertest.Lines("give up messages")) > 0 })
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		lines := brokertest.Lines("give up messages") // one each time that the queue begins to overflow
		spans := map[trace.SpanID]bool{}
		for _, span := range brokertest.Spans.Ended() {
			if span.Name() == "receive work" && span.Status().Code == codes.Error && brokertest.Attribute(span, "error.type") == "slow_consumer" {
				spans[span.SpanContext().SpanID()] = true
			}
		}
		for _, line := range lines {
			if dropped, _ := strconv.Atoi(line.Attributes["so far"]); dropped == 0 || !spans[line.Span.SpanID()] {
				t.Errorf("the line is %v, which has no failed span, or no number", line)
			}
		}
		if len(spans) != len(lines) {
			t.Errorf("%d spans and %d lines", len(spans), len(lines))
		}
	})
}

// Two messages whose handlers each wait for the other to begin.
func TestTrapCallbacksRunOneAtATime(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		conn, _ := connect(t)
		both := func(subscribe func(handle func())) bool {
			return brokertest.Together(subscribe, func() {
				if err := Publish(t.Context(), conn, "make donuts"); err != nil {
					t.Fatal(err)
				}
			})
		}

		var obvious *nats.Subscription
		if both(func(handle func()) {
			var err error
			if obvious, err = conn.QueueSubscribe("work", "workers", func(*nats.Msg) { handle() }); err != nil {
				t.Fatal(err)
			}
		}) {
			t.Error("two callbacks run at once: this is no longer a trap")
		}
		obvious.Unsubscribe()

		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		if !both(func(handle func()) {
			go func() {
				done <- Receive(ctx, conn, func(context.Context, string) error { handle(); return nil })
			}()
			brokertest.Eventually(t, "listener", func() bool { return conn.NumSubscriptions() > 0 })
		}) {
			t.Error("the lesson's Receive handles one message at a time")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// What the lesson's last paragraph says about JetStream.
func TestJetStreamDeliversAgainWithTheSameHeaders(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		conn, _ := connect(t)
		js, err := jetstream.New(conn)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "WORK", Subjects: []string{"work"}})
		if err != nil {
			t.Fatal(err)
		}
		consumer, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{
			AckPolicy: jetstream.AckExplicitPolicy, AckWait: 50 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if err := Publish(t.Context(), conn, "make donuts"); err != nil {
			t.Fatal(err)
		}
		publish := brokertest.Named(t, "publish work", 1)[0].SpanContext()
		for delivery := uint64(1); delivery <= 2; delivery++ {
			message, err := consumer.Next(jetstream.FetchMaxWait(10 * time.Second)) // never acknowledged
			if err != nil {
				t.Fatal(err)
			}
			metadata, err := message.Metadata()
			if err != nil || metadata.NumDelivered != delivery {
				t.Errorf("delivery %d is number %d, %v", delivery, metadata.NumDelivered, err)
			}
			ctx := otel.GetTextMapPropagator().Extract(t.Context(), carrier(message.Headers()))
			if got := trace.SpanContextFromContext(ctx); got.SpanID() != publish.SpanID() {
				t.Errorf("delivery %d comes from %v, want %v", delivery, got, publish)
			}
		}
	})
}
