package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/alicebob/miniredis/v2"

	"otel-demo/local/backend"
)

// server is a service that runs in the runner. What open starts is what close ends.
type server struct {
	open  func() (close func(), err error)
	close func()
}

func (s *server) start() (err error) {
	if s.close != nil {
		return errors.New("it runs already")
	}
	s.close, err = s.open()
	return err
}

func (s *server) stop() error {
	if s.close != nil {
		s.close()
		s.close = nil
	}
	return nil
}

// planServer makes the server of a service that runs in the runner, and gives it its ports.
func (d *Demo) planServer(s *service) error {
	var open func() (func(), error)
	var ports []int
	switch s.kind {
	case jaeger:
		ports = []int{4317, 4318, 16686}
		open = func() (func(), error) { return d.openJaeger(s) }
	case zipkin:
		ports = []int{9411}
		open = func() (func(), error) {
			return openHTTP(d.addresses.of[port{s.Name, 0, 9411}], d.backend.ZipkinHandler())
		}
	case redis:
		if d.options.RedisURL != "" {
			return d.useRedis(s)
		}
		ports = []int{6379}
		open = func() (func(), error) {
			m := miniredis.NewMiniRedis()
			return m.Close, m.StartAddr(d.addresses.of[port{s.Name, 0, 6379}])
		}
	default:
		return nil
	}
	for _, n := range ports {
		if _, err := d.addresses.get(port{s.Name, 0, n}); err != nil {
			return err
		}
	}
	d.addresses.fixed[s.Name] = true
	s.instances = []instance{&server{open: open}}
	s.probe = func() error { return d.dial(port{s.Name, 0, ports[0]}) }
	return nil
}

// useRedis makes a Redis that is there already the service.
func (d *Demo) useRedis(s *service) error {
	u, err := url.Parse(d.options.RedisURL)
	if err != nil || u.Hostname() == "" || u.Scheme != "redis" && u.Scheme != "rediss" {
		return fmt.Errorf("REDIS_URL (not shown, as it may hold a password): want a URL such as redis://localhost:6379/0")
	}
	number := u.Port()
	if number == "" {
		number = defaultPorts[u.Scheme]
	}
	d.addresses.redisURL = d.options.RedisURL
	d.addresses.of[port{s.Name, 0, 6379}] = net.JoinHostPort(u.Hostname(), number)
	d.addresses.fixed[s.Name] = true
	s.probe = func() error { return d.dial(port{s.Name, 0, 6379}) }
	return nil
}

func (d *Demo) dial(p port) error {
	conn, err := net.DialTimeout("tcp", d.addresses.of[p], 3*time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}

// openJaeger opens what the demo uses of Jaeger: OTLP over gRPC and over HTTP, and the pages.
func (d *Demo) openJaeger(s *service) (func(), error) {
	closePages, err := openHTTP(d.addresses.of[port{s.Name, 0, 16686}], d.backend.JaegerHandler())
	if err != nil {
		return nil, err
	}
	closeOTLP, err := openHTTP(d.addresses.of[port{s.Name, 0, 4318}], d.backend.OTLPHandler())
	if err != nil {
		closePages()
		return nil, err
	}
	listener, err := net.Listen("tcp", d.addresses.of[port{s.Name, 0, 4317}])
	if err != nil {
		closeOTLP()
		closePages()
		return nil, err
	}
	otlp := d.backend.OTLP()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = otlp.Serve(listener) // it ends when it is stopped
	}()
	return func() {
		otlp.Stop()
		<-done
		closeOTLP()
		closePages()
	}, nil
}

func openHTTP(address string, handler http.Handler) (func(), error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	server := backend.Server(handler)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // likewise
	}()
	return func() {
		_ = server.Close() // open pages are no reason to wait
		<-done
	}, nil
}
