package compose

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"otel-demo/local/trace"
)

// Kind says how the runner serves a service.
type Kind string

const (
	Program    Kind = "program"    // built from this project, a process
	Collector  Kind = "collector"  // a real one, a process
	Redis      Kind = "redis"      // miniredis in the runner, or the server at REDIS_URL
	Jaeger     Kind = "jaeger"     // the viewer in the runner
	Zipkin     Kind = "zipkin"     // the same viewer, its other side
	Prometheus Kind = "prometheus" // the program of that name on the PATH, if there is one
	Nothing    Kind = "nothing"    // `command: ["true"]`, which ends at once: it only mounts a volume
)

// The collectors' images. Each is built from the folder in local/ of the same components.
const (
	CollectorImage = "otel/opentelemetry-collector"
	ContribImage   = "otel/opentelemetry-collector-contrib"
)

// collectorVersion is that of the modules in go.mod, and so must be the images'.
const collectorVersion = "0.158.0"

// kinds says for each kind which images it stands for, which settings it does what they say (a setting covers all below
// it), which ports it has if it runs in the runner, and what values it refuses. How it runs is in package stack.
var kinds = map[Kind]struct {
	images   []string // names without the tag
	settings []string
	ports    []int
	check    func(types.ServiceConfig) error // its errors begin with the setting
}{
	Program: {
		settings: []string{"build.context", "build.dockerfile", "build.args.CMD", "build.args.VERSION", "command",
			"environment", "env_file", "healthcheck", "ports", "tmpfs"},
		check: checkProgram,
	},
	Collector: {
		images:   []string{CollectorImage, ContribImage},
		settings: []string{"image", "command", "environment", "env_file", "ports", "volumes", "tmpfs"},
		check:    checkCollector,
	},
	Redis: {
		images:   []string{"redis"},
		settings: []string{"image", "command", "healthcheck", "ports", "tmpfs"},
		ports:    []int{6379},
		check:    checkRedis,
	},
	Jaeger: {
		images:   []string{"jaegertracing/jaeger"},
		settings: []string{"image", "command", "environment.OTEL_TRACES_SAMPLER", "healthcheck", "ports", "tmpfs"},
		ports:    []int{4317, 4318, 16686},
		check:    checkJaeger,
	},
	Zipkin: {
		images:   []string{"openzipkin/zipkin", "openzipkin/zipkin-slim"},
		settings: []string{"image", "environment.MEM_MAX_SPANS", "environment.JAVA_OPTS", "healthcheck", "ports", "tmpfs"},
		ports:    []int{9411},
	},
	Prometheus: {
		images:   []string{"prom/prometheus"},
		settings: []string{"image", "command", "ports", "volumes", "tmpfs"},
	},
	Nothing: {settings: []string{"image", "command", "volumes"}},
}

// KindOf returns how a service is served, or an error that names the service and what it wants.
func KindOf(service types.ServiceConfig) (Kind, error) {
	if service.Build != nil {
		return Program, nil
	}
	if slices.Equal(service.Command, []string{"true"}) {
		return Nothing, nil
	}
	var all []string
	for kind, of := range kinds {
		if slices.Contains(of.images, ImageName(service)) {
			return kind, nil
		}
		all = append(all, of.images...)
	}
	slices.Sort(all)
	return "", fmt.Errorf("services.%s: image %q: the runner has no stand-in for it; it has for %s, and builds what has `build`",
		service.Name, service.Image, strings.Join(all, ", "))
}

// ImageName returns the name of a service's image, without tag and digest.
func ImageName(service types.ServiceConfig) string {
	name, _, _ := strings.Cut(service.Image, "@")
	name, _, _ = strings.Cut(name, ":")
	return name
}

// leftAside are the settings that only confine or house a container. A process on your machine has no use for them.
var leftAside = []string{
	"blkio_config", "cap_drop", "cpus", "cpu_count", "cpu_percent", "cpu_period", "cpu_quota", "cpu_rt_period",
	"cpu_rt_runtime", "cpu_shares", "cpuset", "deploy.resources", "expose", "init", "logging", "mem_limit",
	"mem_reservation", "mem_swappiness", "memswap_limit", "pids_limit", "read_only", "security_opt", "ulimits", "user",
	"restart",          // the runner stops instead, and names what died
	"networks.default", // every service of a file is in it
}

// servedForAll are those that are served alike for all.
var servedForAll = []string{"depends_on.*.condition", "depends_on.*.required", "deploy.replicas", "profiles", "scale",
	"stop_grace_period"}

// servedOutside are those outside of services. Each volume is a separate folder, wherever Docker would keep it.
var servedOutside = []string{"name", "networks.default.name", "volumes.*.name", "volumes.*.driver", "volumes.*.driver_opts"}

// checkSettings refuses what the runner neither serves nor may leave aside. None is dropped silently: it looks at all
// that the merged files set, and an unknown setting is one that is in none of the lists above. Keys that begin with `x-`
// are the author's own.
func checkSettings(model map[string]any, project *types.Project) error {
	outside := make(map[string]any, len(model))
	for key, value := range model {
		if key != "services" {
			outside[key] = value
		}
	}
	if unknown := firstUnknown(outside, servedOutside); unknown != "" {
		return fmt.Errorf("%s: the runner can't serve this setting", unknown)
	}
	services, _ := model["services"].(map[string]any)
	for _, name := range project.ServiceNames() {
		service := project.Services[name]
		kind, err := KindOf(service)
		if err != nil {
			return err
		}
		known := slices.Concat(leftAside, servedForAll, kinds[kind].settings)
		if unknown := firstUnknown(services[name], known); unknown != "" {
			return fmt.Errorf("services.%s.%s: the runner can't serve this setting for a %s", name, unknown, kind)
		}
		if err := checkValues(service, kind); err != nil {
			return fmt.Errorf("services.%s.%w", name, err)
		}
	}
	return nil
}

// firstUnknown returns the path of the first value in a tree that is set and that no pattern covers, or "".
func firstUnknown(tree any, known []string) string {
	var walk func(path []string, node any) string
	walk = func(path []string, node any) string {
		if covered(path, known) {
			return ""
		}
		switch node := node.(type) {
		case map[string]any:
			for _, key := range slices.Sorted(maps.Keys(node)) {
				if strings.HasPrefix(key, "x-") {
					continue
				}
				if unknown := walk(append(slices.Clone(path), key), node[key]); unknown != "" {
					return unknown
				}
			}
			return ""
		case []any:
			// Merged files have their variables and arguments as NAME=VALUE.
			for _, item := range node {
				name, _, ok := strings.Cut(fmt.Sprint(item), "=")
				if !ok {
					return strings.Join(path, ".")
				}
				if unknown := walk(append(slices.Clone(path), name), item); unknown != "" {
					return unknown
				}
			}
			return ""
		default:
			if node == nil || reflect.ValueOf(node).IsZero() {
				return ""
			}
			return strings.Join(path, ".")
		}
	}
	return walk(nil, tree)
}

// covered says whether a pattern is a prefix of the path. `*` stands for any one name.
func covered(path, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		names := strings.Split(pattern, ".")
		if len(names) > len(path) {
			return false
		}
		for i, name := range names {
			if name != "*" && name != path[i] {
				return false
			}
		}
		return true
	})
}

// checkValues refuses values that the runner can't serve, of settings that it can. Its errors begin with the setting.
func checkValues(service types.ServiceConfig, kind Kind) error {
	for _, port := range service.Ports {
		if port.Protocol != "" && port.Protocol != "tcp" {
			return fmt.Errorf("ports: %s: the runner can serve tcp only", port.Protocol)
		}
	}
	for _, volume := range service.Volumes {
		switch volume.Type {
		case types.VolumeTypeBind, types.VolumeTypeVolume, types.VolumeTypeTmpfs:
		default:
			return fmt.Errorf("volumes: %s: the runner can serve bind, volume and tmpfs", volume.Type)
		}
	}
	if n := service.GetScale(); n > 1 && (kind != Program && kind != Collector || len(service.Ports) > 0) {
		return fmt.Errorf("scale: %d: the runner can run several of a program or collector that publishes no port", n)
	}
	if check := kinds[kind].check; check != nil {
		return check(service)
	}
	return nil
}

func checkProgram(service types.ServiceConfig) error {
	if service.Build.Args["CMD"] == nil {
		return fmt.Errorf("build.args.CMD is missing: want the name of a folder in cmd/")
	}
	if check := service.HealthCheck; check != nil && !check.Disable &&
		(len(check.Test) < 2 || check.Test[0] != "CMD" || check.Test[1] != "/app") {
		return fmt.Errorf(`healthcheck.test: %q: the runner can serve ["CMD", "/app", ...]`, check.Test)
	}
	return nil
}

func checkCollector(service types.ServiceConfig) error {
	if _, tag, _ := strings.Cut(service.Image, ":"); tag != collectorVersion {
		return fmt.Errorf("image: %s: the runner's collector is %s; keep local/go.mod and the image in step",
			service.Image, collectorVersion)
	}
	return nil
}

// keptOption says how many traces Jaeger keeps. The runner's viewer keeps as many, at Zipkin's side too, whatever
// MEM_MAX_SPANS is.
var keptOption = fmt.Sprint("--set=extensions.jaeger_storage.backends.some_storage.memory.max_traces=", trace.KeptTraces)

func checkJaeger(service types.ServiceConfig) error {
	for _, arg := range service.Command {
		if arg != keptOption {
			return fmt.Errorf("command: %q: the runner's jaeger can't serve this, only %s", arg, keptOption)
		}
	}
	return nil
}

// redisOptions are what the runner's Redis does in any case: it stores nothing on disk, and has no authentication.
var redisOptions = map[string]string{"--save": "", "--appendonly": "no", "--protected-mode": "no"}

func checkRedis(service types.ServiceConfig) error {
	args := service.Command
	if len(args) > 0 && args[0] == "redis-server" {
		args = args[1:]
	}
	for option := range slices.Chunk(args, 2) {
		if want, ok := redisOptions[option[0]]; !ok || len(option) != 2 || option[1] != want {
			return fmt.Errorf("command: %q: the runner's redis can't serve this", option)
		}
	}
	return nil
}
