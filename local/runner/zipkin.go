package runner

import "otel-demo/local/viewer"

// zipkin is the side of the viewer that receives Zipkin's format.
var zipkin = &kind{
	name:   "zipkin",
	images: []string{"openzipkin/zipkin", "openzipkin/zipkin-slim"},
	settings: []string{"image", "environment.MEM_MAX_SPANS", "environment.JAVA_OPTS", "environment.ZIPKIN_QUERY_ALLOWED_ORIGINS",
		"healthcheck", "ports", "tmpfs"},
	ports: []int{9411},
	plan: func(d *Demo, s *service) error {
		s.instances = []instance{d.page(s, 9411, d.viewer.ZipkinHandler())}
		return nil
	},
	probe: probePort(9411),
	store: (*viewer.Viewer).Zipkin,
}
