// Package runner is what runs the demo without Docker: it starts the services of compose files on this machine, in order
// and on their conditions, builds what needs to be built, and stops them all.
package runner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"otel-demo/local/compose"
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
	stopping  atomic.Bool
	stopped   chan struct{}

	lineMu sync.Mutex

	mu      sync.Mutex
	counted map[string]hop // what collectors counted before they were stopped
}

// service is one service of the compose file, with all its instances.
type service struct {
	types.ServiceConfig
	kind      *kind
	instances []instance // none if it is left out
	needs     *build     // the build of what it executes, if it is built
	awaited   bool       // another service waits for it to complete
}

// instance is something that can be started and stopped: a process, or a server in the runner.
type instance interface {
	start(ctx context.Context) error // returns when others can use it
	stop() error                     // returns when it has stopped
}

// Start starts all services, in the order and on the conditions of the compose file, and returns when all have started.
// If one fails to start, or ctx is done first, it stops those that have started.
func Start(ctx context.Context, options Options) (*Demo, error) {
	project, err := Load(ctx, options.Root, options.Files)
	if err != nil {
		return nil, err
	}
	d := newDemo(options, project)
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

func newDemo(options Options, project *types.Project) *Demo {
	return &Demo{options: options, addresses: compose.NewAddresses(project), viewer: viewer.New(), builds: map[string]*build{},
		counted: map[string]hop{}, failed: make(chan error, 1), stopped: make(chan struct{})}
}

// plan creates every service of the project, with everything needed to start it. It assigns all addresses.
func (d *Demo) plan(project *types.Project) error {
	for _, name := range compose.StartOrder(project) {
		kind, err := kindOf(project.Services[name])
		if err != nil {
			return err
		}
		s := &service{ServiceConfig: project.Services[name], kind: kind}
		d.services = append(d.services, s)
		if kind.assign != nil {
			err = kind.assign(d, s)
		} else {
			err = d.assign(s)
		}
		if err != nil {
			return err
		}
	}
	for _, s := range d.services {
		for other, dependency := range s.DependsOn {
			if dependency.Condition == types.ServiceConditionCompletedSuccessfully {
				d.service(other).awaited = true
			}
		}
		if s.kind.plan == nil {
			continue
		}
		if err := s.kind.plan(d, s); err != nil {
			return fmt.Errorf("services.%s.%w", s.Name, err)
		}
	}
	return nil
}

func (d *Demo) assign(s *service) error {
	return d.addresses.Add(s.ServiceConfig, d.options.FreePorts, s.kind.ports...)
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
		d.stopping.Store(true)
		for _, s := range slices.Backward(d.services) {
			err = errors.Join(err, d.progress("stopping "+s.Name, func() error { return d.stop(s) }))
		}
		close(d.stopped)
		err = errors.Join(err, os.RemoveAll(d.dir))
	})
	return err
}

func (d *Demo) stop(s *service) error {
	if s.kind == collector {
		d.countHop(s)
	}
	errs := make([]error, len(s.instances))
	var wait sync.WaitGroup
	for i, instance := range s.instances {
		wait.Go(func() { errs[i] = instance.stop() })
	}
	wait.Wait()
	return errors.Join(errs...)
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
