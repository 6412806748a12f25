// Package backend is what the demo has instead of Jaeger and Zipkin when it runs without Docker. It takes spans as OTLP
// and in Zipkin's format, keeps them in memory, answers the part of both APIs that the demo needs, and shows each trace
// in the browser, on the terminal and as a text that a test can compare.
package viewer

// Backend holds two stores, because the demo exports each span twice: what Jaeger would have got, and what Zipkin
// would have.
type Backend struct {
	jaeger, zipkin *Store
}

// New returns an empty backend.
func New() *Backend {
	return &Backend{jaeger: newStore(), zipkin: newStore()}
}

// Jaeger holds what came as OTLP.
func (b *Backend) Jaeger() *Store { return b.jaeger }

// Zipkin holds what came in Zipkin's format.
func (b *Backend) Zipkin() *Store { return b.zipkin }
