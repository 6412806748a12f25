package rabbitmq

import (
	"context"
	"errors"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"otel-demo/brokers/brokertest"
	"otel-demo/brokers/server"
)

func TestMain(m *testing.M) { brokertest.Main(m) }

// A connector returns a client and a channel, with the queues new and empty.
type connector func(t *testing.T) (*Client, *amqp.Channel, *server.Server)

// on runs a test on each server.
func on(t *testing.T, test func(*testing.T, connector)) {
	brokertest.On(t, "rabbitmq", func(t *testing.T, start func(*testing.T) *server.Server) {
		test(t, func(t *testing.T) (*Client, *amqp.Channel, *server.Server) {
			t.Helper()
			s := start(t)
			conn, err := amqp.Dial(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			channel, err := conn.Channel()
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{queue, dead} {
				if _, err := channel.QueueDelete(name, false, false, false); err != nil {
					t.Fatal(err)
				}
			}
			client, err := Connect(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { client.Close() })
			return client, channel, s
		})
	})
}

func open(t *testing.T, client *Client) *amqp.Channel {
	t.Helper()
	channel, err := client.conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return channel
}

// send publishes a message as another program would.
func send(t *testing.T, channel *amqp.Channel, message amqp.Publishing) {
	t.Helper()
	if err := channel.PublishWithContext(t.Context(), "", "work", false, false, message); err != nil {
		t.Fatal(err)
	}
}

func TestSuite(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		brokertest.Run(t, func(t *testing.T) brokertest.Broker {
			client, channel, s := connect(t)
			return brokertest.Broker{
				Server:    s,
				System:    "rabbitmq",
				Published: "publish work",
				Publish:   client.Publish,
				Receive:   func(ctx context.Context, handle brokertest.Handler) error { return client.Receive(ctx, handle) },
				Listening: func() bool { return true }, // the queue keeps messages
				Send: func(t *testing.T, headers []brokertest.Header, body []byte) {
					table := amqp.Table{}
					for _, header := range headers {
						table[header.Key] = header.Value
					}
					send(t, channel, amqp.Publishing{Headers: table, Body: body})
				},
				Deliveries: 3,
				Keeps:      true,
				Undecoded:  []byte("\xff"),
				Fail:       func(t *testing.T, then func()) { s.Stop(); then() },
			}
		})
	})
}

func TestTrapAMessageHasNoHeaders(t *testing.T) {
	ctx, span := otel.Tracer("test").Start(t.Context(), "root")
	defer span.End()
	defer func() {
		if recover() == nil {
			t.Error("Inject into a message without headers doesn't panic: this is no longer a trap")
		}
	}()
	message := amqp.Publishing{}
	otel.GetTextMapPropagator().Inject(ctx, carrier(message.Headers))
}

// obvious is the carrier that comes to mind first.
type obvious amqp.Table

func (c obvious) Get(key string) string { return c[key].(string) }
func (c obvious) Set(key, value string) { c[key] = value }
func (c obvious) Keys() []string        { return nil }

func TestTrapAHeaderIsNoString(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		_, channel, _ := connect(t)
		for name, headers := range map[string]amqp.Table{
			"no headers": nil,
			"a number":   {"traceparent": int32(1), "baggage": "username=donuts"},
			"nil":        {"traceparent": nil},
			"a list":     {"traceparent": []any{"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}},
		} {
			send(t, channel, amqp.Publishing{Headers: headers, Body: []byte("make donuts")})
			var delivery amqp.Delivery
			brokertest.Eventually(t, "delivery", func() (ok bool) {
				delivery, ok, _ = channel.Get(queue, true)
				return ok
			})
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s: the obvious carrier does not panic: this is no longer a trap", name)
					}
				}()
				otel.GetTextMapPropagator().Extract(t.Context(), obvious(delivery.Headers))
			}()
			ctx := otel.GetTextMapPropagator().Extract(t.Context(), carrier(delivery.Headers))
			if trace.SpanContextFromContext(ctx).IsValid() {
				t.Errorf("%s: the lesson's carrier has found a context", name)
			}
		}
	})
}

// Some clients write strings as bytes, and a routing key may be any bytes.
func TestBytesFromAnotherClient(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, channel, _ := connect(t)
		if err := channel.QueueBind(queue, "#", "amq.topic", false, nil); err != nil {
			t.Fatal(err)
		}
		if err := channel.PublishWithContext(t.Context(), "amq.topic", "\xff", false, false, amqp.Publishing{Body: []byte("make donuts"),
			Headers: amqp.Table{"traceparent": []byte("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")}}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if err := client.Receive(ctx, func(context.Context, string) error { cancel(); return nil }); err != nil {
			t.Fatal(err)
		}
		span := brokertest.Named(t, "process work", 1)[0]
		if span.SpanContext().TraceID().String() != "4bf92f3577b34da6a3ce929d0e0e4736" {
			t.Errorf("the trace is %v: the header was not read", span.SpanContext().TraceID())
		}
		if key := brokertest.Attribute(span, "messaging.rabbitmq.destination.routing_key"); key != "\uFFFD" {
			t.Errorf("the routing key is %q", key)
		}
	})
}

// The connection is lost while a message is processed. Its span is good, and the acknowledgment's isn't: the work was
// done, and the message comes again.
func TestAFailedAcknowledgmentHasASpan(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, _, _ := connect(t)
		if err := client.Publish(t.Context(), "make donuts"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		deliveries := 0
		if err := client.Receive(ctx, func(context.Context, string) error {
			if deliveries++; deliveries == 1 {
				client.conn.Close()
			} else {
				cancel()
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		process, ack := brokertest.Named(t, "process work", 2), brokertest.Named(t, "ack work", 2)
		for i, want := range []codes.Code{codes.Error, codes.Unset} {
			if process[i].Status().Code != codes.Unset || ack[i].Status().Code != want || ack[i].SpanKind() != trace.SpanKindClient ||
				ack[i].Parent().SpanID() != process[i].SpanContext().SpanID() ||
				brokertest.Attribute(ack[i], "messaging.operation.type") != "settle" {
				t.Errorf("delivery %d: process %v, ack %v %v, want %v", i+1, process[i].Status(), ack[i].Status(), ack[i].Attributes(), want)
			}
		}
		if brokertest.Attribute(process[1], "work.delivery_count") != "2" || len(brokertest.Lines("ack message")) != 1 {
			t.Errorf("the second delivery has %v, the log %v", process[1].Attributes(), brokertest.Lines(""))
		}
	})
}

// A user who may not read the queue, or a queue with other arguments, won't be mended by trying again.
func TestAnErrorThatLastsEndsReceive(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, channel, _ := connect(t)
		if _, err := channel.QueueDelete(queue, false, false, false); err != nil {
			t.Fatal(err)
		}
		if _, err := channel.QueueDeclare(queue, true, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
		err := client.Receive(t.Context(), func(context.Context, string) error { return nil })
		if err == nil || !strings.Contains(err.Error(), "declare queues") || len(brokertest.Lines("unreachable")) > 0 {
			t.Errorf("%v, %v", err, brokertest.Lines(""))
		}
	})
}

// A channel that is not in confirm mode returns nil for a message that RabbitMQ discards.
func TestTrapPublishOnlyBuffers(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, channel, _ := connect(t)
		if _, err := channel.QueueDelete(queue, false, false, false); err != nil {
			t.Fatal(err)
		}
		// A queue that takes one message and refuses the second.
		if _, err := channel.QueueDeclare(queue, false, true, false, false, amqp.Table{"x-max-length": 1, "x-overflow": "reject-publish"}); err != nil {
			t.Fatal(err)
		}
		unconfirmed := open(t, client)
		for range 2 {
			if err := unconfirmed.PublishWithContext(t.Context(), "", queue, false, false, amqp.Publishing{}); err != nil {
				t.Errorf("a publish without confirmation returns %v: this is no longer a trap", err)
			}
		}
		brokertest.Eventually(t, "full queue", func() bool {
			state, err := channel.QueueDeclarePassive(queue, false, true, false, false, nil)
			return err == nil && state.Messages == 1
		})
		if err := client.Publish(t.Context(), "make donuts"); err == nil {
			t.Error("the lesson's Publish returns nil for a message that was refused")
		}
		if span := brokertest.Named(t, "publish work", 1)[0]; span.Status().Code != codes.Error {
			t.Errorf("the span's status is %v", span.Status())
		}
	})
}

// RabbitMQ confirms a message that it drops because there is no queue for it.
func TestTrapAMessageWithoutAQueueIsConfirmed(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, channel, _ := connect(t)
		if _, err := channel.QueueDelete(queue, false, false, false); err != nil {
			t.Fatal(err)
		}
		if err := client.Publish(t.Context(), "make donuts"); err != nil {
			t.Errorf("Publish returns %v: this is no longer a trap", err)
		}
		returned := channel.NotifyReturn(make(chan amqp.Return, 1))
		if err := channel.PublishWithContext(t.Context(), "", queue, true, false, amqp.Publishing{}); err != nil {
			t.Fatal(err)
		}
		brokertest.Eventually(t, "return of a mandatory message", func() bool { return len(returned) == 1 })
	})
}

// A message whose handler always fails is delivered three times, and goes to the dead letters. Its spans are all in the
// trace in which it was published, and link to the same span. The dead letter's headers lead there too.
func TestEachDeliveryLinksToTheProducer(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, channel, _ := connect(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- client.Receive(ctx, func(context.Context, string) error { return errors.New("no donuts left") })
		}()
		if err := client.Publish(t.Context(), "make donuts"); err != nil {
			t.Fatal(err)
		}
		deliveries := brokertest.Named(t, "process work", 3)
		publish := brokertest.Named(t, "publish work", 1)[0].SpanContext()
		for i, span := range deliveries {
			brokertest.LinksTo(t, span, publish)
			if want := string(rune('1' + i)); brokertest.Attribute(span, "work.delivery_count") != want || span.Parent().SpanID() != publish.SpanID() {
				t.Errorf("delivery %s is number %s, and its parent is %v", want, brokertest.Attribute(span, "work.delivery_count"), span.Parent())
			}
		}
		var letter amqp.Delivery
		brokertest.Eventually(t, "dead letter", func() (ok bool) {
			letter, ok, _ = channel.Get(dead, true)
			return ok
		})
		from := trace.SpanContextFromContext(otel.GetTextMapPropagator().Extract(t.Context(), carrier(letter.Headers)))
		if string(letter.Body) != "make donuts" || from.SpanID() != publish.SpanID() || letter.Headers["x-death"] == nil {
			t.Errorf("the dead letter is %q with the headers %v", letter.Body, letter.Headers)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A message that can't be decoded goes to the dead letters at once.
func TestAMessageThatCantBeDecodedIsTriedOnce(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		client, channel, _ := connect(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- client.Receive(ctx, func(context.Context, string) error { return nil }) }()
		send(t, channel, amqp.Publishing{Body: []byte("\xff")})
		brokertest.Eventually(t, "dead letter", func() bool {
			_, ok, _ := channel.Get(dead, true)
			return ok
		})
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		brokertest.Named(t, "process work", 1)
	})
}

// A classic queue reports only that a message was redelivered.
func TestTrapAClassicQueueDoesNotCount(t *testing.T) {
	on(t, func(t *testing.T, connect connector) {
		_, channel, _ := connect(t)
		classic, err := channel.QueueDeclare("", false, true, true, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := channel.PublishWithContext(t.Context(), "", classic.Name, false, false, amqp.Publishing{}); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			var delivery amqp.Delivery
			brokertest.Eventually(t, "delivery", func() (ok bool) {
				delivery, ok, _ = channel.Get(classic.Name, false)
				return ok
			})
			if delivery.Redelivered != (i > 0) || len(delivery.Headers) > 0 {
				t.Errorf("delivery %d: redelivered is %v, the headers are %v", i+1, delivery.Redelivered, delivery.Headers)
			}
			if err := delivery.Nack(false, true); err != nil {
				t.Fatal(err)
			}
		}
	})
}
