// Package viewer replaces Jaeger and Zipkin when the demo runs without Docker. It receives spans as OTLP and in
// Zipkin's format, keeps them in memory, and shows each trace in the browser. It has none of their query APIs.
package viewer

import "otel-demo/local/spans"

// Viewer holds two stores, because the demo exports each span twice: one with what Jaeger would have received, and one
// with what Zipkin would have received.
type Viewer struct {
	Hops           func() string // returns what /hops responds with: a table of where spans are
	jaeger, zipkin *spans.Store
}

// New returns an empty viewer.
func New() *Viewer { return &Viewer{jaeger: spans.NewStore(), zipkin: spans.NewStore()} }

// Jaeger returns the store of what arrived as OTLP.
func (v *Viewer) Jaeger() *spans.Store { return v.jaeger }

// Zipkin returns the store of what arrived in Zipkin's format.
func (v *Viewer) Zipkin() *spans.Store { return v.zipkin }
