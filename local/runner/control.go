package runner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"otel-demo/local/compose"
	"otel-demo/local/spans"
)

// Failed receives an *EndError for the first process that exited although it should have kept running. The others keep
// running until the caller stops them.
func (d *Demo) Failed() <-chan error { return d.failed }

// ended is called for each process that exits without being stopped. That is not a failure if the exit status is 0 and
// either another service waits for it to complete, or it is the client, which makes a limited number of requests. The
// demo then keeps running so that you can look around.
func (d *Demo) ended(s *service, p *process) {
	if d.stopping.Load() || (s.isClient() || s.awaited) && p.status() == 0 {
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
		if s.kind.store != nil {
			backends = append(backends, Backend{s.Name, s.kind.store(d.viewer)})
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
			if s.kind == program {
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
	if address := d.addresses.Of(name, 0, number); address != "" {
		return address, nil
	}
	return "", fmt.Errorf("service %s has no port %d in %v", name, number, d.options.Files)
}

// Addresses returns the addresses of all ports.
func (d *Demo) Addresses() map[compose.Port]string { return d.addresses.All() }

// Dir returns the folder that holds all files of the run. Stop removes it.
func (d *Demo) Dir() string { return d.dir }

// WaitHealthy waits until a service's health check succeeds, for as long as the check allows.
func (d *Demo) WaitHealthy(ctx context.Context, name string) error {
	if s := d.service(name); s != nil {
		return d.waitFor(ctx, s, types.ServiceConditionHealthy)
	}
	return noService(name)
}

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
	if s := d.service(name); s != nil {
		return d.stop(s)
	}
	return noService(name)
}

// StartService restarts a service that was stopped, was killed or has exited, on the same ports.
func (d *Demo) StartService(ctx context.Context, name string) error {
	if s := d.service(name); s != nil {
		return s.start(ctx)
	}
	return noService(name)
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

// service returns a service, or nil.
func (d *Demo) service(name string) *service {
	if i := slices.IndexFunc(d.services, func(s *service) bool { return s.Name == name }); i >= 0 {
		return d.services[i]
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

// ViewerAddress returns the address of the viewer that replaces the backends in these compose files, by their published
// ports.
func ViewerAddress(ctx context.Context, root string, files []string) (string, error) {
	project, err := Load(ctx, root, files)
	if err != nil {
		return "", err
	}
	for _, name := range project.ServiceNames() {
		service := project.Services[name]
		if kind, err := kindOf(service); err != nil || kind.store == nil {
			continue
		}
		for _, p := range service.Ports {
			if p.Published != "" {
				return net.JoinHostPort("127.0.0.1", p.Published), nil
			}
		}
	}
	return "", fmt.Errorf("no jaeger or zipkin publishes a port in %v", files)
}
