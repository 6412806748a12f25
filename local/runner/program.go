package runner

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/compose-spec/compose-go/v2/types"
)

// program is a service built from this project.
var program = &kind{
	name: "program",
	is:   func(service types.ServiceConfig) bool { return service.Build != nil },
	settings: []string{"build.context", "build.dockerfile", "build.args.CMD", "build.args.VERSION", "command",
		"environment", "env_file", "healthcheck", "ports", "tmpfs"},
	scales: true,
	check:  checkProgram,
	plan:   planProgram,
	probe:  probeProgram,
}

func checkProgram(service types.ServiceConfig) error {
	if check := service.HealthCheck; check != nil && !check.Disable &&
		(len(check.Test) < 2 || check.Test[0] != "CMD" || check.Test[1] != "/app") {
		return fmt.Errorf(`healthcheck.test: %q: the runner supports only ["CMD", "/app", ...]`, check.Test)
	}
	return nil
}

func planProgram(d *Demo, s *service) error {
	name := *s.Build.Args["CMD"]
	if stat, err := os.Stat(filepath.Join(d.options.Root, "cmd", name)); err != nil || !stat.IsDir() {
		return fmt.Errorf("build.args.CMD: %s: there is no folder cmd/%s", name, name)
	}
	s.needs = d.build("the programs", "", "./cmd/"+name) // all are built together
	return d.addProcesses(s, func(instance int) (string, []string, error) {
		args, err := d.arguments(s, instance, s.Command)
		return d.binary(name), args, err
	})
}

// probeProgram runs the program's own health check, in the environment of the service.
func probeProgram(ctx context.Context, _ *Demo, s *service) error {
	if s.HealthCheck == nil || s.HealthCheck.Disable {
		return errNoProbe
	}
	p := s.processes()[0]
	cmd := command(ctx, p.path, s.HealthCheck.Test[2:]...)
	cmd.Env = p.env
	return cmd.Run()
}

// isClient reports whether a service makes its requests and exits. All other programs run until they are stopped.
func (s *service) isClient() bool {
	return s.Build != nil && s.Build.Args["CMD"] != nil && *s.Build.Args["CMD"] == "client"
}
