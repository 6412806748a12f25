package runner

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// program is a service built from this project.
type program struct{}

func (program) plan(d *Demo, s *service) error {
	name := *s.Build.Args["CMD"]
	if stat, err := os.Stat(filepath.Join(d.options.Root, "cmd", name)); err != nil || !stat.IsDir() {
		return fmt.Errorf("build.args.CMD: %s: there is no folder cmd/%s", name, name)
	}
	// All programs are built together.
	s.needs = d.build("the programs", "")
	s.needs.add("./cmd/" + name)
	return d.addProcesses(s, func(instance int) (string, []string, error) {
		args, err := d.arguments(s, instance, s.Command)
		return d.binary(name), args, err
	})
}

// probe runs the program's own health check, in the environment of the service.
func (program) probe(ctx context.Context, d *Demo, s *service) error {
	if s.HealthCheck == nil || s.HealthCheck.Disable {
		return errNoProbe
	}
	env, err := d.environment(s, 0)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, d.binary(*s.Build.Args["CMD"]), s.HealthCheck.Test[2:]...)
	cmd.Env = env
	confine(cmd)
	return cmd.Run()
}

// defaultGrace is how long Compose waits for a service to stop by default.
const defaultGrace = 10 * time.Second

// addProcesses adds a service's processes, each with the command that it executes.
func (d *Demo) addProcesses(s *service, command func(instance int) (path string, args []string, err error)) error {
	n := s.GetScale()
	for i := range n {
		name := s.Name
		if n > 1 {
			name = fmt.Sprintf("%s-%d", s.Name, i+1)
		}
		path, args, err := command(i)
		if err != nil {
			return err
		}
		env, err := d.environment(s, i)
		if err != nil {
			return err
		}
		s.instances = append(s.instances, &process{
			name:  name,
			grace: or(s.StopGracePeriod, defaultGrace),
			line:  func(line string) { d.line(name, line) },
			ended: func(p *process) { d.ended(s, p) },
			make: func() *exec.Cmd {
				d.addresses.ReleaseFor(s.Name, i)
				cmd := exec.Command(path, args...)
				cmd.Env, cmd.Dir = env, d.dir
				return cmd
			},
		})
	}
	return nil
}

// arguments returns a container's arguments with this machine's addresses.
func (d *Demo) arguments(s *service, instance int, container []string) ([]string, error) {
	var args []string
	for _, arg := range container {
		mapped, err := d.addresses.InText(s.Name, instance, arg)
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
			if value, err = d.addresses.InText(s.Name, instance, value); err != nil {
				return nil, fmt.Errorf("environment.%s: %w", name, err)
			}
		}
		env = append(env, name+"="+value)
	}
	return env, nil
}
