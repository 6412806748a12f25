package runner

import (
	"context"

	"github.com/compose-spec/compose-go/v2/types"
)

// foreign is a program that isn't built from cmd, because it isn't Go. You start it yourself; no service waits for it.
var foreign = &kind{
	name: "program of another language",
	is: func(service types.ServiceConfig) bool {
		return service.Build != nil && service.Build.Args["CMD"] == nil
	},
	settings: []string{"build.context", "build.dockerfile", "environment", "healthcheck"},
	plan: func(d *Demo, s *service) error {
		d.line("", s.Name+" is left out, because its build has no argument CMD, which names a program in cmd: start it yourself")
		return nil
	},
	probe: func(context.Context, *Demo, *service) error { return nil },
}
