package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is one instance of a service that runs as a process. It can be started again after it has exited.
type process struct {
	name      string // the service, with a number if there are several: worker-2
	path, dir string // what is executed, and where
	args, env []string
	grace     time.Duration // how long it may take to stop gracefully
	line      func(string)  // receives what it writes, line by line
	starting  func()        // called before each start
	ended     func()        // called when it exits without being stopped

	listens func(ctx context.Context) error // if set, waits until it listens

	mu      sync.Mutex
	cmd     *exec.Cmd
	done    chan struct{} // closed when it has exited
	stopped bool          // it was told to stop
}

// command returns a command that is killed when ctx is done. All processes are started with it.
func command(ctx context.Context, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	confine(cmd)
	return cmd
}

// defaultGrace is how long Compose waits for a service to stop by default.
const defaultGrace = 10 * time.Second

// addProcesses adds a service's processes, each with the command that it executes.
func (d *Demo) addProcesses(s *service, command func(instance int) (path string, args []string, err error)) error {
	for i := range s.GetScale() {
		p := &process{name: s.Name, dir: d.dir, grace: or(s.StopGracePeriod, defaultGrace)}
		if s.GetScale() > 1 {
			p.name = fmt.Sprintf("%s-%d", s.Name, i+1)
		}
		p.line = func(line string) { d.line(p.name, line) }
		p.starting = func() { d.addresses.ReleaseFor(s.Name, i) }
		p.ended = func() { d.ended(s, p) }
		var err error
		if p.path, p.args, err = command(i); err != nil {
			return err
		}
		if p.env, err = d.environment(s, i); err != nil {
			return err
		}
		s.instances = append(s.instances, p)
	}
	return nil
}

// arguments returns a container's arguments with this machine's addresses.
func (d *Demo) arguments(s *service, instance int, container []string) ([]string, error) {
	var args []string
	for _, arg := range container {
		mapped, err := d.addresses.Replace(s.Name, instance, arg)
		if err != nil {
			return nil, fmt.Errorf("command: %w", err)
		}
		args = append(args, mapped)
	}
	return args, nil
}

// environment returns what compose sets for a service, and the few variables that any process on this machine needs.
// The user's other variables don't get through, least of all OTEL_ ones: a program's settings are in the compose file.
func (d *Demo) environment(s *service, instance int) ([]string, error) {
	env := []string{}
	for _, name := range []string{"HOME", "PATH", "TMPDIR", "SystemRoot", "TEMP", "TMP", "USERPROFILE"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Environment)) {
		if s.Environment[name] == nil {
			continue
		}
		value := *s.Environment[name]
		if !strings.HasSuffix(name, "_PROXY") { // which is outside the demo
			var err error
			if value, err = d.addresses.Replace(s.Name, instance, value); err != nil {
				return nil, fmt.Errorf("environment.%s: %w", name, err)
			}
		}
		env = append(env, name+"="+value)
	}
	return env, nil
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
	p.starting()
	cmd := command(context.Background(), p.path, p.args...)
	out := &lineWriter{line: p.line}
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = p.env, p.dir, out, out
	cmd.WaitDelay = time.Second // another process may hold the pipe open
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
			p.ended()
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
		p.done = make(chan struct{})
		close(p.done)
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
