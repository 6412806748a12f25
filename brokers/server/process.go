package server

import (
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// process is a server that runs as a separate process.
type process struct {
	cmd    *exec.Cmd
	output *bytes.Buffer // read it only after the process has exited
	ended  chan struct{}
}

func start(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd, &bytes.Buffer{}, make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.output, p.output
	cmd.WaitDelay = 5 * time.Second // a surviving child may hold the output open
	dieWithThisProcess(cmd)
	started := make(chan error)
	go func() {
		// On Linux the process dies with the thread that started it. So that thread stays, and waits for it.
		runtime.LockOSThread()
		started <- cmd.Start()
		cmd.Wait()
		close(p.ended)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	return p, nil
}

// stop stops the process, with SIGTERM if the system has it.
func (p *process) stop() {
	if p.cmd.Process.Signal(syscall.SIGTERM) == nil {
		select {
		case <-p.ended:
			return
		case <-time.After(20 * time.Second):
		}
	}
	p.cmd.Process.Kill()
	<-p.ended
}

// waitForPort waits until something listens on the port. If nothing does in time, the process is stopped.
func (p *process) waitForPort(port string, limit time.Duration) error {
	deadline := time.After(limit)
	for {
		conn, err := net.DialTimeout("tcp", "127.0.0.1:"+port, time.Second)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s exited: %s", filepath.Base(p.cmd.Path), strings.TrimSpace(p.output.String()))
		case <-deadline:
			p.stop()
			return fmt.Errorf("%s doesn't listen after %v: %s", filepath.Base(p.cmd.Path), limit, p.output)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
