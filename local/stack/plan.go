package stack

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
)

// defaultGrace is how long Compose waits for a service to stop.
const defaultGrace = 10 * time.Second

// plan makes every service of the project, with all that its start needs. Nothing is started yet.
func (d *Demo) plan(project *types.Project) error {
	for _, name := range startOrder(project) {
		config := project.Services[name]
		kind, err := kindOf(config)
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
	}
	// The servers in the runner come first: the ports that they have are all that others may ask them for.
	for _, s := range d.services {
		if err := d.planServer(s); err != nil {
			return fmt.Errorf("services.%s: %w", s.Name, err)
		}
	}
	for _, s := range d.services {
		if err := d.planProcesses(s); err != nil {
			return fmt.Errorf("services.%s.%w", s.Name, err)
		}
	}
	return nil
}

// planProcesses makes the processes of a program, a collector or a Prometheus.
func (d *Demo) planProcesses(s *service) error {
	if s.kind != program && s.kind != collector && s.kind != prometheus {
		return nil
	}
	grace := defaultGrace
	if s.StopGracePeriod != nil {
		grace = time.Duration(*s.StopGracePeriod)
	}
	n := s.GetScale()
	for i := range n {
		name := s.Name
		if n > 1 {
			name = fmt.Sprintf("%s-%d", s.Name, i+1)
		}
		command, args, err := d.command(s, i)
		if err != nil {
			return err
		}
		if command == "" {
			return nil // it is left out, and said so
		}
		env, err := d.environment(s, i)
		if err != nil {
			return err
		}
		if s.kind == program {
			s.binary, s.env = command, env
		}
		s.instances = append(s.instances, &process{
			name:  name,
			grace: grace,
			line:  func(line string) { d.line(name, line) },
			ended: func(p *process) { d.ended(s, p) },
			make: func() *exec.Cmd {
				cmd := exec.Command(command, args...)
				cmd.Env, cmd.Dir = env, d.dir
				return cmd
			},
		})
	}
	return nil
}

// command returns what one instance of a service executes.
func (d *Demo) command(s *service, instance int) (command string, args []string, err error) {
	switch s.kind {
	case program:
		command = filepath.Join(cmp.Or(d.options.Programs, d.dir), *s.Build.Args["CMD"])
		if runtime.GOOS == "windows" {
			command += ".exe"
		}
		args, err = d.arguments(s, instance, s.Command, noPaths)
	case collector:
		command, args, err = d.collectorCommand(s, instance)
	case prometheus:
		command, args, err = d.prometheusCommand(s)
	}
	return command, args, err
}

// arguments are a container's, with the paths and addresses of this machine.
func (d *Demo) arguments(s *service, instance int, container []string, onHost func(string) string) ([]string, error) {
	var args []string
	for _, arg := range container {
		if path := onHost(arg); path != arg {
			args = append(args, path)
			continue
		}
		mapped, err := d.addresses.inText(s.Name, instance, arg)
		if err != nil {
			return nil, fmt.Errorf("command: %w", err)
		}
		args = append(args, mapped)
	}
	return args, nil
}

func noPaths(path string) string { return path }

// environment is what compose gives a service, and the little that any process on this machine needs. Nothing else of
// the user's own gets through, OTEL_ variables least of all: what a program is told stands in the compose file.
func (d *Demo) environment(s *service, instance int) ([]string, error) {
	env := []string{}
	for _, name := range []string{"HOME", "PATH", "TMPDIR", "SystemRoot", "TEMP", "TMP", "USERPROFILE"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	for _, name := range sortedKeys(s.Environment) {
		if s.Environment[name] == nil {
			continue
		}
		value, err := d.addresses.inText(s.Name, instance, *s.Environment[name])
		if err != nil {
			return nil, fmt.Errorf("environment.%s: %w", name, err)
		}
		env = append(env, name+"="+value)
	}
	return env, nil
}

// build compiles the programs, all at once.
func (d *Demo) build(ctx context.Context) error {
	var names, packages []string
	for _, s := range d.services {
		if s.kind != program || slices.Contains(names, *s.Build.Args["CMD"]) {
			continue
		}
		name := *s.Build.Args["CMD"]
		if stat, err := os.Stat(filepath.Join(d.options.Root, "cmd", name)); err != nil || !stat.IsDir() {
			return fmt.Errorf("services.%s.build.args.CMD: %s: there is no folder cmd/%s", s.Name, name, name)
		}
		names, packages = append(names, name), append(packages, "./cmd/"+name)
	}
	if len(names) == 0 || d.options.Programs != "" {
		return nil
	}
	return d.progress("building "+strings.Join(names, ", "), func() error {
		return goBuild(ctx, d.options.Root, d.dir, packages...)
	})
}

// goBuild compiles packages of the project into a folder.
func goBuild(ctx context.Context, root, dir string, packages ...string) error {
	// The tag, the flags and the variable are those of the Dockerfile.
	args := []string{"-C", root, "build", "-tags", "grpcnotrace", "-ldflags", "-s -w", "-o", dir + string(filepath.Separator)}
	cmd := exec.CommandContext(ctx, "go", append(args, packages...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	confine(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// waitFor waits until what another service depends on is so.
func (d *Demo) waitFor(ctx context.Context, s *service, condition string) error {
	switch condition {
	case types.ServiceConditionHealthy:
		return d.progress("waiting for "+s.Name+" to be healthy", func() error { return d.waitHealthy(ctx, s) })
	case types.ServiceConditionCompletedSuccessfully:
		return d.progress("waiting for "+s.Name+" to complete", func() error {
			status, err := d.Wait(ctx, s.Name)
			if err == nil && status != 0 {
				err = &endError{s.Name, status}
			}
			return err
		})
	}
	return nil
}

// waitHealthy probes a service until it is well, for as long as its health check says; in shorter steps, so that the
// demo starts soon.
func (d *Demo) waitHealthy(ctx context.Context, s *service) error {
	interval, timeout, retries, start := 30*time.Second, 30*time.Second, 3, time.Duration(0) // Compose's defaults
	if check := s.HealthCheck; check != nil {
		interval, timeout = or(check.Interval, interval), or(check.Timeout, timeout)
		start = or(check.StartPeriod, start)
		if check.Retries != nil {
			retries = int(*check.Retries)
		}
	}
	probe := func(context.Context) error { return s.probe() }
	if s.kind == program {
		if s.HealthCheck == nil || s.HealthCheck.Disable {
			return fmt.Errorf("it has no healthcheck")
		}
		probe = func(ctx context.Context) error {
			cmd := exec.CommandContext(ctx, s.binary, s.HealthCheck.Test[2:]...)
			cmd.Env = s.env
			confine(cmd)
			return cmd.Run()
		}
	} else if s.probe == nil {
		return fmt.Errorf("the runner has no health check for a %s", s.kind)
	}
	end := time.Now().Add(start + time.Duration(retries)*interval)
	for {
		probeCtx, cancel := context.WithTimeout(ctx, timeout)
		err := probe(probeCtx)
		cancel()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("it is unhealthy: %w", err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-d.failed:
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func or(d *types.Duration, byDefault time.Duration) time.Duration {
	if d == nil {
		return byDefault
	}
	return time.Duration(*d)
}

// waitForPorts waits until a collector listens where others will dial it. Compose starts the others at once, and they try
// again until it does; they would here too. But a container is up sooner than its neighbours, and a collector's process
// is not, so that every start would log their failed tries.
func (d *Demo) waitForPorts(ctx context.Context, s *service) error {
	return d.progress("waiting for "+s.Name+" to listen", func() error {
		for p := range d.addresses.dialled {
			if p.service != s.Name {
				continue
			}
			for end := time.Now().Add(10 * time.Second); ; {
				conn, err := net.DialTimeout("tcp", d.addresses.of[p], time.Second)
				if err == nil {
					_ = conn.Close() // it was only a question
					break
				}
				if time.Now().After(end) {
					return fmt.Errorf("service %s does not listen on its port %d, which another service uses", s.Name, p.number)
				}
				select {
				case <-ctx.Done():
					return context.Cause(ctx)
				case err := <-d.failed:
					return err
				case <-time.After(20 * time.Millisecond):
				}
			}
		}
		return nil
	})
}

// mounts returns a function that turns a path in a container of the service into the one on this machine, where the
// service mounts one there. Files and folders of the project are used as they are. A volume, which belongs to all services
// that name it, is a folder of the run, and so is a tmpfs, which is the instance's own.
func (d *Demo) mounts(s *service, instance int) (func(path string) string, error) {
	type mount struct{ target, host string }
	var mounts []mount
	for _, v := range s.Volumes {
		host := v.Source
		switch v.Type {
		case types.VolumeTypeVolume:
			host = filepath.Join(d.dir, "volumes", v.Source)
		case types.VolumeTypeTmpfs:
			host = filepath.Join(d.dir, "tmpfs", s.Name, fmt.Sprint(instance), url.PathEscape(v.Target))
		}
		mounts = append(mounts, mount{v.Target, host})
		if v.Type != types.VolumeTypeBind {
			if err := os.MkdirAll(host, 0o700); err != nil {
				return nil, err
			}
		} else if _, err := os.Stat(host); err != nil {
			return nil, fmt.Errorf("volumes: %w", err)
		}
	}
	for _, target := range s.Tmpfs {
		target, _, _ = strings.Cut(target, ":")
		host := filepath.Join(d.dir, "tmpfs", s.Name, fmt.Sprint(instance), url.PathEscape(target))
		mounts = append(mounts, mount{target, host})
		if err := os.MkdirAll(host, 0o700); err != nil {
			return nil, err
		}
	}
	return func(container string) string {
		for _, m := range mounts {
			target := path.Clean(m.target)
			if container == target || strings.HasPrefix(container, target+"/") {
				return filepath.Join(m.host, filepath.FromSlash(strings.TrimPrefix(container, target)))
			}
		}
		return container
	}, nil
}
