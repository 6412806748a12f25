package main

import (
	"context"
	"crypto/rand"

	"otel-demo/brokers/mqtt"
	"otel-demo/brokers/server"
)

func runMQTT(ctx context.Context, address string) error {
	address, stop, err := addressOr(address, server.Mochi)
	if err != nil {
		return err
	}
	defer stop()
	conn, err := mqtt.Connect(ctx, address, "publisher-"+rand.Text())
	if err != nil {
		return err
	}
	defer conn.Close()
	retain := func(ctx context.Context, task string) error { return mqtt.Publish(ctx, conn, "17", task, true) }
	if err := publish(ctx, "a retained message. Its subscriber comes later, in its own trace: look for `process work/{kitchen}` without a parent",
		retain, good); err != nil {
		return err
	}

	consumer, err := mqtt.Join(ctx, address, "worker-"+rand.Text())
	if err != nil {
		return err
	}
	w := newWorker()
	receive := func(ctx context.Context) error { return mqtt.Receive(ctx, consumer, w.handle) }
	send := func(ctx context.Context, task string) error {
		select {
		case <-consumer.Subscribed():
			return mqtt.Publish(ctx, conn, "17", task, false)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return w.play(ctx, receive, send,
		story{"one message: `process work/{kitchen}` is a child of `publish work/{kitchen}`, and links to it", []string{good}, 2}, // and the retained one
		story{"three messages, which are processed at the same time", []string{good, good, good}, 3},
		story{"a failure: `process work/{kitchen}` is red, and MQTT does not deliver the message again", []string{fails}, 1})
}
