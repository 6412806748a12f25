package stack

import (
	"context"
	"net"
	"time"

	"github.com/alicebob/miniredis/v2"

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

// dial returns an error unless a service listens on a port.
func (d *Demo) dial(ctx context.Context, s *service, port int) error {
	dialer := net.Dialer{Timeout: 3 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", d.addresses.All()[compose.Port{Service: s.Name, Number: port}])
	if err != nil {
		return err
	}
	return conn.Close()
}
