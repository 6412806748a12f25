package outbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// ToNATS returns a function that publishes to NATS, for Relay.Send.
func ToNATS(conn *nats.Conn) func(ctx context.Context, headers map[string]string, task string) error {
	return func(ctx context.Context, headers map[string]string, task string) error {
		if host, port, err := net.SplitHostPort(conn.ConnectedAddr()); err == nil {
			number, _ := strconv.Atoi(port)
			trace.SpanFromContext(ctx).SetAttributes(semconv.ServerAddress(host), semconv.ServerPort(number))
		}
		message := nats.NewMsg(destination)
		message.Data = []byte(task)
		for key, value := range headers {
			message.Header.Set(key, value)
		}
		err := conn.PublishMsg(message)
		if errors.Is(err, nats.ErrMaxPayload) {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		} else if err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := conn.FlushWithContext(ctx); err != nil {
			return fmt.Errorf("flush: %w", err)
		}
		return nil
	}
}
