package stack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"otel-demo/local/compose"
	"otel-demo/local/poll"
)

// collector is a real collector, on the YAML that the service mounts.
type collector struct{}

// collectors are built from these folders, chosen by the image, as in Docker.
var collectors = map[string]struct{ folder, what, first string }{
	compose.CollectorImage: {folder: "collector", what: "the collector"},
	compose.ContribImage: {"collector/contrib", "the collector with contrib's components",
		"this recipe needs the collector with contrib's components: the first time it takes minutes to build, and then it is kept"},
}

func (collector) plan(d *Demo, s *service) error {
	from := collectors[compose.ImageName(s.ServiceConfig)]
	binary := d.binary(path.Base(from.folder))
	s.needs = d.build(from.what, "local")
	s.needs.add("./" + from.folder)
	if _, err := os.Stat(binary); err != nil {
		s.needs.first = from.first
	}
	err := d.addProcesses(s, func(instance int) (string, []string, error) {
		args, err := d.collectorArguments(s, instance)
		return binary, args, err
	})
	for _, p := range s.processes() {
		d.untilItListens(s, p)
	}
	return err
}

// probe finds none: the image has no program that could ask.
func (collector) probe(context.Context, *Demo, *service) error { return errNoProbe }

// untilItListens makes the start of a collector wait until it listens where others will dial it. Compose starts the others
// at once, and they retry until it does; they would here too. But a container is up sooner than its neighbors, and a
// collector's process is not, so that every start would log their failed tries.
func (d *Demo) untilItListens(s *service, p *process) {
	var ready atomic.Bool // it has said so
	makeCommand, line := p.make, p.line
	p.make = func() *exec.Cmd {
		ready.Store(false)
		return makeCommand()
	}
	p.line = func(text string) {
		if strings.Contains(text, "Everything is ready.") {
			ready.Store(true)
		}
		line(text)
	}
	p.listens = func(ctx context.Context) error {
		for _, port := range d.addresses.Dialled(s.Name) {
			err := d.progress(fmt.Sprintf("waiting for %s to listen on its port %d", s.Name, port.Number), func() error {
				return poll.Until(ctx, 20*time.Millisecond, 0, func() error {
					wasReady := ready.Load()
					err := d.dial(ctx, s, port.Number)
					if err != nil && wasReady {
						return poll.Stop(fmt.Errorf("it is ready and does not listen on its port %d, which another service uses", port.Number))
					}
					return d.unlessFailed(err)
				})
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// collectorArguments returns the container's own arguments, with the YAML that it mounts, for the addresses of this
// machine.
func (d *Demo) collectorArguments(s *service, instance int) ([]string, error) {
	onHost, err := d.mounts(s, instance)
	if err != nil {
		return nil, err
	}
	// In its container each has port 8888 for its own metrics. Here each needs its own, unless its YAML says more.
	metrics, err := d.addresses.Get(compose.Port{Service: s.Name, Instance: instance, Number: 8888})
	if err != nil {
		return nil, err
	}
	_, number := compose.HostAndPort(metrics)
	args := []string{fmt.Sprintf("--config=yaml:service::telemetry::metrics::readers: [{pull: {exporter: "+
		"{prometheus: {host: 127.0.0.1, port: %s, without_scope_info: true, without_units: true, without_type_suffix: true}}}}]", number),
		// Which collector it is stands before each line already.
		"--config=yaml:service::telemetry::logs::disable_zap_resource: true"}
	for _, arg := range s.Command {
		name, value, ok := strings.Cut(arg, "=")
		if !ok && strings.HasPrefix(arg, "-") || name != "--config" && name != "--set" && name != "--feature-gates" {
			return nil, fmt.Errorf("command: %s: the runner can serve --config=PATH, --set=KEY=VALUE, --feature-gates=GATES", arg)
		}
		if name == "--config" && !strings.HasPrefix(value, "yaml:") && !strings.HasPrefix(value, "env:") {
			if value, err = d.mappedYAML(s, instance, strings.TrimPrefix(value, "file:"), onHost); err != nil {
				return nil, fmt.Errorf("command: %w", err)
			}
		} else if value, err = d.addresses.InText(s.Name, instance, value); err != nil {
			return nil, fmt.Errorf("command: %s: %w", name, err)
		}
		args = append(args, name+"="+value)
	}
	return args, nil
}

// RunCollector runs a collector of the core distribution's components until ctx ends. It listens on localhost:4317, and
// throws all spans away.
func RunCollector(ctx context.Context, root string) error {
	d := &Demo{options: Options{Root: root, Line: func(_, line string) { fmt.Fprintln(os.Stderr, line) }}}
	b := &build{what: "the collector", module: "local", packages: []string{"./collector"}, done: make(chan struct{})}
	if b.run(ctx, d); b.err != nil {
		return b.err
	}
	cmd := exec.CommandContext(ctx, d.binary("collector"),
		`--config=yaml:receivers: {otlp: {protocols: {grpc: {endpoint: "127.0.0.1:4317"}}}}`,
		"--config=yaml:exporters: {debug: {}}",
		"--config=yaml:service: {pipelines: {traces: {receivers: [otlp], exporters: [debug]}}, "+
			"telemetry: {metrics: {level: none}, logs: {disable_zap_resource: true}}}")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return terminate(cmd.Process) }
	confine(cmd)
	if err := cmd.Run(); ctx.Err() == nil {
		return err
	}
	return nil // it was asked to end
}
