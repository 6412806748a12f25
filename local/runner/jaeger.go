package runner

import (
	"fmt"

	"github.com/compose-spec/compose-go/v2/types"

	"otel-demo/local/spans"
	"otel-demo/local/viewer"
)

// jaeger is the side of the viewer that receives OTLP.
var jaeger = &kind{
	name:     "jaeger",
	images:   []string{"jaegertracing/jaeger"},
	settings: []string{"image", "command", "environment.OTEL_TRACES_SAMPLER", "healthcheck", "ports", "tmpfs"},
	ports:    []int{4317, 4318, 16686},
	check:    checkJaeger,
	plan: func(d *Demo, s *service) error {
		s.instances = []instance{d.page(s, 16686, d.viewer.JaegerHandler()), d.page(s, 4318, d.viewer.OTLPHandler()),
			&server{open: func() (func(), error) {
				otlp := d.viewer.OTLP()
				return d.open(s, 4317, otlp.Serve, otlp.Stop)
			}}}
		return nil
	},
	probe: probePort(4317),
	store: (*viewer.Viewer).Jaeger,
}

// keptOption sets how many traces Jaeger keeps. The runner's viewer keeps as many, on Zipkin's side too, whatever
// MEM_MAX_SPANS is.
var keptOption = fmt.Sprint("--set=extensions.jaeger_storage.backends.some_storage.memory.max_traces=", spans.KeptTraces)

func checkJaeger(service types.ServiceConfig) error {
	for _, arg := range service.Command {
		if arg != keptOption {
			return fmt.Errorf("command: %q: the runner's jaeger doesn't support this, only %s", arg, keptOption)
		}
	}
	return nil
}
