package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"otel-demo/brokers/nats"
	"otel-demo/brokers/outbox"
	"otel-demo/brokers/server"
	"otel-demo/pkg"
)

func runOutbox(ctx context.Context, address string) error {
	address, stop, err := addressOr(address, server.SQLite)
	if err != nil {
		return err
	}
	defer stop()
	store, err := outbox.Open(ctx, address)
	if err != nil {
		return fmt.Errorf("open %s: %w", withoutPassword(address), err)
	}
	defer store.Close()
	dying, err := outbox.Open(ctx, address)
	if err != nil {
		return err
	}
	defer dying.Close()
	broker, stopBroker, err := server.NATS() // the relay publishes to it
	if err != nil {
		return err
	}
	defer stopBroker()
	conn, err := nats.Connect(broker)
	if err != nil {
		return err
	}
	defer conn.Close()

	w := newWorker()
	send := func(ctx context.Context, task string) error { return outbox.PlaceOrder(ctx, store, task) }
	receive := func(ctx context.Context) error {
		working, stop := context.WithCancel(context.WithoutCancel(ctx))
		done := make(chan error, 1)
		go func() { done <- nats.Receive(working, conn, w.handle) }()
		for conn.NumSubscriptions() == 0 { // NATS stores nothing for later subscribers
			pkg.Sleep(working, time.Millisecond)
		}
		// The first relay loses its database when it has published a row, and ends.
		first, end := context.WithCancel(ctx)
		publish := outbox.ToNATS(conn)
		outbox.Relay{Store: dying, Lease: time.Second, Send: func(ctx context.Context, headers map[string]string, task string) error {
			defer end()
			return errors.Join(publish(ctx, headers, task), dying.Close())
		}}.Run(first)
		outbox.Relay{Store: store, Lease: 10 * time.Second, Send: publish}.Run(ctx)
		stop()
		return <-done
	}
	return w.play(ctx, receive, send,
		story{"a relay died: `publish work` is there twice, each with a link to `create work`", []string{good}, 2},
		story{"a message that is too large: `publish work` is red, and the row stays in the table", []string{strings.Repeat(good, 100_000)}, 0},
		story{"one order: `publish work` has work.waited_ms, how long the row waited", []string{good}, 1},
		story{"a failure: `process work` is red", []string{fails}, 1})
}
