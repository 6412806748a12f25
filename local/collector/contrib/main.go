// Command contrib is the collector with contrib's components as well, like the image
// otel/opentelemetry-collector-contrib. The runner builds and starts it when a recipe switches to that image.
package main

import (
	"github.com/open-telemetry/opentelemetry-collector-contrib/connector/spanmetricsconnector"
	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/loadbalancingexporter"
	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/prometheusexporter"
	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/attributesprocessor"
	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/redactionprocessor"
	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/tailsamplingprocessor"

	"otel-demo/local/collector/components"
)

func main() {
	c := components.Core()
	c.Processors = append(c.Processors, attributesprocessor.NewFactory(), redactionprocessor.NewFactory(), tailsamplingprocessor.NewFactory())
	c.Exporters = append(c.Exporters, loadbalancingexporter.NewFactory(), prometheusexporter.NewFactory())
	c.Connectors = append(c.Connectors, spanmetricsconnector.NewFactory())
	c.Extensions = append(c.Extensions, filestorage.NewFactory())
	components.Main(c)
}
