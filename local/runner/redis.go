package runner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/alicebob/miniredis/v2"
	goredis "github.com/redis/go-redis/v9"

	"otel-demo/local/compose"
	"otel-demo/local/poll"
)

// redis is miniredis in the runner, or the server that Options.RedisURL names.
type redis struct{}

func (redis) plan(d *Demo, s *service) error {
	if d.options.RedisURL != "" {
		return nil // it is already running
	}
	s.instances = []instance{&server{open: func() (func(), error) {
		d.addresses.ReleaseFor(s.Name, 0)
		m := miniredis.NewMiniRedis()
		// A process that is being started may hold the port a moment longer.
		return m.Close, poll.Until(context.Background(), time.Millisecond, time.Second, func() error {
			return m.StartAddr(d.addresses.All()[compose.Port{Service: s.Name, Number: 6379}])
		})
	}}}
	return nil
}

func (redis) probe(ctx context.Context, d *Demo, s *service) error { return d.dial(ctx, s, 6379) }

// redisCLI repeats a command. In a container, redis-cli would do it.
type redisCLI struct{}

func (redisCLI) plan(d *Demo, s *service) error {
	args, err := d.arguments(s, 0, s.Command[1:])
	if err != nil {
		return err
	}
	redisURL, pause, command, err := compose.RepeatedCommand(args)
	if err != nil {
		return fmt.Errorf("command: %w", err)
	}
	options, err := goredis.ParseURL(redisURL)
	if err != nil {
		return fmt.Errorf("command: %w", err)
	}
	s.instances = []instance{&server{open: func() (func(), error) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			client := goredis.NewClient(options)
			defer client.Close()
			for reported := false; ctx.Err() == nil; {
				err := client.Do(ctx, command...).Err()
				if err != nil && !errors.Is(err, goredis.Nil) && ctx.Err() == nil && !reported {
					d.line(s.Name, err.Error())
					reported = true
				}
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
			}
		}()
		return func() { cancel(); <-done }, nil
	}}}
	return nil
}

func (redisCLI) probe(context.Context, *Demo, *service) error { return errNoProbe }

// dial returns an error unless a service listens on a port.
func (d *Demo) dial(ctx context.Context, s *service, port int) error {
	dialer := net.Dialer{Timeout: 3 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", d.addresses.All()[compose.Port{Service: s.Name, Number: port}])
	if err != nil {
		return err
	}
	return conn.Close()
}
