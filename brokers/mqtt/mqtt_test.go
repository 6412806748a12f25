package mqtt

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"

	"otel-demo/brokers/brokertest"
	"otel-demo/brokers/server"
	"otel-demo/pkg"
)

func TestMain(m *testing.M) { brokertest.Main(m) }

// on runs a test on each broker. connect starts one, and returns a connection that publishes.
func on(t *testing.T, test func(t *testing.T, connect func(t *testing.T) (*Conn, *server.Server))) {
	brokertest.On(t, "mqtt", func(t *testing.T, start func(*testing.T) *server.Server) {
		test(t, func(t *testing.T) (*Conn, *server.Server) {
			t.Helper()
			s := start(t)
			return publisher(t, s.URL), s
		})
	})
}

func publisher(t *testing.T, url string) *Conn {
	t.Helper()
	conn, err := Connect(t.Context(), url, "publisher")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// client returns a connected client of paho's own, for the obvious code.
func client(t *testing.T, server, clientID string, callback func(paho.PublishReceived) (bool, error), subscriptions ...paho.SubscribeOptions) *paho.Client {
	t.Helper()
	address, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", address.Host)
	if err != nil {
		t.Fatal(err)
	}
	c := paho.NewClient(paho.ClientConfig{Conn: conn, OnPublishReceived: []func(paho.PublishReceived) (bool, error){callback}})
	if _, err := c.Connect(t.Context(), &paho.Connect{ClientID: clientID, KeepAlive: 15, Properties: &paho.ConnectProperties{
		SessionExpiryInterval: paho.Uint32(3600), RequestProblemInfo: clientID != "obvious"}}); err != nil {
		t.Fatal(err)
	}
	if len(subscriptions) > 0 {
		if _, err := c.Subscribe(t.Context(), &paho.Subscribe{Subscriptions: subscriptions}); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { c.Disconnect(&paho.Disconnect{}) })
	return c
}

// worker joins, and receives until stop is called.
func worker(t *testing.T, url string, handle Handler) (stop func()) {
	t.Helper()
	conn, err := Join(t.Context(), url, "worker")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Receive(ctx, conn, handle) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	<-conn.Subscribed()
	return stop
}

func TestSuite(t *testing.T) {
	on(t, func(t *testing.T, connect func(*testing.T) (*Conn, *server.Server)) {
		brokertest.Run(t, func(t *testing.T) brokertest.Broker {
			conn, s := connect(t)
			worker(t, s.URL, nil)() // from now on, the broker keeps messages for it
			var joined atomic.Bool
			return brokertest.Broker{
				System:      "mqtt",
				Destination: "work/17",
				Published:   "publish work",
				Publish:     func(ctx context.Context, task string) error { return Publish(ctx, conn, "17", task, false) },
				Receive: func(ctx context.Context, handle brokertest.Handler) error {
					conn, err := Join(ctx, s.URL, "worker")
					if err != nil {
						return err
					}
					joined.Store(true)
					return Receive(ctx, conn, handle)
				},
				Listening: func() bool { return joined.Load() },
				Send: func(t *testing.T, headers []brokertest.Header, body []byte) {
					message := &paho.Publish{Topic: "work/17", QoS: 1, Payload: body, Properties: &paho.PublishProperties{}}
					for _, header := range headers {
						message.Properties.User.Add(header.Key, header.Value)
					}
					if _, err := conn.Publish(t.Context(), message); err != nil {
						t.Fatal(err)
					}
				},
				Deliveries: 1,
				Keeps:      true,
				Twice:      true,
				First:      true,
				Undecoded:  []byte("\xff"),
				Fail:       func(t *testing.T, then func()) { s.Stop(); then() },
				Server:     s,
			}
		})
	})
}

// list is the obvious carrier for a list.
type list paho.UserProperties

func (l list) Get(key string) string { return paho.UserProperties(l).Get(key) }
func (l list) Set(key, value string) { l = append(l, paho.UserProperty{Key: key, Value: value}); _ = l }
func (l list) Keys() []string        { return nil }

func TestTrapAListWithAValueReceiver(t *testing.T) {
	ctx, span := otel.Tracer("test").Start(t.Context(), "root")
	defer span.End()
	message := &paho.Publish{Properties: &paho.PublishProperties{}}
	otel.GetTextMapPropagator().Inject(ctx, list(message.Properties.User))
	if len(message.Properties.User) > 0 {
		t.Error("the message has the context: this is no longer a trap")
	}
	for range 2 { // Set replaces
		otel.GetTextMapPropagator().Inject(ctx, carrier{message.Properties})
	}
	if want := span.SpanContext().TraceID().String(); len(message.Properties.User) != 1 || !strings.Contains(message.Properties.User.Get("traceparent"), want) {
		t.Errorf("the properties are %v, want one traceparent", message.Properties.User)
	}
}

func TestTrapAMessageHasNoProperties(t *testing.T) {
	ctx, span := otel.Tracer("test").Start(t.Context(), "root")
	defer span.End()
	defer func() {
		if recover() == nil {
			t.Error("Inject into a message without properties doesn't panic: this is no longer a trap")
		}
	}()
	message := &paho.Publish{Topic: "work/17"}
	otel.GetTextMapPropagator().Inject(ctx, carrier{message.Properties})
}

// The obvious name of a span is `publish` and the topic.
func TestTrapATopicHoldsAnId(t *testing.T) {
	on(t, func(t *testing.T, connect func(*testing.T) (*Conn, *server.Server)) {
		conn, s := connect(t)
		worker(t, s.URL, func(context.Context, string) error { return nil })
		for _, kitchen := range []string{"17", "18", "19"} {
			if err := Publish(t.Context(), conn, kitchen, "make donuts", false); err != nil {
				t.Fatal(err)
			}
		}
		brokertest.Named(t, "process work", 3)
		obvious, lesson := map[string]bool{}, map[string]bool{}
		for _, span := range brokertest.Spans.Ended() {
			name, _, _ := strings.Cut(span.Name(), " ")
			obvious[name+" "+brokertest.Attribute(span, "messaging.destination.name")] = true
			lesson[span.Name()] = true
			if got := brokertest.Attribute(span, "messaging.destination.template"); got != "work/{kitchen}" {
				t.Errorf("the template is %q", got)
			}
			if brokertest.Attribute(span, "server.address") != "127.0.0.1" || !strings.HasSuffix(s.URL, ":"+brokertest.Attribute(span, "server.port")) {
				t.Errorf("the server is %q, want %s", brokertest.Attribute(span, "server.address"), s.URL)
			}
		}
		if len(obvious) != 6 || len(lesson) != 2 || !lesson["publish work/{kitchen}"] || !lesson["process work/{kitchen}"] {
			t.Errorf("the names would be %v and are %v, want 6 and 2", obvious, lesson)
		}
	})
}

// A retained message is published, and somebody subscribes later. The obvious span joins the old trace.
func TestTrapARetainedMessageJoinsAnOldTrace(t *testing.T) {
	on(t, func(t *testing.T, connect func(*testing.T) (*Conn, *server.Server)) {
		conn, s := connect(t)
		if err := Publish(t.Context(), conn, "17", "make donuts", true); err != nil {
			t.Fatal(err)
		}
		producer := brokertest.Named(t, "publish work", 1)[0].SpanContext()

		received := make(chan *paho.Publish, 9)
		client(t, s.URL, "subscriber", func(r paho.PublishReceived) (bool, error) { received <- r.Packet; return true, nil },
			paho.SubscribeOptions{Topic: filter, QoS: 1})
		message := <-received
		_, obvious := tracer.Start(otel.GetTextMapPropagator().Extract(t.Context(), carrier{message.Properties}), "obvious")
		if obvious.SpanContext().TraceID() != producer.TraceID() {
			t.Error("the obvious span is in a new trace: this is no longer a trap")
		}

		for count := range 2 { // each subscriber gets it once, also when it connects again
			stop := worker(t, s.URL, func(context.Context, string) error { return nil })
			process := brokertest.Named(t, "process work", 1)[0]
			stop()
			brokertest.LinksTo(t, process, producer)
			if process.Parent().IsValid() || process.SpanContext().TraceID() == producer.TraceID() {
				t.Errorf("%d: the span isn't the root of a new trace", count)
			}
		}
		// A message that is published now is not an old one, though it is retained.
		worker(t, s.URL, func(context.Context, string) error { return nil })
		if err := Publish(t.Context(), conn, "17", "make coffee", true); err != nil {
			t.Fatal(err)
		}
		process := brokertest.Named(t, "process work", 2)[1]
		if producer := brokertest.Named(t, "publish work", 2)[1].SpanContext(); process.Parent().SpanID() != producer.SpanID() {
			t.Error("the span of a new message isn't a child of its producer's")
		}
	})
}

func TestTrapQoS1WithoutASubscriber(t *testing.T) {
	on(t, func(t *testing.T, connect func(*testing.T) (*Conn, *server.Server)) {
		conn, s := connect(t)
		obvious := client(t, s.URL, "obvious", func(paho.PublishReceived) (bool, error) { return true, nil })
		if _, err := obvious.Publish(t.Context(), &paho.Publish{Topic: "work/17", QoS: 1}); err != nil {
			t.Errorf("the client returns %v: this is no longer a trap", err)
		}
		err := Publish(t.Context(), conn, "17", "make donuts", false)
		status := brokertest.Named(t, "publish work", 1)[0].Status().Code
		if _, says := errors.AsType[pkg.Error](err); says != (status == codes.Error) || says != strings.Contains(t.Name(), "mosquitto") {
			t.Errorf("%v, and the status is %v; want an error from mosquitto, and none from mochi, which doesn't tell", err, status)
		}
	})
}

// With a session, the obvious properties of a CONNECT packet say that the client wants no information about problems.
// From this, mochi concludes that it wants no user properties either.
func TestTrapNoProblemInformationMeansNoUserProperties(t *testing.T) {
	on(t, func(t *testing.T, connect func(*testing.T) (*Conn, *server.Server)) {
		conn, s := connect(t)
		received := make(chan *paho.Publish, 1)
		client(t, s.URL, "obvious", func(r paho.PublishReceived) (bool, error) { received <- r.Packet; return true, nil },
			paho.SubscribeOptions{Topic: filter, QoS: 1})
		if err := Publish(t.Context(), conn, "17", "make donuts", false); err != nil {
			t.Fatal(err)
		}
		if message := <-received; (message.Properties.User.Get("traceparent") == "") != strings.Contains(t.Name(), "mochi") {
			t.Errorf("the properties are %v; want none from mochi, and traceparent from mosquitto", message.Properties.User)
		}
		// The suite shows that the lesson's worker gets them from both.
	})
}

// A subscriber that speaks MQTT 3.1.1 gets the message without its user properties. An envelope arrives.
func TestTrapMQTT311HasNoUserProperties(t *testing.T) {
	on(t, func(t *testing.T, connect func(*testing.T) (*Conn, *server.Server)) {
		conn, s := connect(t)
		old, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "mqtt://"))
		if err != nil {
			t.Fatal(err)
		}
		defer old.Close()
		old.SetDeadline(time.Now().Add(10 * time.Second))
		old.Write([]byte("\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03old"))                // CONNECT, version 4
		old.Write([]byte("\x82\x0b\x00\x01\x00\x06work/+\x00"))                             // SUBSCRIBE with QoS 0
		if _, err := io.ReadFull(old, make([]byte, len("CONN")+len("SUBAC"))); err != nil { // CONNACK and SUBACK
			t.Fatal(err)
		}
		receive := func() string {
			header := make([]byte, 2)
			if _, err := io.ReadFull(old, header); err != nil || header[1] > 127 {
				t.Fatal(err, header)
			}
			packet := make([]byte, header[1])
			if _, err := io.ReadFull(old, packet); err != nil {
				t.Fatal(err)
			}
			return string(packet)
		}
		if err := Publish(t.Context(), conn, "17", "make donuts", false); err != nil {
			t.Fatal(err)
		}
		if packet := receive(); packet != "\x00\x07work/17make donuts" {
			t.Errorf("the packet is %q: this is no longer a trap", packet)
		}
		ctx, span := otel.Tracer("test").Start(t.Context(), "root")
		defer span.End()
		envelope := pkg.Message{Headers: propagation.MapCarrier{}, Body: "donut"}
		propagation.TraceContext{}.Inject(ctx, envelope.Headers)
		payload, _ := json.Marshal(envelope)
		if err := Publish(ctx, conn, "17", string(payload), false); err != nil {
			t.Fatal(err)
		}
		if packet := receive(); !strings.Contains(packet, span.SpanContext().TraceID().String()) {
			t.Errorf("the packet is %q, want the trace id in it", packet)
		}
	})
}

// A connection is lost while a message is being processed. The broker delivers the message again, and the span of the
// second delivery says so, and links to the same producer.
func TestEachDeliveryLinksToTheProducer(t *testing.T) {
	on(t, func(t *testing.T, connect func(*testing.T) (*Conn, *server.Server)) {
		conn, s := connect(t)
		joined, err := Join(t.Context(), s.URL, "worker")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		begun, done := make(chan struct{}, 9), make(chan error, 1)
		go func() {
			done <- Receive(ctx, joined, func(context.Context, string) error { begun <- struct{}{}; <-ctx.Done(); return nil })
		}()
		<-joined.Subscribed()
		if err := Publish(t.Context(), conn, "17", "make donuts", false); err != nil {
			t.Fatal(err)
		}
		<-begun
		joined.TerminateConnectionForTest()
		<-begun
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		counts := map[string]bool{}
		for _, process := range brokertest.Named(t, "process work", 2) {
			brokertest.LinksTo(t, process, brokertest.Named(t, "publish work", 1)[0].SpanContext())
			counts[brokertest.Attribute(process, "work.delivery_count")] = true
		}
		if !counts["1"] || !counts["2"] {
			t.Errorf("the delivery counts are %v, want 1 and 2", counts)
		}
	})
}

// Two messages, whose handlers each wait for the other to begin.
func TestTrapCallbacksRunOneAtATime(t *testing.T) {
	on(t, func(t *testing.T, connect func(*testing.T) (*Conn, *server.Server)) {
		conn, s := connect(t)
		both := func(subscribe func(handle func())) bool {
			return brokertest.Together(subscribe, func() {
				if err := Publish(t.Context(), conn, "17", "make donuts", false); err != nil {
					t.Fatal(err)
				}
			})
		}
		var obvious *paho.Client
		if both(func(handle func()) {
			obvious = client(t, s.URL, "obvious", func(paho.PublishReceived) (bool, error) { handle(); return true, nil },
				paho.SubscribeOptions{Topic: filter, QoS: 1})
		}) {
			t.Error("two callbacks run at once: this is no longer a trap")
		}
		obvious.Disconnect(&paho.Disconnect{})
		if !both(func(handle func()) {
			worker(t, s.URL, func(context.Context, string) error { handle(); return nil })
		}) {
			t.Error("the lesson's Receive handles one message at a time")
		}
	})
}
