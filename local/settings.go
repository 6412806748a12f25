package main

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"otel-demo/local/backend"
)

// kind says how the runner serves a service.
type kind string

const (
	program    kind = "program"    // built from this project, a process
	collector  kind = "collector"  // a real one, a process
	redis      kind = "redis"      // miniredis in the runner, or the server at REDIS_URL
	jaeger     kind = "jaeger"     // the backend in the runner
	zipkin     kind = "zipkin"     // the same backend, its other side
	prometheus kind = "prometheus" // the program of that name on the PATH, if there is one
	nothing    kind = "nothing"    // `command: ["true"]`, which ends at once: it only mounts a volume
)

// images says which kind an image is, by its name without the tag.
var images = map[string]kind{
	"otel/opentelemetry-collector":         collector,
	"otel/opentelemetry-collector-contrib": collector,
	"redis":                                redis,
	"jaegertracing/jaeger":                 jaeger,
	"openzipkin/zipkin":                    zipkin,
	"openzipkin/zipkin-slim":               zipkin,
	"prom/prometheus":                      prometheus,
}

// kindOf returns how a service is served, or an error that names the service and what it wants.
func kindOf(service types.ServiceConfig) (kind, error) {
	if service.Build != nil {
		return program, nil
	}
	if slices.Equal(service.Command, []string{"true"}) {
		return nothing, nil
	}
	name, _, _ := strings.Cut(service.Image, "@")
	name, _, _ = strings.Cut(name, ":")
	if kind, ok := images[name]; ok {
		return kind, nil
	}
	return "", fmt.Errorf("services.%s: image %q: the runner has no stand-in for it; it has for %s, and builds what has `build`",
		service.Name, service.Image, strings.Join(sortedKeys(images), ", "))
}

// leftAside are the settings that only confine or house a container. A process on your machine has no use for them.
var leftAside = []string{
	"blkio_config", "cap_drop", "cpus", "cpu_count", "cpu_percent", "cpu_period", "cpu_quota", "cpu_rt_period",
	"cpu_rt_runtime", "cpu_shares", "cpuset", "deploy.resources", "expose", "init", "logging", "mem_limit",
	"mem_reservation", "mem_swappiness", "memswap_limit", "pids_limit", "read_only", "security_opt", "ulimits", "user",
	"restart",          // the runner stops instead, and names what died
	"networks.default", // every service of a file is in it
}

// served are the settings that the runner does what they say, for each kind of service. A setting covers all below it.
var served = map[kind][]string{
	program: {"build.context", "build.dockerfile", "build.args.CMD", "build.args.VERSION", "command", "environment", "env_file", "healthcheck",
		"ports", "tmpfs"},
	collector:  {"image", "command", "environment", "env_file", "ports", "volumes", "tmpfs"},
	redis:      {"image", "command", "healthcheck", "ports", "tmpfs"},
	jaeger:     {"image", "command", "environment.OTEL_TRACES_SAMPLER", "healthcheck", "ports", "tmpfs"},
	zipkin:     {"image", "environment.MEM_MAX_SPANS", "environment.JAVA_OPTS", "healthcheck", "ports", "tmpfs"},
	prometheus: {"image", "command", "ports", "volumes", "tmpfs"},
	nothing:    {"image", "command", "volumes"},
}

// redisOptions are what the runner's Redis does in any case: it keeps nothing on disk, and asks nobody who they are.
var redisOptions = map[string]string{"--save": "", "--appendonly": "no", "--protected-mode": "no"}

// keptOption says how many traces Jaeger keeps. The runner's backend keeps as many, at Zipkin's side too, whatever
// MEM_MAX_SPANS is.
var keptOption = fmt.Sprint("--set=extensions.jaeger_storage.backends.some_storage.memory.max_traces=", backend.KeptTraces)

// servedForAll are those that are served alike for all.
var servedForAll = []string{"depends_on.*.condition", "depends_on.*.required", "deploy.replicas", "profiles", "scale",
	"stop_grace_period"}

// servedOutside are those outside of services. A volume is a folder of its own, wherever Docker would keep it.
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
		kind, err := kindOf(service)
		if err != nil {
			return err
		}
		known := slices.Concat(leftAside, servedForAll, served[kind])
		if unknown := firstUnknown(services[name], known); unknown != "" {
			return fmt.Errorf("services.%s.%s: the runner can't serve this setting for a %s", name, unknown, kind)
		}
		if err := checkValues(service, kind); err != nil {
			return fmt.Errorf("services.%s.%w", name, err)
		}
	}
	return nil
}

func isRedisOption(name, value string) bool {
	want, ok := redisOptions[name]
	return ok && value == want
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
			for _, key := range sortedKeys(node) {
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
func checkValues(service types.ServiceConfig, kind kind) error {
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
	if n := service.GetScale(); n > 1 && (kind != program && kind != collector || len(service.Ports) > 0) {
		return fmt.Errorf("scale: %d: the runner can run several of a program or collector that publishes no port", n)
	}
	switch kind {
	case program:
		if service.Build.Args["CMD"] == nil {
			return fmt.Errorf("build.args.CMD is missing: want the name of a folder in cmd/")
		}
		if check := service.HealthCheck; check != nil && !check.Disable &&
			(len(check.Test) < 2 || check.Test[0] != "CMD" || check.Test[1] != "/app") {
			return fmt.Errorf(`healthcheck.test: %q: the runner can serve ["CMD", "/app", ...]`, check.Test)
		}
	case collector:
		if _, tag, _ := strings.Cut(service.Image, ":"); tag != collectorVersion {
			return fmt.Errorf("image: %s: the runner's collector is %s; keep local/go.mod and the image in step",
				service.Image, collectorVersion)
		}
	case jaeger:
		for _, arg := range service.Command {
			if arg != keptOption {
				return fmt.Errorf("command: %q: the runner's jaeger can't serve this, only %s", arg, keptOption)
			}
		}
	case redis:
		args := service.Command
		if len(args) > 0 && args[0] == "redis-server" {
			args = args[1:]
		}
		for option := range slices.Chunk(args, 2) {
			if len(option) != 2 || !isRedisOption(option[0], option[1]) {
				return fmt.Errorf("command: %q: the runner's redis can't serve this", option)
			}
		}
	}
	return nil
}
