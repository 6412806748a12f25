// Package runner runs the services of compose files on this machine: it builds what needs to be built, starts each
// service in order and on its conditions, and stops them all. Each kind of service has its own file.
package runner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"otel-demo/local/compose"
	"otel-demo/local/spans"
	"otel-demo/local/viewer"
)

// Options configure a run of the demo.
type Options struct {
	Root      string                     // the project's root
	Files     []string                   // compose files, relative to Root or absolute, merged in this order
	FreePorts bool                       // published ports get free numbers too, so several demos can run side by side
	RedisURL  string                     // a Redis server to use instead of the runner's own
	Binaries  string                     // a folder with prebuilt programs and collectors; if empty, they are built
	Line      func(service, line string) // receives the services' lines, one at a time; service is "" for the demo's own
	Kill      <-chan struct{}            // when it is closed, all processes are killed, without waiting for Stop
}

// Demo is the demo that docker-compose.yml and its overlays describe, on this machine.
type Demo struct {
	options   Options
	dir       string // for all files of the run; removed at the end
	addresses *compose.Addresses
	viewer    *viewer.Viewer
	builds    map[string]*build
	services  []*service // in start order
	failed    chan error
	stopOnce  sync.Once
	stopped   chan struct{}

	lineMu sync.Mutex

	mu       sync.Mutex
	stopping bool
	counted  map[string]hop // what collectors counted before they were stopped
}

// service is one service of the compose file, with all its instances.
type service struct {
	types.ServiceConfig
	kind      compose.Kind
	instances []instance // none if it is left out
	needs     *build     // the build of what it executes, if it is built
	awaited   bool       // another service waits for it to complete
}

// instance is something that can be started and stopped: a process, or a server in the runner.
type instance interface {
	start(ctx context.Context) error // returns when others can use it
	stop() error                     // returns when it has stopped
}

// kind is how the runner handles services of one kind.
type kind interface {
	plan(d *Demo, s *service) error                       // creates the service's instances without starting them
	probe(ctx context.Context, d *Demo, s *service) error // returns nil if the service is healthy
}

var kinds = map[compose.Kind]kind{
	compose.Program:    program{},
	compose.Collector:  collector{},
	compose.Redis:      redis{},
	compose.RedisCLI:   redisCLI{},
	compose.Jaeger:     jaeger{},
	compose.Zipkin:     zipkin{},
	compose.Prometheus: prometheus{},
	compose.Nothing:    nothing{},
}

// nothing is a service that exits immediately.
type nothing struct{}

func (nothing) plan(*Demo, *service) error                   { return nil }
func (nothing) probe(context.Context, *Demo, *service) error { return errNoProbe }

var errNoProbe = errors.New("it has no healthcheck")

// Start starts all services, in the order and on the conditions of the compose file, and returns when all have started.
// If one fails to start, or ctx is done first, it stops those that have started.
func Start(ctx context.Context, options Options) (*Demo, error) {
	project, err := compose.Load(ctx, options.Root, options.Files)
	if err != nil {
		return nil, err
	}
	d := &Demo{options: options, viewer: viewer.New(), builds: map[string]*build{}, counted: map[string]hop{}, failed: make(chan error, 1),
		stopped: make(chan struct{})}
	if d.addresses, err = compose.NewAddresses(project, options.FreePorts, options.RedisURL); err != nil {
		return nil, err
	}
	defer d.addresses.Release() // those still unused
	if d.dir, err = os.MkdirTemp("", "otel-demo-"); err != nil {
		return nil, err
	}
	d.viewer.Hops = func() string { return d.Hops().Table() }
	if err = d.plan(project); err == nil {
		go d.killOnRequest()
		err = d.start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, d.Stop())
	}
	return d, nil
}

// plan creates every service of the project, with everything needed to start it.
func (d *Demo) plan(project *types.Project) error {
	for _, name := range compose.StartOrder(project) {
		config := project.Services[name]
		kind, err := compose.KindOf(config)
		if err != nil {
			return err
		}
		d.services = append(d.services, &service{ServiceConfig: config, kind: kind})
	}
	for _, s := range d.services {
		for other, dependency := range s.DependsOn {
			if dependency.Condition == types.ServiceConditionCompletedSuccessfully {
				d.service(other).awaited = true
			}
		}
		if err := kinds[s.kind].plan(d, s); err != nil {
			return fmt.Errorf("services.%s.%w", s.Name, err)
		}
	}
	return nil
}

// start starts the services one after another, while what they execute is being built.
func (d *Demo) start(ctx context.Context) error {
	buildCtx, cancel := context.WithCancel(ctx)
	for _, name := range slices.Sorted(maps.Keys(d.builds)) {
		b := d.builds[name]
		go b.run(buildCtx, d)
		defer func() { <-b.done }()
	}
	defer cancel()

	for _, s := range d.services {
		for _, other := range slices.Sorted(maps.Keys(s.DependsOn)) {
			if err := d.waitFor(ctx, d.service(other), s.DependsOn[other].Condition); err != nil {
				return fmt.Errorf("service %s waits for %s: %w", s.Name, other, err)
			}
		}
		if s.needs != nil {
			<-s.needs.done // it reports its own progress
			if s.needs.err != nil {
				return s.needs.err
			}
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := s.start(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *service) start(ctx context.Context) error {
	for _, i := range s.instances {
		if err := i.start(ctx); err != nil {
			return fmt.Errorf("service %s: %w", s.Name, err)
		}
	}
	return nil
}

// Stop stops all services in reverse start order, so that the next hop is still up for whatever a service has yet to
// deliver, and removes all files. The stores can still be read. The error names the processes that had to be killed.
func (d *Demo) Stop() error {
	var err error
	d.stopOnce.Do(func() {
		d.mu.Lock()
		d.stopping = true
		d.mu.Unlock()
		for _, s := range slices.Backward(d.services) {
			err = errors.Join(err, d.progress("stopping "+s.Name, func() error { return d.stop(s) }))
		}
		close(d.stopped)
		err = errors.Join(err, os.RemoveAll(d.dir))
	})
	return err
}

func (d *Demo) stop(s *service) error {
	if s.kind == compose.Collector {
		d.countHop(s)
	}
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

// killOnRequest kills all processes when Options.Kill is closed. Stop then has nothing left to wait for.
func (d *Demo) killOnRequest() {
	select {
	case <-d.options.Kill:
	case <-d.stopped:
		return
	}
	for _, s := range d.services {
		for _, p := range s.processes() {
			_ = p.kill() // if it fails, there is nothing else to do
		}
	}
}

// Failed receives an *EndError for the first process that exited although it should have kept running. The others keep
// running until the caller stops them.
func (d *Demo) Failed() <-chan error { return d.failed }

// ended is called for each process that exits without being stopped. That is not a failure if the exit status is 0 and
// either another service waits for it to complete, or it is the client, which makes a limited number of requests. The
// demo then keeps running so that you can look around.
func (d *Demo) ended(s *service, p *process) {
	d.mu.Lock()
	stopping := d.stopping
	d.mu.Unlock()
	if stopping || (s.isClient() || s.awaited) && p.status() == 0 {
		return
	}
	select {
	case d.failed <- &EndError{p.name, p.status(), s.isClient()}:
	default: // another one has been reported already
	}
}

// EndError reports that a process exited that should have kept running.
type EndError struct {
	Process  string // the service, with a number if there are several
	Status   int
	OfClient bool
}

func (e *EndError) Error() string {
	return fmt.Sprintf("%s exited with status %d", e.Process, e.Status)
}

// isClient reports whether a service makes its requests and exits. All other programs run until they are stopped.
func (s *service) isClient() bool {
	return s.kind == compose.Program && *s.Build.Args["CMD"] == "client"
}

// Clients returns the names of the services that make their requests and exit.
func (d *Demo) Clients() (names []string) {
	for _, s := range d.services {
		if s.isClient() {
			names = append(names, s.Name)
		}
	}
	return names
}

// Jaeger returns what has arrived at the service jaeger.
func (d *Demo) Jaeger() *spans.Store { return d.viewer.Jaeger() }

// Zipkin returns what has arrived at the service zipkin.
func (d *Demo) Zipkin() *spans.Store { return d.viewer.Zipkin() }

// A Backend is a service that keeps traces, with its store.
type Backend struct {
	Service string
	*spans.Store
}

// Backends returns the demo's backends, except those that are left out.
func (d *Demo) Backends() (backends []Backend) {
	for _, s := range d.services {
		switch s.kind {
		case compose.Jaeger:
			backends = append(backends, Backend{s.Name, d.Jaeger()})
		case compose.Zipkin:
			backends = append(backends, Backend{s.Name, d.Zipkin()})
		}
	}
	return backends
}

// Places lists where you can look at the demo: the published ports.
func (d *Demo) Places() string {
	var places []string
	for _, s := range d.services {
		if len(s.instances) == 0 {
			continue // left out
		}
		for _, p := range s.Ports {
			address, err := d.Addr(s.Name, int(p.Target))
			if err != nil {
				continue // the service doesn't listen there
			}
			path := ""
			if s.kind == compose.Program {
				path = "/hello"
			}
			_, number := compose.HostAndPort(address)
			places = append(places, fmt.Sprintf("%s: http://localhost:%s%s", s.Name, number, path))
		}
	}
	return strings.Join(places, ", ")
}

// Addr returns the address of a service's port on this machine.
func (d *Demo) Addr(name string, number int) (string, error) {
	if address, ok := d.addresses.All()[compose.Port{Service: name, Number: number}]; ok {
		return address, nil
	}
	return "", fmt.Errorf("service %s has no port %d in %v", name, number, d.options.Files)
}

// Addresses returns the addresses of all ports.
func (d *Demo) Addresses() map[compose.Port]string { return d.addresses.All() }

// Dir returns the folder that holds all files of the run. Stop removes it.
func (d *Demo) Dir() string { return d.dir }

// Wait waits until all processes of a service have exited, and returns their highest exit status.
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

// Signal sends a signal to all processes of a service. If they exit, Failed reports it.
func (d *Demo) Signal(name string, sig os.Signal) error {
	processes, err := d.processes(name)
	for _, p := range processes {
		err = errors.Join(err, p.signal(sig))
	}
	return err
}

// Kill kills all processes of a service, and waits until they have exited. Failed doesn't report it.
func (d *Demo) Kill(name string) error {
	processes, err := d.processes(name)
	for _, p := range processes {
		err = errors.Join(err, p.kill())
	}
	return err
}

// StopService stops one service gracefully, as `docker compose stop` does: with SIGTERM, and with SIGKILL when its
// grace period is over. Services in the runner close their ports and connections. Failed doesn't report it.
func (d *Demo) StopService(name string) error {
	s := d.service(name)
	if s == nil {
		return noService(name)
	}
	return d.stop(s)
}

// StartService restarts a service that was stopped, was killed or has exited, on the same ports.
func (d *Demo) StartService(ctx context.Context, name string) error {
	s := d.service(name)
	if s == nil {
		return noService(name)
	}
	return s.start(ctx)
}

// Restart stops a service gracefully and starts it again.
func (d *Demo) Restart(ctx context.Context, name string) error {
	if err := d.StopService(name); err != nil {
		return err
	}
	return d.StartService(ctx, name)
}

// Services returns the names of all services, in start order.
func (d *Demo) Services() (names []string) {
	for _, s := range d.services {
		names = append(names, s.Name)
	}
	return names
}

// PIDs returns the ids of a service's processes; a service in the runner has none.
func (d *Demo) PIDs(name string) (pids []int) {
	if s := d.service(name); s != nil {
		for _, p := range s.processes() {
			pids = append(pids, p.pid())
		}
	}
	return pids
}

func (d *Demo) service(name string) *service {
	for _, s := range d.services {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// processes returns a service's instances that are processes.
func (s *service) processes() (processes []*process) {
	for _, i := range s.instances {
		if p, ok := i.(*process); ok {
			processes = append(processes, p)
		}
	}
	return processes
}

func (d *Demo) processes(name string) ([]*process, error) {
	s := d.service(name)
	if s == nil {
		return nil, noService(name)
	}
	processes := s.processes()
	if len(processes) < len(s.instances) {
		return nil, fmt.Errorf("service %s is not a process: it runs in the runner", name)
	}
	return processes, nil
}

func noService(name string) error { return fmt.Errorf("there is no service %s", name) }

// line passes lines to Options.Line, one at a time.
func (d *Demo) line(service, line string) {
	if d.options.Line == nil {
		return
	}
	d.lineMu.Lock()
	defer d.lineMu.Unlock()
	d.options.Line(service, line)
}

// progress runs a step. While the step runs, it logs progress after one second, and then every ten seconds.
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
