package mqtt

// This file has only MQTT, no tracing: a connection that comes back by itself, and acknowledgments.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/session/state"

	"otel-demo/brokers/outage"
	"otel-demo/pkg"
)

// Conn is a connection that comes back by itself after it was lost.
type Conn struct {
	*autopaho.ConnectionManager
	clientID, host string
	port           int
	unsent         *atomic.Int64
	received       chan paho.PublishReceived
	stopped        chan struct{}
	subscribed     chan struct{}
}

// Connect connects to a server, such as mqtt://localhost:1883, to publish. While the connection is lost, Publish
// fails.
func Connect(ctx context.Context, server, clientID string) (*Conn, error) {
	return connect(ctx, server, clientID, func(*autopaho.ClientConfig, *Conn) {})
}

// Join connects to a server as a worker, and begins to subscribe. Once it has, the broker keeps the messages for this
// client ID, until it has been disconnected for an hour.
func Join(ctx context.Context, server, clientID string) (*Conn, error) {
	return connect(ctx, server, clientID, func(config *autopaho.ClientConfig, conn *Conn) {
		config.SessionExpiryInterval = 3600
		config.EnableManualAcknowledgment = true
		config.OnPublishReceived = []func(paho.PublishReceived) (bool, error){func(received paho.PublishReceived) (bool, error) {
			select {
			case conn.received <- received:
			case <-conn.stopped: // not acknowledged, so the broker keeps it
			}
			return true, nil
		}}
		config.ConnectPacketBuilder = func(packet *paho.Connect, _ *url.URL) (*paho.Connect, error) {
			packet.Properties.RequestProblemInfo = true // false, the zero value, makes mochi drop all user properties
			return packet, nil
		}
		down, once := outage.New("MQTT"), sync.Once{}
		config.OnConnectionDown = func() bool { down.Begin(paho.ErrConnectionLost); return true }
		config.OnConnectError = down.Begin
		config.OnConnectionUp = func(manager *autopaho.ConnectionManager, _ *paho.Connack) {
			conn.unsent.Store(0)
			// A broker that has restarted may have forgotten the subscription. If not, retained messages don't come
			// again.
			_, err := manager.Subscribe(context.Background(), subscription(1))
			if err != nil {
				slog.Error("subscribe to MQTT", "filter", filter, "error", err)
				return
			}
			once.Do(func() { close(conn.subscribed) })
			down.End()
		}
	})
}

// subscription asks for retained messages if the subscription is new (1), or never (2).
func subscription(retained byte) *paho.Subscribe {
	return &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: filter, QoS: 1, RetainHandling: retained}}}
}

// Subscribed is closed when a message that is published from now on will be received.
func (c *Conn) Subscribed() <-chan struct{} { return c.subscribed }

func connect(ctx context.Context, server, clientID string, change func(*autopaho.ClientConfig, *Conn)) (*Conn, error) {
	address, err := url.Parse(server)
	if err != nil || address.Hostname() == "" {
		return nil, errors.New("want a URL such as mqtt://localhost:1883")
	}
	conn := &Conn{clientID: clientID, host: address.Hostname(), port: 1883, unsent: &atomic.Int64{},
		received: make(chan paho.PublishReceived), stopped: make(chan struct{}), subscribed: make(chan struct{})}
	if port, err := strconv.Atoi(address.Port()); err == nil {
		conn.port = port
	} else {
		address.Host += ":1883"
	}
	config := autopaho.ClientConfig{
		ServerUrls:     []*url.URL{address},
		KeepAlive:      15, // seconds; a connection that goes silent is noticed within twice that time
		ConnectTimeout: 5 * time.Second,
		ReconnectBackoff: func(attempt int) time.Duration {
			return min(time.Duration(attempt)*100*time.Millisecond, 2*time.Second)
		},
		ClientConfig: paho.ClientConfig{
			ClientID:      clientID,
			Session:       session{state.NewInMemory(), conn.unsent},
			PacketTimeout: 5 * time.Second,
		},
	}
	if address.User != nil {
		password, _ := address.User.Password()
		config.ConnectUsername, config.ConnectPassword = address.User.Username(), []byte(password)
	}
	change(&config, conn)
	// The connection outlives ctx, because Receive acknowledges what it has finished by then.
	conn.ConnectionManager, err = autopaho.NewConnection(context.WithoutCancel(ctx), config)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := conn.AwaitConnection(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect: %w", cmp.Or(context.Cause(ctx), err))
	}
	return conn, nil
}

// refused returns the error for a reason code. A broker may, but need not, say that nobody subscribes.
func refused(code byte) error {
	if code == packets.PubackNoMatchingSubscribers {
		return pkg.Error{Type: "no_subscriber", Text: "nobody subscribes to the topic"}
	}
	return pkg.Error{Type: fmt.Sprintf("reason_%#x", code), Text: (&packets.Puback{ReasonCode: code}).Reason()}
}

// session counts the acknowledgments that the client hasn't sent yet: it sends them in the order in which the
// messages came, at intervals of 50 ms, and has no function that waits for it.
type session struct {
	*state.State
	unsent *atomic.Int64
}

func (s session) Ack(message *packets.Publish) error {
	defer s.unsent.Add(-1)
	return s.State.Ack(message)
}

// acknowledge tells the broker that a message is done. After a new connection it can't, and the message comes again.
func (c *Conn) acknowledge(received paho.PublishReceived) {
	if received.Packet.QoS > 0 && received.Client.Ack(received.Packet) == nil {
		c.unsent.Add(1)
	}
}

// Close sends the remaining acknowledgments, and disconnects.
func (c *Conn) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for c.unsent.Load() > 0 && ctx.Err() == nil {
		<-tick.C
	}
	select {
	case <-c.subscribed:
		// A round trip: once the broker responds, it has read what was sent before. A connection that is closed while
		// messages arrive is reset, and the broker may never read the last acknowledgments.
		c.Subscribe(ctx, subscription(2))
	default:
	}
	return c.Disconnect(context.Background())
}

// run calls handle, if the body is text.
func run(ctx context.Context, body []byte, handle Handler) error {
	if !utf8.Valid(body) {
		return pkg.Error{Type: "decode", Text: "want UTF-8"}
	}
	return pkg.CatchPanic(ctx, func() error { return handle(ctx, string(body)) })
}
