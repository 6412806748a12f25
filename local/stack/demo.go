package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"otel-demo/local/trace"
)

// Options are what a run of the demo is made of.
type Options struct {
	Root      string                     // the project's root
	Files     []string                   // compose files, relative to Root or absolute, merged in this order
	FreePorts bool                       // published ports get free numbers too, so that several demos run side by side
	RedisURL  string                     // a Redis server to use, rather than the runner's own
	Programs  string                     // a folder that has the programs already; if empty, they are built
	Line      func(service, line string) // gets each line that a service writes, one at a time; service is "" for the demo's own
}

// Demo is the demo as docker-compose.yml and its overlays have it, on this machine.
type Demo struct {
	options   Options
	dir       string // all files of the run; removed at the end
	addresses *addresses
	backend   *backend.Backend
	services  []*service // in the order of their start
	failed    chan error
	stopOnce  sync.Once

	lineMu sync.Mutex

	mu       sync.Mutex
	stopping bool
}

// service is one service of the compose file, and all instances of it.
type service struct {
	types.ServiceConfig
	kind      kind
	instances []instance
	binary    string       // of a program
	env       []string     // of a program, for its health check
	probe     func() error // says whether a service in the runner is up
	awaited   bool         // another service waits for its end
}

// instance is what can be started and stopped: a process, or a server in the runner.
type instance interface {
	start() error
	stop() error // and wait until it is
}

// Start starts all services, in the order and on the conditions of the compose file, and returns when all have started.
// If one can't, or ctx ends before, those that have are stopped again.
func Start(ctx context.Context, options Options) (*Demo, error) {
	if len(options.Files) == 0 {
		options.Files = []string{composeFile}
	}
	project, err := loadProject(ctx, options.Root, options.Files)
	if err != nil {
		return nil, err
	}
	d := &Demo{options: options, backend: backend.New(), failed: make(chan error, 1)}
	if d.addresses, err = newAddresses(project, options.FreePorts); err != nil {
		return nil, err
	}
	if d.dir, err = os.MkdirTemp("", "otel-demo-"); err != nil {
		return nil, err
	}
	if err = d.plan(project); err == nil {
		err = d.start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, d.Stop())
	}
	return d, nil
}

// start starts the services one after the other. The programs are built meanwhile.
func (d *Demo) start(ctx context.Context) error {
	buildCtx, cancel := context.WithCancel(ctx)
	built := make(chan error, 1)
	go func() { built <- d.build(buildCtx) }()
	defer func() {
		cancel()
		if built != nil {
			<-built
		}
	}()

	for _, s := range d.services {
		for _, other := range sortedKeys(s.DependsOn) {
			if err := d.waitFor(ctx, d.service(other), s.DependsOn[other].Condition); err != nil {
				return fmt.Errorf("service %s waits for %s: %w", s.Name, other, err)
			}
		}
		if s.kind == program && built != nil {
			err := <-built
			built = nil
			if err != nil {
				return err
			}
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		for _, i := range s.instances {
			if err := i.start(); err != nil {
				return fmt.Errorf("service %s: %w", s.Name, err)
			}
		}
		if s.kind == collector {
			if err := d.waitForPorts(ctx, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// Stop stops all services in the reverse order of their start, so that whatever one still has to hand over finds the
// next one up, and removes all files. The stores can still be read. Its error names the processes that had to be killed.
func (d *Demo) Stop() error {
	var err error
	d.stopOnce.Do(func() {
		d.mu.Lock()
		d.stopping = true
		d.mu.Unlock()
		for _, s := range slices.Backward(d.services) {
			err = errors.Join(err, d.progress("stopping "+s.Name, s.stop))
		}
		err = errors.Join(err, os.RemoveAll(d.dir))
	})
	return err
}

func (s *service) stop() error {
	errs := make(chan error)
	for _, i := range s.instances {
		go func() { errs <- i.stop() }()
	}
	var err error
	for range s.instances {
		err = errors.Join(err, <-errs)
	}
	return err
}

// Failed gets the first end of a process that should have gone on, as an error that names it. The others go on: it is
// for the caller to stop them.
func (d *Demo) Failed() <-chan error { return d.failed }

// ended is told of each process that ends though nobody stopped it. It is no failure where the compose file has somebody
// wait for the end, and for the client, whose requests are limited; if they end well. Then the demo goes on, for you to
// look around.
func (d *Demo) ended(s *service, p *process) {
	d.mu.Lock()
	stopping := d.stopping
	d.mu.Unlock()
	if stopping || (s.isClient() || s.awaited) && p.status() == 0 {
		return
	}
	select {
	case d.failed <- &endError{p.name, p.status()}:
	default: // it has been told of another one
	}
}

// endError is the end of a process that should have gone on.
type endError struct {
	process string
	status  int
}

func (e *endError) Error() string {
	return fmt.Sprintf("%s ended with exit status %d", e.process, e.status)
}

// isClient says whether a service makes its requests and ends. All other programs go on until they are stopped.
func (s *service) isClient() bool {
	return s.kind == program && s.Build.Args["CMD"] != nil && *s.Build.Args["CMD"] == "client"
}

// Jaeger returns what has arrived at the service jaeger. Zipkin returns what has at the service zipkin.
func (d *Demo) Jaeger() *backend.Store { return d.backend.Jaeger() }

// Zipkin returns what has arrived at the service zipkin.
func (d *Demo) Zipkin() *backend.Store { return d.backend.Zipkin() }

// Has says whether the demo has a service of this name, and doesn't leave it out.
func (d *Demo) Has(name string) bool { return d.service(name) != nil }

// Addr returns where on this machine a port of a service is: `Addr("otel-agent", 4317)` is what other services know as
// otel-agent:4317. It is an error for a port that nobody asked for, in the compose file or the collectors' YAML.
func (d *Demo) Addr(name string, number int) (string, error) {
	if address, ok := d.addresses.of[port{name, 0, number}]; ok {
		return address, nil
	}
	return "", fmt.Errorf("service %s has no port %d in %v", name, number, d.options.Files)
}

// Wait waits until all processes of a service have ended, and returns the highest of their exit statuses.
func (d *Demo) Wait(ctx context.Context, name string) (int, error) {
	processes, err := d.processes(name)
	if err != nil {
		return 0, err
	}
	status := 0
	for _, p := range processes {
		select {
		case <-p.running():
			status = max(status, p.status())
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	return status, nil
}

// Signal sends a signal to all processes of a service. If they end by it, Failed says so.
func (d *Demo) Signal(name string, sig os.Signal) error {
	processes, err := d.processes(name)
	for _, p := range processes {
		err = errors.Join(err, p.signal(sig))
	}
	return err
}

// Kill ends all processes of a service hard, and waits for their end. Failed doesn't count it.
func (d *Demo) Kill(name string) error {
	processes, err := d.processes(name)
	for _, p := range processes {
		err = errors.Join(err, p.kill())
	}
	return err
}

// StopService stops one service in order, as `docker compose stop` does: SIGTERM, and SIGKILL when its grace period is
// over. Services in the runner close their ports and connections. Failed doesn't count it.
func (d *Demo) StopService(name string) error {
	s := d.service(name)
	if s == nil {
		return noService(name)
	}
	return s.stop()
}

// StartService starts a service again that was stopped, was killed or has ended, on the same ports.
func (d *Demo) StartService(ctx context.Context, name string) error {
	s := d.service(name)
	if s == nil {
		return noService(name)
	}
	for _, i := range s.instances {
		if err := i.start(); err != nil {
			return err
		}
	}
	if s.kind == collector {
		return d.waitForPorts(ctx, s)
	}
	return nil
}

// Restart stops a service in order and starts it again.
func (d *Demo) Restart(ctx context.Context, name string) error {
	if err := d.StopService(name); err != nil {
		return err
	}
	return d.StartService(ctx, name)
}

// PIDs returns the ids of a service's processes, none if it runs in the runner.
func (d *Demo) PIDs(name string) []int {
	var pids []int
	processes, _ := d.processes(name) // none: no ids
	for _, p := range processes {
		pids = append(pids, p.pid())
	}
	return pids
}

// killAll ends all processes hard, for somebody who can't wait for Stop, which then has nothing left to wait for.
func (d *Demo) killAll() {
	for _, s := range d.services {
		for _, i := range s.instances {
			if p, ok := i.(*process); ok {
				_ = p.kill() // whatever it says, there is no more that can be done
			}
		}
	}
}

func (d *Demo) service(name string) *service {
	for _, s := range d.services {
		if s.Name == name {
			return s
		}
	}
	return nil
}

func (d *Demo) processes(name string) ([]*process, error) {
	s := d.service(name)
	if s == nil {
		return nil, noService(name)
	}
	var processes []*process
	for _, i := range s.instances {
		p, ok := i.(*process)
		if !ok {
			return nil, fmt.Errorf("service %s is not a process: it runs in the runner", name)
		}
		processes = append(processes, p)
	}
	return processes, nil
}

func noService(name string) error { return fmt.Errorf("there is no service %s", name) }

// line hands on a line, one at a time.
func (d *Demo) line(service, line string) {
	if d.options.Line == nil {
		return
	}
	d.lineMu.Lock()
	defer d.lineMu.Unlock()
	d.options.Line(service, line)
}

// progress does a step, and says that it goes on once it has taken a second, and then every ten.
func (d *Demo) progress(step string, do func() error) error {
	done := make(chan error, 1)
	start := time.Now()
	go func() { done <- do() }()
	for wait := time.Second; ; wait = 10 * time.Second {
		select {
		case err := <-done:
			if wait > time.Second && err == nil {
				d.line("", fmt.Sprintf("%s: done after %v", step, time.Since(start).Round(100*time.Millisecond)))
			}
			return err
		case <-time.After(wait):
			d.line("", fmt.Sprintf("%s ... (%v)", step, time.Since(start).Round(time.Second)))
		}
	}
}

func hostAndPort(address string) (host, number string) {
	host, number, _ = net.SplitHostPort(address) // made by net.JoinHostPort
	return host, number
}

func portNumber(address string) int {
	_, number := hostAndPort(address)
	n, _ := strconv.Atoi(number) // likewise
	return n
}
