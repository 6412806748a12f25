package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	redisclient "github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kgo"

	"otel-demo/brokers/kafka"
	"otel-demo/brokers/nats"
	"otel-demo/brokers/rabbitmq"
	"otel-demo/brokers/redisstreams"
	"otel-demo/brokers/server"
	"otel-demo/pkg"
)

const (
	one     = "one message: `process work` is a child of `publish work`, and links to it"
	inBatch = "one of the three messages of a batch"
)

func batch(messages int) string {
	return fmt.Sprintf("the batch: one span for %d messages. Click on it, and on References (later: Links): a link to each producer", messages)
}

// addressOr returns address, or starts a broker if it is empty.
func addressOr(address string, start func() (string, func(), error)) (string, func(), error) {
	if address != "" {
		return address, func() {}, nil
	}
	return start()
}

func runNATS(ctx context.Context, address string) error {
	address, stop, err := addressOr(address, server.NATS)
	if err != nil {
		return err
	}
	defer stop()
	conn, err := nats.Connect(address)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", withoutPassword(address), err)
	}
	defer conn.Close()

	w := newWorker()
	receive := func(ctx context.Context) error { return nats.Receive(ctx, conn, w.handle) }
	send := func(ctx context.Context, task string) error {
		for conn.NumSubscriptions() == 0 { // NATS stores nothing for later subscribers
			if err := pkg.Sleep(ctx, time.Millisecond); err != nil {
				return err
			}
		}
		return nats.Publish(ctx, conn, task)
	}
	return w.play(ctx, receive, send,
		story{one, []string{good}, 1},
		story{"three messages, which are processed at the same time", []string{good, good, good}, 3},
		story{"a failure: `process work` is red, and NATS does not deliver the message again", []string{fails}, 1})
}

func runKafka(ctx context.Context, addresses string) error {
	addresses, stop, err := addressOr(addresses, server.Kafka)
	if err != nil {
		return err
	}
	defer stop()
	options := []kgo.Opt{kgo.SeedBrokers(strings.Split(addresses, ",")...), kgo.AllowAutoTopicCreation(),
		kgo.RecordDeliveryTimeout(10 * time.Second)}
	producer, err := kgo.NewClient(slices.Concat(options, kafka.Producer())...)
	if err != nil {
		return err
	}
	defer producer.Close()
	connecting, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := producer.Ping(connecting); err != nil {
		return fmt.Errorf("connect to %s: %w", addresses, err)
	}

	w := newWorker()
	send := func(ctx context.Context, task string) error { return kafka.Publish(ctx, producer, task) }
	for range 3 {
		if err := publish(ctx, inBatch, send, good); err != nil {
			return err
		}
	}
	// A consumer fetches in advance, so one that is created now finds all three at once.
	consumer, err := kgo.NewClient(slices.Concat(options, kafka.Consumer())...)
	if err != nil {
		return err
	}
	defer consumer.Close()
	waiting := time.AfterFunc(3*time.Second, func() {
		fmt.Fprintf(os.Stderr, "Kafka gives this worker no records yet. If the last run was killed, this takes up to %v.\n", kafka.SessionTimeout)
	})
	defer waiting.Stop()
	for polled := 0; polled < 3; {
		if err := kafka.ReceiveBatch(ctx, consumer, func(ctx context.Context, records []*kgo.Record) error {
			waiting.Stop()
			polled += len(records)
			printTrace(ctx, batch(len(records)))
			return pkg.SimulateWork(ctx, 50*time.Millisecond)
		}); err != nil {
			return err
		} else if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	receive := func(ctx context.Context) error { return kafka.Receive(ctx, consumer, w.handle) }
	return w.play(ctx, receive, send,
		story{"one message: kotel creates `work publish` and `work receive`, the lesson `process work`", []string{good}, 1},
		story{"three messages, which are processed one after another", []string{good, good, good}, 3},
		story{"a failure: `process work` is red, and Kafka does not deliver the record again", []string{fails}, 1})
}

func runRabbitMQ(ctx context.Context, address string) error {
	address, stop, err := addressOr(address, server.RabbitMQ)
	if err != nil {
		return err
	}
	defer stop()
	client, err := rabbitmq.Connect(address)
	if err != nil {
		return fmt.Errorf("%s: %w", withoutPassword(address), err)
	}
	defer client.Close()

	w := newWorker()
	receive := func(ctx context.Context) error { return client.Receive(ctx, w.handle) }
	return w.play(ctx, receive, client.Publish,
		story{one, []string{good}, 1},
		story{"three messages, which are processed one after another", []string{good, good, good}, 3},
		story{"a redelivery: the first `process work` is red, the second has work.delivery_count=2", []string{failsOnce}, 2},
		story{"a failure: after three deliveries the message is in the queue work.dead", []string{fails}, 3})
}

func runRedisStreams(ctx context.Context, address string) error {
	address, stop, err := addressOr(address, server.Miniredis)
	if err != nil {
		return err
	}
	defer stop()
	options, err := redisclient.ParseURL(address)
	if err != nil {
		return fmt.Errorf("REDIS_URL=%q: want a URL such as redis://localhost:6379/0", withoutPassword(address))
	}
	client := redisclient.NewClient(options)
	defer client.Close()

	w := newWorker()
	consumer := redisstreams.Worker{Client: client, Name: "worker", Idle: time.Second}
	if err := consumer.Join(ctx); err != nil {
		return err
	}
	send := func(ctx context.Context, task string) error { return redisstreams.Publish(ctx, client, task) }
	for range 3 {
		if err := publish(ctx, inBatch, send, good); err != nil {
			return err
		}
	}
	if err := consumer.ReceiveBatch(func(ctx context.Context, entries []redisclient.XMessage) error {
		printTrace(ctx, batch(len(entries)))
		return pkg.SimulateWork(ctx, 50*time.Millisecond)
	}); err != nil {
		return err
	}
	// This worker reads an entry and dies before acknowledging it.
	if err := publish(ctx, "a worker died and another took over: `process work` has work.delivery_count=2", send, good); err != nil {
		return err
	}
	if err := client.XReadGroup(ctx, &redisclient.XReadGroupArgs{
		Group: "workers", Consumer: "dead", Streams: []string{"work", ">"}}).Err(); err != nil {
		return err
	}
	receive := func(ctx context.Context) error {
		receiving, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		defer context.AfterFunc(ctx, func() { // the last entry is given up a second after its last delivery
			for range 100 {
				if pending, err := client.XPending(receiving, "work", "workers").Result(); err != nil || pending.Count == 0 {
					break
				}
				pkg.Sleep(receiving, 50*time.Millisecond)
			}
			cancel()
		})()
		return consumer.Receive(receiving, w.handle)
	}
	return w.play(ctx, receive, send,
		story{one, []string{good}, 2}, // and the dead worker's
		story{"a redelivery: the first `process work` is red, the second has work.delivery_count=2", []string{failsOnce}, 2},
		story{"a failure: after three deliveries, `ack work` is red: the entry is given up", []string{fails}, 3})
}

// withoutPassword returns a URL without its user and password.
func withoutPassword(address string) string { return address[strings.LastIndex(address, "@")+1:] }
