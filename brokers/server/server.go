// Package server starts brokers on free loopback ports, for the tests and for go run. It has nothing to do with tracing.
package server

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"

	"github.com/alicebob/miniredis/v2"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/twmb/franz-go/pkg/kfake"
)

// NATS starts a NATS server in this process.
func NATS() (url string, stop func(), err error) {
	directory, err := os.MkdirTemp("", "nats")
	if err != nil {
		return "", nil, err
	}
	s, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: directory})
	if err != nil {
		return "", nil, fmt.Errorf("start NATS: %w", err)
	}
	s.Start()
	stop = func() {
		s.Shutdown()
		s.WaitForShutdown()
		os.RemoveAll(directory)
	}
	if !s.ReadyForConnections(10 * time.Second) {
		stop()
		return "", nil, fmt.Errorf("start NATS: not ready after 10 s")
	}
	return s.ClientURL(), stop, nil
}

// Kafka starts a fake Kafka in this process, with the topic `work`.
func Kafka() (address string, stop func(), err error) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "work"))
	if err != nil {
		return "", nil, fmt.Errorf("start kfake: %w", err)
	}
	return cluster.ListenAddrs()[0], cluster.Close, nil
}

// Miniredis starts a fake Redis in this process.
func Miniredis() (url string, stop func(), err error) {
	s, err := miniredis.Run()
	if err != nil {
		return "", nil, fmt.Errorf("start miniredis: %w", err)
	}
	return "redis://" + s.Addr() + "/0", s.Close, nil
}

// Redis starts the redis-server that is in the PATH.
func Redis() (url string, stop func(), err error) {
	port, err := freePort()
	if err != nil {
		return "", nil, err
	}
	p, err := start(exec.Command("redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no"))
	if err != nil {
		return "", nil, err
	}
	if err := p.waitForPort(port, 10*time.Second); err != nil {
		return "", nil, err
	}
	return "redis://127.0.0.1:" + port + "/0", p.stop, nil
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
