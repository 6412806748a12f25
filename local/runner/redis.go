package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/compose-spec/compose-go/v2/types"

	"otel-demo/local/compose"
	"otel-demo/local/poll"
)

// redis is miniredis in the runner, or the server that Options.RedisURL names.
var redis = &kind{
	name:     "redis",
	images:   []string{"redis"},
	settings: []string{"image", "command", "healthcheck", "ports", "tmpfs"},
	ports:    []int{6379},
	check:    checkRedis,
	assign:   assignRedis,
	plan:     planRedis,
	probe:    probePort(6379),
}

// redisOptions describe what the runner's Redis does anyway: it stores nothing on disk and has no authentication. But it
// has no limit for a message's size; only programs on this machine can send it one.
var redisOptions = map[string]string{"--save": "", "--appendonly": "no", "--protected-mode": "no", "--proto-max-bulk-len": "1mb"}

func checkRedis(service types.ServiceConfig) error {
	args := service.Command
	if len(args) > 0 && args[0] == "redis-server" {
		args = args[1:]
	}
	for option := range slices.Chunk(args, 2) {
		if want, ok := redisOptions[option[0]]; !ok || len(option) != 2 || option[1] != want {
			return fmt.Errorf("command: %q: the runner's redis doesn't support this", option)
		}
	}
	return nil
}

func assignRedis(d *Demo, s *service) error {
	if d.options.RedisURL == "" {
		return d.assign(s)
	}
	u, err := url.Parse(d.options.RedisURL)
	if err != nil || u.Hostname() == "" || u.Scheme != "redis" && u.Scheme != "rediss" {
		return errors.New("REDIS_URL (not shown, as it may hold a password): want a URL such as redis://localhost:6379/0")
	}
	address := net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "6379"))
	d.addresses.AddRunning(compose.Port{Service: s.Name, Number: 6379}, address, d.options.RedisURL)
	return nil
}

func planRedis(d *Demo, s *service) error {
	if d.options.RedisURL != "" {
		return nil // it is already running
	}
	s.instances = []instance{&server{open: func() (func(), error) {
		d.addresses.ReleaseFor(s.Name, 0)
		m := miniredis.NewMiniRedis()
		// A process that is being started may hold the port a moment longer.
		return m.Close, poll.Until(context.Background(), time.Millisecond, time.Second, func() error {
			return m.StartAddr(d.addresses.Of(s.Name, 0, 6379))
		})
	}}}
	return nil
}
