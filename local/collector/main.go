package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/open-telemetry/opentelemetry-collector-contrib/connector/spanmetricsconnector"
	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/fileexporter"
	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/googlecloudexporter"
	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/loadbalancingexporter"
	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/prometheusexporter"
	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/zipkinexporter"
	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/healthcheckextension"
	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/attributesprocessor"
	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/filterprocessor"
	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/probabilisticsamplerprocessor"
	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/redactionprocessor"
	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/resourceprocessor"
	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/tailsamplingprocessor"
	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/transformprocessor"
	"github.com/open-telemetry/opentelemetry-collector-contrib/receiver/jaegerreceiver"
	"github.com/open-telemetry/opentelemetry-collector-contrib/receiver/zipkinreceiver"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/confmap/provider/yamlprovider"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/debugexporter"
	"go.opentelemetry.io/collector/exporter/otlpexporter"
	"go.opentelemetry.io/collector/exporter/otlphttpexporter"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/batchprocessor"
	"go.opentelemetry.io/collector/processor/memorylimiterprocessor"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"
)

// collectorName, as the first argument, makes this program a collector. The runner starts itself again with it, so that
// each collector is a process of its own, as in compose: one can be stopped, killed or restarted without the others.
const collectorName = "otelcol"

// collectorVersion is that of the modules in go.mod, and so must be the image's.
const collectorVersion = "0.158.0"

// collectorCommand returns what makes this program the collector of a service: with the container's own arguments, and
// with the YAML that it mounts, for the addresses of this machine.
func (d *Demo) collectorCommand(s *service, instance int) (string, []string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	onHost, err := d.mounts(s, instance)
	if err != nil {
		return "", nil, err
	}
	// In its container each has port 8888 for its own metrics. Here each needs its own, unless its YAML says more.
	metrics, err := d.addresses.get(port{s.Name, instance, 8888})
	if err != nil {
		return "", nil, err
	}
	args := []string{collectorName, fmt.Sprintf("--config=yaml:service::telemetry::metrics::readers: [{pull: {exporter: "+
		"{prometheus: {host: 127.0.0.1, port: %d, without_scope_info: true, without_units: true, without_type_suffix: true}}}}]",
		portNumber(metrics)),
		// Which collector it is stands before each line already.
		"--config=yaml:service::telemetry::logs::disable_zap_resource: true"}
	for _, arg := range s.Command {
		name, value, ok := strings.Cut(arg, "=")
		if !ok && strings.HasPrefix(arg, "-") || name != "--config" && name != "--set" && name != "--feature-gates" {
			return "", nil, fmt.Errorf("command: %s: the runner can serve --config=PATH, --set=KEY=VALUE, --feature-gates=GATES", arg)
		}
		if name == "--config" && !strings.HasPrefix(value, "yaml:") && !strings.HasPrefix(value, "env:") {
			if value, err = d.collectorConfig(s, instance, strings.TrimPrefix(value, "file:"), onHost); err != nil {
				return "", nil, fmt.Errorf("command: %w", err)
			}
		} else if value, err = d.addresses.inText(s.Name, instance, value); err != nil {
			return "", nil, fmt.Errorf("command: %s: %w", name, err)
		}
		args = append(args, name+"="+value)
	}
	return self, args, nil
}

// collectorConfig writes the YAML for one instance, and returns its path. It is asked for by its path in the container.
func (d *Demo) collectorConfig(s *service, instance int, container string, onHost func(string) string) (string, error) {
	file := onHost(container)
	if file == container {
		return "", fmt.Errorf("no volume mounts %s", container)
	}
	content, err := d.addresses.inFile(s.Name, instance, file, onHost)
	if err != nil {
		return "", err
	}
	mapped := filepath.Join(d.dir, fmt.Sprintf("%s-%d-%s", s.Name, instance, filepath.Base(file)))
	return mapped, os.WriteFile(mapped, content, 0o600)
}

// runCollector is the collector's own command line: --config and --set mean what they mean in the image.
func runCollector(args []string) error {
	command := otelcol.NewCommand(otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{Command: collectorName, Description: "the demo's collector", Version: collectorVersion},
		Factories: collectorFactories,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{ResolverSettings: confmap.ResolverSettings{
			DefaultScheme: "env",
			ProviderFactories: []confmap.ProviderFactory{
				fileprovider.NewFactory(), envprovider.NewFactory(), yamlprovider.NewFactory(),
			},
		}},
	})
	command.SetArgs(args)
	return command.ExecuteContext(context.Background())
}

// collectorFactories lists what the demo and its recipes use of the core and contrib distributions. A component that is
// not here makes the collector stop with its name and the list of those that are.
func collectorFactories() (otelcol.Factories, error) {
	var f otelcol.Factories
	var err error
	if f.Receivers, err = otelcol.MakeFactoryMap[receiver.Factory](
		otlpreceiver.NewFactory(),
		jaegerreceiver.NewFactory(),
		zipkinreceiver.NewFactory(),
	); err != nil {
		return f, err
	}
	if f.Processors, err = otelcol.MakeFactoryMap[processor.Factory](
		attributesprocessor.NewFactory(),
		batchprocessor.NewFactory(),
		filterprocessor.NewFactory(),
		memorylimiterprocessor.NewFactory(),
		probabilisticsamplerprocessor.NewFactory(),
		redactionprocessor.NewFactory(),
		resourceprocessor.NewFactory(),
		tailsamplingprocessor.NewFactory(),
		transformprocessor.NewFactory(),
	); err != nil {
		return f, err
	}
	if f.Exporters, err = otelcol.MakeFactoryMap[exporter.Factory](
		debugexporter.NewFactory(),
		fileexporter.NewFactory(),
		googlecloudexporter.NewFactory(),
		loadbalancingexporter.NewFactory(),
		otlpexporter.NewFactory(),
		otlphttpexporter.NewFactory(),
		prometheusexporter.NewFactory(),
		zipkinexporter.NewFactory(),
	); err != nil {
		return f, err
	}
	if f.Connectors, err = otelcol.MakeFactoryMap[connector.Factory](spanmetricsconnector.NewFactory()); err != nil {
		return f, err
	}
	if f.Extensions, err = otelcol.MakeFactoryMap[extension.Factory](
		filestorage.NewFactory(),
		healthcheckextension.NewFactory(),
	); err != nil {
		return f, err
	}
	f.Telemetry = otelconftelemetry.NewFactory()
	return f, nil
}
