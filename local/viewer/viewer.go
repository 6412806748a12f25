// Package viewer is what the demo has instead of Jaeger and Zipkin when it runs without Docker. It takes spans as OTLP and
// in Zipkin's format, keeps them in memory, and shows each trace in the browser. It has none of their APIs.
package viewer

import "otel-demo/local/trace"

// Viewer holds two stores, because the demo exports each span twice: what Jaeger would have got, and what Zipkin
// would have.
type Viewer struct {
	Hops           func() string // what /hops responds with, if it is set: a table of where spans are
	jaeger, zipkin *trace.Store
}

// New returns an empty viewer.
func New() *Viewer {
	return &Viewer{jaeger: trace.NewStore(), zipkin: trace.NewStore()}
}

// Jaeger holds what came as OTLP.
func (v *Viewer) Jaeger() *trace.Store { return v.jaeger }

// Zipkin holds what came in Zipkin's format.
func (v *Viewer) Zipkin() *trace.Store { return v.zipkin }
