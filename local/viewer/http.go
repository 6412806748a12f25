package viewer

import (
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// JaegerHandler serves the pages on Jaeger's port, 16686.
func (v *Viewer) JaegerHandler() http.Handler {
	mux := http.NewServeMux()
	v.jaegerPages(mux)
	v.hopsPage(mux)
	return guard(mux)
}

// ZipkinHandler serves the pages on Zipkin's port, 9411, and receives the spans that are posted there.
func (v *Viewer) ZipkinHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v2/spans", v.postSpans)
	v.zipkinPages(mux)
	v.hopsPage(mux)
	return guard(mux)
}

// Server returns a server for one of the handlers, with the timeouts that any server should have.
func Server(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
}

// hopsPage adds the table of where spans are, which both ports serve.
func (v *Viewer) hopsPage(mux *http.ServeMux) {
	mux.HandleFunc("GET /hops", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, v.Hops()) // an error means that the reader left
	})
}

// guard keeps other websites out of a port. Otherwise, one whose name resolves to 127.0.0.1 could read the traces (DNS
// rebinding), and any website that is open in a browser here could post spans. (No website can speak gRPC.)
func guard(mux *http.ServeMux) http.Handler {
	mux.HandleFunc("/", http.NotFound)
	sameOrigin := http.NewCrossOriginProtection().Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if !slices.Contains([]string{"localhost", "127.0.0.1", "::1", "[::1]"}, strings.ToLower(host)) {
			http.Error(w, "this server responds only to requests for localhost, 127.0.0.1 and [::1]", http.StatusForbidden)
			return
		}
		header := w.Header()
		header.Set("Content-Security-Policy",
			"default-src 'none'; style-src 'self' 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		sameOrigin.ServeHTTP(w, r)
	})
}
