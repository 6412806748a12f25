package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// process is one instance of a service that runs as a process. It can be started again after it has exited.
type process struct {
	name  string           // the service, with a number if there are several: worker-2
	make  func() *exec.Cmd // a new command for each start
	grace time.Duration    // how long it may take to stop gracefully
	line  func(string)     // receives what it writes, line by line
	ended func(*process)   // called when it exits without being stopped

	listens func(ctx context.Context) error // if set, waits until it listens

	mu      sync.Mutex
	cmd     *exec.Cmd
	done    chan struct{} // closed when it has exited
	stopped bool          // it was told to stop
}

func (p *process) start(ctx context.Context) error {
	if err := p.run(); err != nil {
		return fmt.Errorf("cannot start %s: %w", p.name, err)
	}
	if p.listens != nil {
		return p.listens(ctx)
	}
	return nil
}

func (p *process) run() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done != nil && !isClosed(p.done) {
		return errors.New("it is already running")
	}
	cmd := p.make()
	out := &lineWriter{line: p.line}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Second // another process may hold the pipe open
	confine(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	p.cmd, p.done, p.stopped = cmd, done, false
	go func() {
		_ = cmd.Wait() // its exit status is in cmd.ProcessState
		out.flush()
		p.mu.Lock()
		stopped := p.stopped
		p.mu.Unlock()
		close(done)
		if !stopped {
			p.ended(p)
		}
	}()
	return nil
}

// stop stops the process with SIGTERM, kills it when its grace period is over, and waits until it has exited.
func (p *process) stop() error {
	return p.end(func() error { return terminate(p.cmd.Process) })
}

// kill kills the process, and waits until it has exited.
func (p *process) kill() error {
	return p.end(func() error { return p.cmd.Process.Kill() })
}

func (p *process) end(end func() error) error {
	p.mu.Lock()
	if p.cmd == nil || isClosed(p.done) {
		p.mu.Unlock()
		return nil
	}
	p.stopped = true
	err := end()
	cmd, done := p.cmd, p.done
	p.mu.Unlock()
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.line(fmt.Sprintf("cannot be stopped gracefully, so it is killed: %v", err))
		_ = cmd.Process.Kill()
	}
	select {
	case <-done:
	case <-time.After(p.grace):
		_ = cmd.Process.Kill() // it may have exited just now
		<-done
		return fmt.Errorf("%s did not stop within %v and was killed", p.name, p.grace)
	}
	return nil
}

func (p *process) signal(sig os.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return fmt.Errorf("%s was never started", p.name)
	}
	return p.cmd.Process.Signal(sig)
}

// running returns a channel that is closed when the process has exited, or if it was never started.
func (p *process) running() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done == nil {
		never := make(chan struct{})
		close(never)
		return never
	}
	return p.done
}

func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// status returns the exit status of a process; after a signal it is 128 plus the signal's number, as in a shell.
func (p *process) status() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil || p.cmd.ProcessState == nil {
		return 0
	}
	if ws, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return p.cmd.ProcessState.ExitCode()
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// lineWriter passes on complete lines. A process writes to it from one goroutine: both its outputs are the same pipe.
type lineWriter struct {
	line func(string)
	rest []byte
}

func (w *lineWriter) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		if i < 0 {
			return len(b), nil
		}
		w.line(string(bytes.TrimSuffix(w.rest[:i], []byte{'\r'})))
		w.rest = w.rest[i+1:]
	}
}

func (w *lineWriter) flush() {
	if len(w.rest) > 0 {
		w.line(string(w.rest))
		w.rest = nil
	}
}
