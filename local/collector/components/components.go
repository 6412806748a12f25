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

// core are the core distribution's components.
var core = []component.Factory{
	jaegerreceiver.NewFactory(), otlpreceiver.NewFactory(), zipkinreceiver.NewFactory(),
	memorylimiterprocessor.NewFactory(), resourceprocessor.NewFactory(),
	debugexporter.NewFactory(), otlpexporter.NewFactory(), otlphttpexporter.NewFactory(), zipkinexporter.NewFactory(),
	healthcheckextension.NewFactory(),
}

// Main is the main function of a collector with the core distribution's components and more. --config and --set mean the
// same as in the image. If a component is missing, it exits with an error that names the component and lists the
// available ones.
func Main(more ...component.Factory) {
	command := otelcol.NewCommand(otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{Command: "otelcol", Description: "the demo's collector", Version: version()},
		Factories: func() (otelcol.Factories, error) { return factories(append(core, more...)) },
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

func factories(all []component.Factory) (otelcol.Factories, error) {
	f := otelcol.Factories{Telemetry: otelconftelemetry.NewFactory()}
	var errs [5]error
	f.Receivers, errs[0] = only[receiver.Factory](all)
	f.Processors, errs[1] = only[processor.Factory](all)
	f.Exporters, errs[2] = only[exporter.Factory](all)
	f.Connectors, errs[3] = only[connector.Factory](all)
	f.Extensions, errs[4] = only[extension.Factory](all)
	return f, errors.Join(errs[:]...)
}

// only returns the factories of one kind, by type.
func only[T component.Factory](all []component.Factory) (map[component.Type]T, error) {
	var some []T
	for _, factory := range all {
		if one, ok := factory.(T); ok {
			some = append(some, one)
		}
	}
	return otelcol.MakeFactoryMap(some...)
}
