package runner

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"otel-demo/local/compose"
	"otel-demo/local/poll"
)

// collector runs a real collector, with the YAML that the service mounts.
var collector = &kind{
	name:     "collector",
	images:   slices.Collect(maps.Keys(collectors)),
	settings: []string{"image", "command", "environment", "env_file", "ports", "volumes", "tmpfs"},
	scales:   true,
	check: func(service types.ServiceConfig) error {
		if _, tag := imageOf(service); tag != collectorVersion {
			return fmt.Errorf("image: %s: the runner's collector is %s; keep local/go.mod and the image in sync",
				service.Image, collectorVersion)
		}
		return nil
	},
	plan: planCollector,
}

// collectorVersion is the version of the modules in go.mod. The images must have the same.
const collectorVersion = "0.165.0"

// collectors are built from these folders. The image selects one, as in Docker.
var collectors = map[string]struct{ folder, what, first string }{
	"otel/opentelemetry-collector": {folder: "collector", what: "the collector"},
	"otel/opentelemetry-collector-contrib": {"collector/contrib", "the collector with contrib's components",
		"this recipe needs the collector with contrib's components: the first build takes minutes, later runs reuse it"},
}

func planCollector(d *Demo, s *service) error {
	image, _ := imageOf(s.ServiceConfig)
	from := collectors[image]
	binary := d.binary(path.Base(from.folder))
	s.needs = d.build(from.what, "local", "./"+from.folder)
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

// untilItListens makes a collector's start wait until it listens where others will dial it. Compose starts the others
// right away, and they retry until it listens; they would here too. But while a container is up before its neighbors, a
// collector's process is not, so every start would log their failed attempts.
func (d *Demo) untilItListens(s *service, p *process) {
	var ready atomic.Bool // it has logged that it is ready
	starting, line := p.starting, p.line
	p.starting = func() { ready.Store(false); starting() }
	p.line = func(text string) {
		if strings.Contains(text, "Everything is ready.") {
			ready.Store(true)
		}
		line(text)
	}
	p.listens = func(ctx context.Context) error {
		ports, _ := d.addresses.Dialed(s.Name)
		for _, port := range ports {
			err := d.progress(fmt.Sprintf("waiting for %s to listen on port %d", s.Name, port), func() error {
				return poll.Until(ctx, 20*time.Millisecond, 0, func() error {
					wasReady := ready.Load()
					err := d.dial(ctx, s, port)
					if err != nil && wasReady {
						return poll.Stop(fmt.Errorf("it is ready but does not listen on port %d, which another service uses",
							port))
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

// collectorArguments returns the container's arguments, and the YAML that it mounts, with this machine's addresses.
func (d *Demo) collectorArguments(s *service, instance int) ([]string, error) {
	onHost, err := d.mounts(s, instance)
	if err != nil {
		return nil, err
	}
	// In its container, each serves its metrics on port 8888. Here, each needs its own port; its YAML may override it.
	metrics, err := d.addresses.Assign(compose.Port{Service: s.Name, Instance: instance, Number: 8888})
	if err != nil {
		return nil, err
	}
	_, number := compose.HostAndPort(metrics)
	args := []string{fmt.Sprintf("--config=yaml:service::telemetry::metrics::readers: [{pull: {exporter: "+
		"{prometheus: {host: 127.0.0.1, port: %s, without_scope_info: true, without_units: true, without_type_suffix: true}}}}]", number),
		// The service's name already precedes each line.
		"--config=yaml:service::telemetry::logs::disable_zap_resource: true"}
	for _, arg := range s.Command {
		name, value, ok := strings.Cut(arg, "=")
		if !ok && strings.HasPrefix(arg, "-") || name != "--config" && name != "--set" && name != "--feature-gates" {
			return nil, fmt.Errorf("command: %s: the runner supports only "+
				"--config=PATH, --set=KEY=VALUE, --feature-gates=GATES", arg)
		}
		if name == "--config" && !strings.HasPrefix(value, "yaml:") && !strings.HasPrefix(value, "env:") {
			if value, err = d.mappedYAML(s, instance, strings.TrimPrefix(value, "file:"), onHost); err != nil {
				return nil, fmt.Errorf("command: %w", err)
			}
		} else if value, err = d.addresses.Replace(s.Name, instance, value); err != nil {
			return nil, fmt.Errorf("command: %s: %w", name, err)
		}
		args = append(args, name+"="+value)
	}
	return args, nil
}
