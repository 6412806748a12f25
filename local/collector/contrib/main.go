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
	components.Main(attributesprocessor.NewFactory(), redactionprocessor.NewFactory(), tailsamplingprocessor.NewFactory(),
		loadbalancingexporter.NewFactory(), prometheusexporter.NewFactory(), spanmetricsconnector.NewFactory(), filestorage.NewFactory())
}
