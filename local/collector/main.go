// Command collector is the collector with the core distribution's components, like the image
// otel/opentelemetry-collector. The runner builds and starts it.
package main

import "otel-demo/local/collector/components"

func main() { components.Main() }
