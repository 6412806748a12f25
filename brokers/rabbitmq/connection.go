package rabbitmq

// This file has no tracing: the queues, a connection that survives a restart of RabbitMQ, and a handler that may panic.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"

	"otel-demo/brokers/outage"
	"otel-demo/pkg"
)

// Client is a connection to RabbitMQ, which is opened again when it is lost. amqp091-go leaves that to you.
type Client struct {
	url, host  string
	mu         sync.Mutex
	conn       *amqp.Connection
	publishing *amqp.Channel // in confirm mode
}

// Connect connects to RabbitMQ, and creates the queues.
func Connect(url string) (*Client, error) {
	uri, err := amqp.ParseURI(url)
	if err != nil {
		return nil, err
	}
	c := &Client{url: url, host: uri.Host}
	if _, err := c.confirming(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Close closes the connection.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}

// open opens a channel, on a new connection if the last one is lost. The caller holds the lock.
func (c *Client) open() (*amqp.Channel, error) {
	if c.conn == nil || c.conn.IsClosed() {
		conn, err := amqp.DialConfig(c.url, amqp.Config{Heartbeat: 10 * time.Second, Dial: amqp.DefaultDial(5 * time.Second)})
		if err != nil {
			return nil, fmt.Errorf("connect: %w", err)
		}
		c.conn = conn
	}
	channel, err := c.conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("open channel: %w", err)
	}
	return channel, declare(channel)
}

// confirming returns the channel for publishing.
func (c *Client) confirming() (*amqp.Channel, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.publishing == nil || c.publishing.IsClosed() {
		channel, err := c.open()
		if err == nil {
			err = channel.Confirm(false)
		}
		if err != nil {
			return nil, err
		}
		c.publishing = channel
	}
	return c.publishing, nil
}

// declare creates the two queues. A quorum queue counts how often it delivers a message, which a classic one doesn't.
// After the last failure it moves the message to the dead letters, with its headers: they lead you from a dead letter
// to the trace in which it was published.
func declare(channel *amqp.Channel) error {
	_, err1 := channel.QueueDeclare(dead, true, false, false, false, nil)
	_, err2 := channel.QueueDeclare(queue, true, false, false, false, amqp.Table{
		"x-queue-type": "quorum", "x-delivery-limit": maxDeliveries - 1, // so many after the first
		"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead,
	})
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("declare queues: %w", err)
	}
	return nil
}

// consume passes deliveries to process until ctx is canceled. While RabbitMQ is unreachable, it keeps trying. It
// returns an error that retrying won't mend.
func (c *Client) consume(ctx context.Context, process func(amqp.Delivery) error) error {
	down := outage.New("RabbitMQ")
	for {
		err := c.consumeOnce(ctx, process, down.End)
		var refused *amqp.Error
		if errors.As(err, &refused) &&
			slices.Contains([]int{amqp.AccessRefused, amqp.PreconditionFailed, amqp.NotAllowed}, refused.Code) {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		down.Begin(err)
		down.Pause(ctx)
	}
}

// consumeOnce does so over one channel, until that is closed or ctx is canceled.
func (c *Client) consumeOnce(ctx context.Context, process func(amqp.Delivery) error, connected func()) error {
	c.mu.Lock()
	channel, err := c.open()
	c.mu.Unlock()
	if err != nil {
		return err
	}
	defer channel.Close()
	closed := channel.NotifyClose(make(chan *amqp.Error, 1))
	if err := channel.Qos(10, 0, false); err != nil {
		return fmt.Errorf("limit deliveries: %w", err)
	}
	deliveries, err := channel.ConsumeWithContext(ctx, queue, "", false, false, false, false, nil)
	if err != nil {
		return fmt.Errorf("consume: %w", err)
	}
	connected()
	for delivery := range deliveries { // closed when ctx is canceled, or the channel is closed
		if err := process(delivery); err != nil {
			return fmt.Errorf("settle: %w", err)
		}
	}
	select {
	case reason := <-closed:
		if reason != nil {
			return fmt.Errorf("consume: %w", reason)
		}
	default:
	}
	return errors.New("consume: the channel or the queue is gone")
}

// run calls handle, if the body is text.
func run(ctx context.Context, body []byte, handle Handler) error {
	if !utf8.Valid(body) {
		return errNotText
	}
	return pkg.CatchPanic(ctx, func() error { return handle(ctx, string(body)) })
}
