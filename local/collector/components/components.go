// Package components holds what the demo's two collectors are made of. Like the images, one has the core distribution's
// components, and the other has contrib's as well; both have only those that the demo and its recipes use.
package components

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/zipkinexporter"
	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/healthcheckextension"
	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/resourceprocessor"
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
	"go.opentelemetry.io/collector/processor/memorylimiterprocessor"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"
)

// Components are the components of a collector.
type Components struct {
	Receivers  []receiver.Factory
	Processors []processor.Factory
	Exporters  []exporter.Factory
	Connectors []connector.Factory
	Extensions []extension.Factory
}

// Core returns the core distribution's components.
func Core() Components {
	return Components{
		Receivers: []receiver.Factory{
			jaegerreceiver.NewFactory(),
			otlpreceiver.NewFactory(),
			zipkinreceiver.NewFactory(),
		},
		Processors: []processor.Factory{
			memorylimiterprocessor.NewFactory(),
			resourceprocessor.NewFactory(),
		},
		Exporters: []exporter.Factory{
			debugexporter.NewFactory(),
			otlpexporter.NewFactory(),
			otlphttpexporter.NewFactory(),
			zipkinexporter.NewFactory(),
		},
		Extensions: []extension.Factory{healthcheckextension.NewFactory()},
	}
}

// Main is a collector's main function. --config and --set mean the same as in the image. If a component is missing, it
// exits with an error that names the component and lists the available ones.
func Main(c Components) {
	command := otelcol.NewCommand(otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{Command: "otelcol", Description: "the demo's collector", Version: version()},
		Factories: c.factories,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{ResolverSettings: confmap.ResolverSettings{
			DefaultScheme: "env",
			ProviderFactories: []confmap.ProviderFactory{
				fileprovider.NewFactory(), envprovider.NewFactory(), yamlprovider.NewFactory(),
			},
		}},
	})
	if err := command.ExecuteContext(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// version returns the version of the collector's modules.
func version() string {
	info, _ := debug.ReadBuildInfo() // a module's build always has it
	for _, module := range info.Deps {
		if module.Path == "go.opentelemetry.io/collector/otelcol" {
			return module.Version
		}
	}
	return ""
}

func (c Components) factories() (otelcol.Factories, error) {
	f := otelcol.Factories{Telemetry: otelconftelemetry.NewFactory()}
	var errs [5]error
	f.Receivers, errs[0] = otelcol.MakeFactoryMap(c.Receivers...)
	f.Processors, errs[1] = otelcol.MakeFactoryMap(c.Processors...)
	f.Exporters, errs[2] = otelcol.MakeFactoryMap(c.Exporters...)
	f.Connectors, errs[3] = otelcol.MakeFactoryMap(c.Connectors...)
	f.Extensions, errs[4] = otelcol.MakeFactoryMap(c.Extensions...)
	return f, errors.Join(errs[:]...)
}
