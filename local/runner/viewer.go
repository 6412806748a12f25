package runner

import (
	"context"
	"errors"
	"net"
	"net/http"

	"otel-demo/local/compose"
	"otel-demo/local/viewer"
)

// jaeger is the side of the viewer that receives OTLP; zipkin is the side that receives Zipkin's format.
type (
	jaeger struct{}
	zipkin struct{}
)

func (jaeger) plan(d *Demo, s *service) error {
	s.instances = []instance{
		&server{open: func() (func(), error) { return d.openHTTP(s, 16686, d.viewer.JaegerHandler()) }},
		&server{open: func() (func(), error) { return d.openHTTP(s, 4318, d.viewer.OTLPHandler()) }},
		&server{open: func() (func(), error) {
			otlp := d.viewer.OTLP()
			return d.open(s, 4317, otlp.Serve, otlp.Stop)
		}},
	}
	return nil
}

func (jaeger) probe(ctx context.Context, d *Demo, s *service) error { return d.dial(ctx, s, 4317) }

func (zipkin) plan(d *Demo, s *service) error {
	s.instances = []instance{&server{open: func() (func(), error) { return d.openHTTP(s, 9411, d.viewer.ZipkinHandler()) }}}
	return nil
}

func (zipkin) probe(ctx context.Context, d *Demo, s *service) error { return d.dial(ctx, s, 9411) }

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

// openHTTP serves pages on a port of a service.
func (d *Demo) openHTTP(s *service, port int, handler http.Handler) (func(), error) {
	server := viewer.Server(handler)
	return d.open(s, port, server.Serve, func() { _ = server.Close() }) // don't wait for open pages
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
