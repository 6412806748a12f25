package runner

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"otel-demo/local/compose"
	"otel-demo/local/viewer"
)

// server is a service, or a port of one, that the runner serves. close stops what open started.
type server struct {
	open  func() (close func(), err error)
	close func()
}

func (s *server) start(context.Context) (err error) {
	if s.close != nil {
		return errors.New("it is already running")
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

// page serves pages on a port of a service.
func (d *Demo) page(s *service, port int, handler http.Handler) *server {
	return &server{open: func() (func(), error) {
		server := viewer.Server(handler)
		return d.open(s, port, server.Serve, func() { _ = server.Close() }) // don't wait for open pages
	}}
}

// open serves a port of a service, and returns a function that stops serving it.
func (d *Demo) open(s *service, port int, serve func(net.Listener) error, stop func()) (func(), error) {
	listener, err := d.addresses.Listen(compose.Port{Service: s.Name, Number: port})
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = serve(listener) // it returns when it is stopped
	}()
	return func() { stop(); <-done }, nil
}

// probePort returns a probe that succeeds if the service listens on a port.
func probePort(port int) func(context.Context, *Demo, *service) error {
	return func(ctx context.Context, d *Demo, s *service) error { return d.dial(ctx, s, port) }
}

// dial returns an error unless a service listens on a port.
func (d *Demo) dial(ctx context.Context, s *service, port int) error {
	dialer := net.Dialer{Timeout: 3 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", d.addresses.Of(s.Name, 0, port))
	if err != nil {
		return err
	}
	return conn.Close()
}
