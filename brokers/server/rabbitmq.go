package server

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// RabbitMQ starts the rabbitmq-server that is in the PATH.
func RabbitMQ() (url string, stop func(), err error) { return opened(newRabbitMQ()) }

// newRabbitMQ starts the rabbitmq-server that is in the PATH, with all its files in a temporary folder. It takes a few
// seconds.
func newRabbitMQ() (_ *Server, err error) {
	// On Debian, the one in the PATH is a wrapper that changes the user. The script itself is here.
	script, err1 := exec.LookPath("/usr/lib/rabbitmq/bin/rabbitmq-server")
	if err1 != nil {
		script, err1 = exec.LookPath("rabbitmq-server")
	}
	epmd, err2 := exec.LookPath("epmd") // Erlang's port mapper
	if cmp.Or(err1, err2) != nil {
		return nil, fmt.Errorf("%w: rabbitmq-server is not in the PATH: install RabbitMQ (on Debian: apt-get install "+
			"rabbitmq-server), or set RABBITMQ_URL to a running server", ErrMissing)
	}
	directory, err := os.MkdirTemp("", "rabbitmq")
	if err != nil {
		return nil, err
	}
	s := &Server{remove: func() { os.RemoveAll(directory) }}
	defer func() {
		if err != nil {
			s.remove()
		}
	}()
	var ports [3]string
	for i := range ports {
		if ports[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	config, plugins := filepath.Join(directory, "rabbitmq.conf"), filepath.Join(directory, "enabled_plugins")
	if err := errors.Join(os.WriteFile(config, nil, 0o600), os.WriteFile(plugins, []byte("[].\n"), 0o600)); err != nil {
		return nil, err
	}
	environment := append(os.Environ(),
		"HOME="+directory, // the Erlang cookie goes there
		"RABBITMQ_NODENAME=demo"+ports[0]+"@localhost",
		"RABBITMQ_NODE_IP_ADDRESS=127.0.0.1", "RABBITMQ_NODE_PORT="+ports[0], "RABBITMQ_DIST_PORT="+ports[1],
		"ERL_EPMD_ADDRESS=127.0.0.1", "ERL_EPMD_PORT="+ports[2],
		// Without this, the script stays as the node's parent. Either way, the node gets no input, ignores Ctrl+C, and
		// exits only on stop.
		"RABBITMQ_ALLOW_INPUT=1",
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-noinput +Bi -kernel inet_dist_use_interface {127,0,0,1}",
		"RABBITMQ_MNESIA_BASE="+filepath.Join(directory, "mnesia"), "RABBITMQ_LOG_BASE="+filepath.Join(directory, "log"),
		"RABBITMQ_CONFIG_FILE="+config, "RABBITMQ_ENABLED_PLUGINS_FILE="+plugins,
		"RABBITMQ_PID_FILE="+filepath.Join(directory, "pid"))

	// RabbitMQ would start epmd itself, as a daemon that outlives it. It uses one that is already running.
	mapper := exec.Command(epmd)
	mapper.Env = environment
	m, err := start(mapper)
	if err != nil {
		return nil, err
	}
	s.remove = func() { m.stop(); os.RemoveAll(directory) }
	if err := m.waitForPort(ports[2], 10*time.Second); err != nil {
		return nil, err
	}
	s.URL = fmt.Sprintf("amqp://guest:guest@127.0.0.1:%s/", ports[0])
	s.start = func() (*process, error) {
		node := exec.Command(script)
		node.Env = environment
		n, err := start(node)
		if err != nil {
			return nil, err
		}
		return n, n.waitForPort(ports[0], 60*time.Second)
	}
	return s, s.Start()
}
