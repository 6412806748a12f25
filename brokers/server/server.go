// Package server starts brokers on free loopback ports, for the tests and for go run. It has nothing to do with
// tracing.
package server

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"

	"github.com/alicebob/miniredis/v2"
	natsserver "github.com/nats-io/nats-server/v2/server"
)

// ErrMissing is wrapped by the errors of servers that have to be installed, and aren't.
var ErrMissing = errors.New("not installed")

// A Kind is a server that the tests of a lesson use.
type Kind struct {
	Lesson string // its folder
	Name   string
	New    func() (*Server, error)
	// If this variable is set, the tests fail if the server is missing. Otherwise they are skipped.
	Require string
	Slow    bool // it takes seconds to start, so all tests of a package share one
}

// Kinds are all servers that the tests use. The table in the README is made from this list.
var Kinds = []Kind{
	{Lesson: "nats", Name: "nats-server, embedded", New: newNATS},
	{Lesson: "nats", Name: "a separate nats-server", New: newNATSServer, Require: "REQUIRE_NATS"},
	{Lesson: "kafka", Name: "kfake, franz-go's fake Kafka", New: newKfake},
	{Lesson: "kafka", Name: "a real Kafka", New: newKafka, Require: "REQUIRE_KAFKA", Slow: true},
	{Lesson: "rabbitmq", Name: "a real RabbitMQ", New: newRabbitMQ, Require: "REQUIRE_RABBITMQ", Slow: true},
	{Lesson: "redisstreams", Name: "miniredis, a fake Redis", New: newMiniredis},
	{Lesson: "redisstreams", Name: "a real Redis", New: newRedis, Require: "REQUIRE_REDIS"},
	{Lesson: "mqtt", Name: "mochi, embedded", New: newMochi},
	{Lesson: "mqtt", Name: "a real mosquitto", New: newMosquitto, Require: "REQUIRE_MOSQUITTO"},
	{Lesson: "outbox", Name: "SQLite, embedded", New: newSQLite},
	{Lesson: "outbox", Name: "a real PostgreSQL", New: newPostgres, Require: "REQUIRE_POSTGRES", Slow: true},
}

// Server is a broker that is running. A real one can be stopped and started again, with the same address and data.
type Server struct {
	URL string

	start   func() (*process, error) // nil if it can't be started again
	process *process                 // nil if it runs in this process
	stop    func()
	remove  func() // its files
}

// Start starts the server again. It returns errors.ErrUnsupported if that can't be done.
func (s *Server) Start() (err error) {
	if s.start == nil {
		return errors.ErrUnsupported
	}
	s.process, err = s.start()
	if s.process != nil {
		s.stop = s.process.stop
	}
	return err
}

// Restartable reports whether the server can be started again after Stop.
func (s *Server) Restartable() bool { return s.start != nil }

// Stopped reports whether the server has been stopped.
func (s *Server) Stopped() bool { return s.stop == nil }

// Stop stops the server in an orderly way.
func (s *Server) Stop() {
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
}

// Pause makes the server silent, with its connections open, until resume is called.
func (s *Server) Pause() (resume func(), err error) {
	if s.process == nil {
		return nil, errors.ErrUnsupported
	}
	return s.process.pause()
}

// Close stops the server, and removes its files.
func (s *Server) Close() {
	s.Stop()
	if s.remove != nil {
		s.remove()
	}
}

func opened(s *Server, err error) (url string, stop func(), _ error) {
	if err != nil {
		return "", nil, err
	}
	return s.URL, s.Close, nil
}

// NATS starts a NATS server in this process.
func NATS() (url string, stop func(), err error) { return opened(newNATS()) }

func newNATS() (*Server, error) {
	directory, err := os.MkdirTemp("", "nats")
	if err != nil {
		return nil, err
	}
	s := &Server{remove: func() { os.RemoveAll(directory) }}
	port := natsserver.RANDOM_PORT
	s.start = func() (*process, error) {
		n, err := natsserver.NewServer(&natsserver.Options{
			Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true, JetStream: true, StoreDir: directory})
		if err != nil {
			return nil, fmt.Errorf("start NATS: %w", err)
		}
		n.Start()
		s.stop = func() {
			n.Shutdown()
			n.WaitForShutdown()
		}
		if !n.ReadyForConnections(10 * time.Second) {
			s.Stop()
			return nil, fmt.Errorf("start NATS: not ready after 10 s")
		}
		s.URL, port = n.ClientURL(), n.Addr().(*net.TCPAddr).Port
		return nil, nil
	}
	if err := s.Start(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// newNATSServer starts the nats-server that is in the PATH.
func newNATSServer() (*Server, error) {
	return newProcess("nats-server", "nats://", func(port, directory string) ([]string, error) {
		return []string{"-a", "127.0.0.1", "-p", port, "-js", "-sd", directory}, nil
	})
}

// Miniredis starts a fake Redis in this process.
func Miniredis() (url string, stop func(), err error) { return opened(newMiniredis()) }

func newMiniredis() (*Server, error) {
	s, err := miniredis.Run()
	if err != nil {
		return nil, fmt.Errorf("start miniredis: %w", err)
	}
	return &Server{URL: "redis://" + s.Addr() + "/0", stop: s.Close}, nil
}

// newRedis starts the redis-server that is in the PATH. It writes each command to its file, so that a restart loses
// nothing.
func newRedis() (*Server, error) {
	return newProcess("redis-server", "redis://", func(port, directory string) ([]string, error) {
		return []string{"--bind", "127.0.0.1", "--port", port, "--dir", directory,
			"--save", "", "--appendonly", "yes", "--appendfsync", "always"}, nil
	})
}

// newProcess starts a program that is in the PATH, or where Debian installs it. Debian's package has the same name.
func newProcess(program, scheme string, arguments func(port, directory string) ([]string, error)) (*Server, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + program) // not in the PATH of Debian's users
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s is not in the PATH (on Debian: apt-get install %[2]s)", ErrMissing, program)
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	directory, err := os.MkdirTemp("", program)
	if err != nil {
		return nil, err
	}
	s := &Server{URL: scheme + "127.0.0.1:" + port, remove: func() { os.RemoveAll(directory) }}
	s.start = func() (*process, error) {
		args, err := arguments(port, directory)
		if err != nil {
			return nil, err
		}
		p, err := start(exec.Command(path, args...))
		if err != nil {
			return nil, err
		}
		return p, p.waitForPort(port, 10*time.Second)
	}
	if err := s.Start(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func freePort() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	return port, err
}
