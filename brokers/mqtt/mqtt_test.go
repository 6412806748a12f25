package mqtt

import (
	"context"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/eclipse/paho.golang/paho"

	"otel-demo/brokers/brokertest"
	"otel-demo/brokers/server"
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
		SessionExpiryInterval: paho.Uint32(3600)}}); err != nil {
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
