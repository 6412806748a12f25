package pkg

// This file is not one of the six. It holds what any broker needs: a connection to Redis, a subscription that survives
// its loss, and limits on how many messages are in progress and for how long.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/redis/go-redis/extra/redisotel/v9"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"golang.org/x/time/rate"
)

const (
	maxUnderWay = 100                     // messages in progress at once
	finish      = 4500 * time.Millisecond // how long handlers may continue once Receive must stop
	abandon     = 500 * time.Millisecond  // how long they may take to return after that
	silence     = 3 * time.Second         // how long Redis may take to respond to a ping
)

var (
	// ErrNoListener means that nobody is subscribed to the channel. Pub/sub stores nothing, so the message is lost.
	ErrNoListener = Error{"no_listener", "no worker is listening on the channel " + channel}
	// ErrRefused means that Redis refuses the user, the password or the command. Retrying won't help.
	ErrRefused = Error{"refused", "REDIS_URL: Redis refuses the user, the password, or the command; want a user that " +
		"may publish to the channel " + channel + " and subscribe to it"}
	// errCutOff is why a handler's context is canceled: the program has to stop.
	errCutOff = Error{"cut_off", "cut off, since the program had to stop"}
)

// NewBroker returns a broker for a Redis server. It doesn't connect yet, and doesn't change the options.
func NewBroker(options *redis.Options) (*Broker, error) {
	o := *options
	o.ContextTimeoutEnabled = true // a deadline in ctx applies to the connection too
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout = time.Second, time.Second, time.Second
	o.MaxRetries = -1 // a PUBLISH that is retried may be delivered twice
	// Both are commands at each connection, and would create spans that say nothing about a request.
	o.DisableIdentity = true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	client := redis.NewClient(&o)
	// redisotel creates a span for each command. The statement is left out, as it would hold the whole payload.
	err := redisotel.InstrumentTracing(client,
		redisotel.WithDBStatement(false),
		redisotel.WithCallerEnabled(false),
		redisotel.WithDialFilter(true),
		redisotel.WithCommandFilter(func(command redis.Cmder) bool {
			return command.Name() != "publish" // true leaves a command out
		}))
	return &Broker{redis: client, report: rate.Sometimes{Interval: time.Second}}, err
}

// Close closes the connections to Redis.
func (b *Broker) Close() error { return b.redis.Close() }

// Ready returns nil if Redis responds and a worker listens, otherwise ErrNoListener, ErrRefused or Redis's own error.
func (b *Broker) Ready(ctx context.Context) error {
	listeners, err := b.redis.PubSubNumSub(ctx, channel).Result()
	if err == nil && listeners[channel] == 0 {
		return ErrNoListener
	}
	return explain(err)
}

// explain adds ErrRefused to the errors of Redis that mean it.
func explain(err error) error {
	if redis.IsAuthError(err) || redis.IsPermissionError(err) {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}

// send publishes a message. It never retries, since Redis can't tell a retry from a new message.
func (b *Broker) send(ctx context.Context, message Message) error {
	encoded, err := json.Marshal(message)
	if err != nil {
		return err
	}
	listeners, err := b.redis.Publish(ctx, channel, encoded).Result()
	if err != nil {
		return fmt.Errorf("publish: %w", explain(err))
	}
	if listeners == 0 {
		return ErrNoListener
	}
	return nil
}

// Receive passes each message to handle, up to 100 at a time, until ctx is canceled or Redis refuses the worker. Then
// it takes no new ones and finishes those that Redis has sent, within 5 s: after 4.5 s the handlers' contexts are
// canceled, and handlers that don't return within 0.5 s are abandoned. It returns nil or ErrRefused. While Redis is
// unreachable, it keeps trying.
func (b *Broker) Receive(ctx context.Context, handle Handler) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	working, cutOff := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cutOff(nil)
	defer context.AfterFunc(ctx, func() { time.AfterFunc(finish, func() { cutOff(errCutOff) }) })()

	payloads := make(chan string) // unbuffered: while all slots are taken, nothing is read from Redis
	slots := make(chan struct{}, maxUnderWay)
	failed := make(chan error, 1)
	go func() {
		err := b.listen(ctx, payloads)
		if n := len(slots); err != nil && n > 0 {
			slog.Warn("finishing the messages in progress", "messages", n, "error", err)
		}
		stop()
		failed <- err
		close(payloads)
	}()
	var underWay sync.WaitGroup
	for payload := range payloads {
		select {
		case slots <- struct{}{}:
		case <-working.Done():
		}
		if working.Err() != nil {
			b.cutOff.Add(1) // before it began
			continue
		}
		underWay.Go(func() {
			b.process(working, payload, handle)
			<-slots
		})
	}
	underWay.Wait()
	if n := b.cutOff.Load(); n > 0 {
		slog.Warn("messages were cut off, since the program had to stop", "messages", n)
	}
	return <-failed
}

// run calls the handler and returns its error, or errCutOff if ctx was canceled first.
func (b *Broker) run(ctx context.Context, handle Handler, message Message) (err error) {
	done := make(chan error, 1)
	go func() { done <- CatchPanic(ctx, func() error { return handle(ctx, message) }) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		select {
		case err = <-done:
		case <-time.After(abandon):
			err = errCutOff
		}
	}
	if err != nil && ctx.Err() != nil {
		b.cutOff.Add(1)
		err = errCutOff
	}
	return err
}

// listen passes on what is published until ctx is canceled. It logs when Redis becomes unreachable and when it is back.
func (b *Broker) listen(ctx context.Context, payloads chan<- string) error {
	reachable, subscribed, pause := true, false, Backoff()
	for {
		err := b.subscribe(ctx, payloads, func() {
			// While nothing is read, go-redis may reconnect by itself: then a second confirmation is the only sign.
			if !reachable || subscribed {
				slog.Warn("Redis is back; messages may have been missed meanwhile", "channel", channel)
			}
			reachable, subscribed = true, true
			pause.Reset()
		})
		if errors.Is(err, ErrRefused) {
			return err
		}
		if reachable && ctx.Err() == nil {
			slog.Warn("Redis is unreachable; trying again until it is back", "error", err)
		}
		reachable = false
		if Sleep(ctx, pause.NextBackOff()) != nil {
			return nil
		}
	}
}

// subscribe passes on what comes over one connection until it is lost. When ctx is canceled, it unsubscribes, and it
// returns when Redis confirms: messages sent before that come first. (go-redis's channel would discard all errors,
// and messages too when the worker is slow.)
func (b *Broker) subscribe(ctx context.Context, payloads chan<- string, confirmed func()) error {
	subscription := b.redis.Subscribe(ctx)
	defer subscription.Close()
	if err := subscription.Subscribe(ctx, channel); err != nil {
		return explain(err)
	}
	defer context.AfterFunc(ctx, func() {
		time.AfterFunc(finish+abandon, func() { subscription.Close() })
		subscription.Unsubscribe(context.WithoutCancel(ctx))
	})()
	// A live connection responds to a ping. (A time limit on each read would cut messages in half.)
	watchdog := time.AfterFunc(silence, func() { subscription.Close() })
	pinging, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		for Sleep(pinging, silence/3) == nil {
			subscription.Ping(pinging)
		}
	}()
	for {
		received, err := subscription.Receive(ctx)
		if !watchdog.Stop() {
			return fmt.Errorf("no response within %v", silence)
		} else if err != nil {
			return explain(err)
		}
		switch received := received.(type) {
		case *redis.Subscription:
			if received.Kind == "unsubscribe" {
				return nil
			}
			confirmed()
		case *redis.Message:
			payloads <- received.Payload
		}
		watchdog.Reset(silence)
	}
}
