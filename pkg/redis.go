package pkg

import (
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/extra/redisotel/v9"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"
	"golang.org/x/time/rate"
)

// NewBroker returns a broker on the Redis server of options. It doesn't connect yet.
func NewBroker(options *redis.Options) (*Broker, error) {
	options.ContextTimeoutEnabled = true // a deadline in ctx holds for the connection too
	options.DialTimeout = time.Second
	options.MaxRetries = -1 // a PUBLISH that is sent again may be heard twice
	// Both are commands at each connection, and each would be a span that says nothing about a request.
	options.DisableIdentity = true
	options.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}

	logging.Disable() // go-redis has a log of its own, without end while Redis is away; each error is returned as well
	client := redis.NewClient(options)
	// redisotel makes a span of each command, without the statement, which would hold the whole payload.
	err := redisotel.InstrumentTracing(client,
		redisotel.WithDBStatement(false),
		redisotel.WithCallerEnabled(false),
		redisotel.WithDialFilter(true),
		redisotel.WithCommandFilter(func(command redis.Cmder) bool {
			return command.Name() != "publish" // true leaves a command out
		}))
	if err != nil {
		return nil, fmt.Errorf("instrument Redis: %w", err)
	}
	return &Broker{redis: client, report: rate.Sometimes{Interval: time.Second}}, nil
}

// ErrRefused is returned when Redis refuses the user or the password. Trying again would not help.
var ErrRefused = errors.New("REDIS_URL: Redis refuses the user or the password, want those that it knows")

// explain adds ErrRefused to an error of Redis's that means it.
func explain(err error) error {
	if redis.IsAuthError(err) || redis.IsPermissionError(err) {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}
