package server

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// Mochi starts an MQTT broker in this process.
func Mochi() (url string, stop func(), err error) { return opened(newMochi()) }

func newMochi() (*Server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	address := "127.0.0.1:" + port
	s := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	tcp := listener{listeners.NewTCP(listeners.Config{ID: "tcp", Address: address}), s}
	if err := errors.Join(s.AddHook(&hook{server: s}, nil), s.AddListener(tcp), s.Serve()); err != nil {
		return nil, fmt.Errorf("start mochi: %w", err)
	}
	return &Server{URL: "mqtt://" + address, stop: func() { s.Close() }}, nil
}

// hook allows everything, and works around two faults of mochi.
type hook struct {
	auth.AllowHook
	server *mochi.Server
}

func (h *hook) Provides(b byte) bool {
	return b == mochi.OnConnect || b == mochi.OnSessionEstablished || h.AllowHook.Provides(b)
}

// OnConnect waits until the client's previous connection has ended. Otherwise mochi would deliver messages again
// whose acknowledgments it is still reading there.
func (h *hook) OnConnect(client *mochi.Client, _ packets.Packet) error {
	for range 100 {
		if previous, ok := h.server.Clients.Get(client.ID); !ok || previous.Closed() {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// OnSessionEstablished turns off the quota of messages in flight. With it, mochi locks a mutex for reading twice, and
// deadlocks if a publisher waits to lock it for writing meanwhile.
func (h *hook) OnSessionEstablished(client *mochi.Client, _ packets.Packet) {
	client.State.Inflight.ResetSendQuota(0)
}

// listener disconnects the clients by itself, because mochi's own function for it deadlocks if one leaves meanwhile.
type listener struct {
	*listeners.TCP
	server *mochi.Server
}

func (l listener) Close(listeners.CloseFn) {
	l.TCP.Close(func(string) {
		for _, client := range l.server.Clients.GetAll() {
			l.server.DisconnectClient(client, packets.ErrServerShuttingDown)
		}
	})
}

// newMosquitto starts the mosquitto that is in the PATH, or where Debian installs it. It keeps sessions and messages
// over a restart.
func newMosquitto() (*Server, error) {
	return newProcess("mosquitto", "mqtt://", func(port, directory string) ([]string, error) {
		// Started by root, it would become another user, who can't write here.
		config := filepath.Join(directory, "mosquitto.conf")
		return []string{"-c", config}, os.WriteFile(config, fmt.Appendf(nil, "listener %s 127.0.0.1\nallow_anonymous true\n"+
			"persistence true\npersistence_location %s/\nuser root\n", port, directory), 0o600)
	})
}
