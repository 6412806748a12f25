package viewer

import (
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// JaegerHandler serves the pages that the demo has on Jaeger's port 16686.
func (v *Viewer) JaegerHandler() http.Handler {
	mux := http.NewServeMux()
	v.jaegerPages(mux)
	return v.guard(mux)
}

// ZipkinHandler serves what the demo has on Zipkin's port 9411: the pages, and where spans are posted.
func (v *Viewer) ZipkinHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v2/spans", v.postSpans)
	v.zipkinPages(mux)
	return v.guard(mux)
}

// Server serves one of the handlers with the timeouts that a server on any port should have.
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

// guard adds what both ports serve, and keeps web pages of others out. One whose name resolves to 127.0.0.1 could otherwise read the traces (DNS
// rebinding); one of any name could post spans.
func (v *Viewer) guard(mux *http.ServeMux) http.Handler {
	mux.HandleFunc("GET /hops", func(w http.ResponseWriter, r *http.Request) {
		if v.Hops == nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, v.Hops()) // an error is a reader who left
	})
	mux.HandleFunc("/", http.NotFound)
	sameOrigin := http.NewCrossOriginProtection().Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if !slices.Contains([]string{"localhost", "127.0.0.1", "::1", "[::1]"}, strings.ToLower(host)) {
			http.Error(w, "this server answers to localhost, 127.0.0.1 and [::1] only", http.StatusForbidden)
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
