package nats

// This file has no tracing: a connection that survives a restart of the server, and a handler that may panic.

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"otel-demo/brokers/outage"
	"otel-demo/pkg"
)

// Connect connects to a server. When the connection is lost, the client connects again, and subscribes again. By
// default, it would give up after two minutes, log nothing, and take minutes to notice that the server is silent.
func Connect(url string) (*nats.Conn, error) {
	down := outage.New("NATS")
	return nats.Connect(url, nats.MaxReconnects(-1), nats.PingInterval(10*time.Second), nats.MaxPingsOutstanding(2),
		nats.DisconnectErrHandler(func(conn *nats.Conn, err error) {
			if !conn.IsClosed() {
				down.Begin(err)
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if !errors.Is(err, nats.ErrSlowConsumer) { // Receive reports that one
				slog.Warn("NATS", "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { down.End() }))
}

// host returns the server's host name, or "" while there is no connection.
func host(conn *nats.Conn) string {
	name, _, _ := net.SplitHostPort(conn.ConnectedAddr())
	return name
}

// run calls handle, if the body is text.
func run(ctx context.Context, body []byte, handle Handler) error {
	if !utf8.Valid(body) {
		return pkg.Error{Type: "decode", Text: "want UTF-8"}
	}
	return pkg.CatchPanic(ctx, func() error { return handle(ctx, string(body)) })
}
