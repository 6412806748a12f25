package runner

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/distribution/reference"

	"otel-demo/local/compose"
	"otel-demo/local/spans"
	"otel-demo/local/viewer"
)

// kind is how the runner handles one kind of service. Each kind has its own file. Only name is always set.
type kind struct {
	name     string
	images   []string                                             // those that it replaces, without registry and tag
	is       func(types.ServiceConfig) bool                       // selects services, before the images do
	settings []string                                             // those that it supports, as in compose.Supported
	ports    []int                                                // the only ones, if the runner serves them
	scales   bool                                                 // there can be several instances
	check    func(types.ServiceConfig) error                      // refuses unsupported values; its errors begin with the setting
	assign   func(d *Demo, s *service) error                      // gives a service its addresses, instead of (*Demo).assign
	plan     func(d *Demo, s *service) error                      // creates the service's instances without starting them
	probe    func(ctx context.Context, d *Demo, s *service) error // returns nil if the service is healthy
	store    func(v *viewer.Viewer) *spans.Store                  // of a backend: what has arrived
}

var kinds = []*kind{foreign, program, collector, redis, redisCLI, jaeger, zipkin, prometheus, nothing}

// kindOf returns a service's kind, or an error that names the service and its image.
func kindOf(service types.ServiceConfig) (*kind, error) {
	var images []string
	for _, k := range kinds {
		if k.is != nil && k.is(service) {
			return k, nil
		}
		images = append(images, k.images...)
	}
	name, _ := imageOf(service)
	for _, k := range kinds {
		if slices.Contains(k.images, name) {
			return k, nil
		}
	}
	slices.Sort(images)
	return nil, fmt.Errorf("services.%s: image %q: the runner has no stand-in for it; "+
		"it has stand-ins for %s, and builds services that have `build`", service.Name, service.Image, strings.Join(images, ", "))
}

// imageOf returns the name of a service's image without registry, tag or digest, and its tag. The name is `redis` for
// docker.io/library/redis:8.10-alpine, and for host:5000/redis, which is a copy.
func imageOf(service types.ServiceConfig) (name, tag string) {
	image, err := reference.ParseNormalizedNamed(service.Image)
	if err != nil {
		return "", ""
	}
	if tagged, ok := image.(reference.Tagged); ok {
		tag = tagged.Tag()
	}
	return strings.TrimPrefix(reference.Path(image), "library/"), tag
}

// Load reads the compose files, and refuses what the runner doesn't support.
func Load(ctx context.Context, root string, files []string) (*types.Project, error) {
	project, err := compose.Load(ctx, root, files, func(service types.ServiceConfig) (string, []string, error) {
		k, err := kindOf(service)
		if err != nil {
			return "", nil, err
		}
		return k.name, k.settings, nil
	})
	if err != nil {
		return nil, err
	}
	for _, name := range project.ServiceNames() {
		service := project.Services[name]
		k, err := kindOf(service)
		if n := service.GetScale(); err == nil && n > 1 && (!k.scales || len(service.Ports) > 0) {
			err = fmt.Errorf("scale: %d: the runner can scale only a program or collector that publishes no port", n)
		}
		if err == nil && k.check != nil {
			err = k.check(service)
		}
		if err != nil {
			return nil, fmt.Errorf("services.%s.%w", name, err)
		}
	}
	return project, nil
}
