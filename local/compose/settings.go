package compose

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/distribution/reference"

	"otel-demo/local/spans"
)

// Kind is how the runner runs a service.
type Kind string

const (
	Program    Kind = "program"    // a process, built from this project
	Collector  Kind = "collector"  // a process, a real collector
	Redis      Kind = "redis"      // miniredis in the runner, or the server at REDIS_URL
	RedisCLI   Kind = "redis-cli"  // `redis-cli -u URL ...`, a client in the runner
	Jaeger     Kind = "jaeger"     // the viewer in the runner
	Zipkin     Kind = "zipkin"     // the other side of the same viewer
	Prometheus Kind = "prometheus" // the program of that name on the PATH, if there is one
	Nothing    Kind = "nothing"    // `command: ["true"]` or a shell's: it only prepares or checks what containers need
)

// The collectors' images. For each, the runner builds the folder in local/ with the same components.
const (
	CollectorImage = "otel/opentelemetry-collector"
	ContribImage   = "otel/opentelemetry-collector-contrib"
)

// collectorVersion is the version of the modules in go.mod. The images must have the same.
const collectorVersion = "0.165.0"

// kinds gives for each kind the images that it stands in for, the settings that it supports (a setting covers all below
// it), its ports if it runs in the runner, and a check for the values that it refuses. Package runner runs it.
var kinds = map[Kind]struct {
	images   []string // names without registry and tag
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
	RedisCLI: {settings: []string{"image", "command"}, check: checkRedisCLI},
	Jaeger: {
		images:   []string{"jaegertracing/jaeger"},
		settings: []string{"image", "command", "environment.OTEL_TRACES_SAMPLER", "healthcheck", "ports", "tmpfs"},
		ports:    []int{4317, 4318, 16686},
		check:    checkJaeger,
	},
	Zipkin: {
		images: []string{"openzipkin/zipkin", "openzipkin/zipkin-slim"},
		settings: []string{"image", "environment.MEM_MAX_SPANS", "environment.JAVA_OPTS", "environment.ZIPKIN_QUERY_ALLOWED_ORIGINS",
			"healthcheck", "ports", "tmpfs"},
		ports: []int{9411},
	},
	Prometheus: {
		images:   []string{"prom/prometheus"},
		settings: []string{"image", "command", "ports", "volumes", "tmpfs"},
	},
	Nothing: {settings: []string{"image", "command", "volumes"}, check: checkNothing},
}

// KindOf returns a service's kind, or an error that names the service and its image.
func KindOf(service types.ServiceConfig) (Kind, error) {
	if service.Build != nil {
		return Program, nil
	}
	if slices.Equal(service.Command, []string{"true"}) || len(service.Command) > 0 && service.Command[0] == "sh" {
		return Nothing, nil
	}
	if ImageName(service) == "redis" && len(service.Command) > 0 && service.Command[0] == "redis-cli" {
		return RedisCLI, nil
	}
	var all []string
	for kind, of := range kinds {
		if slices.Contains(of.images, ImageName(service)) {
			return kind, nil
		}
		all = append(all, of.images...)
	}
	slices.Sort(all)
	return "", fmt.Errorf("services.%s: image %q: the runner has no stand-in for it; "+
		"it has stand-ins for %s, and builds services that have `build`",
		service.Name, service.Image, strings.Join(all, ", "))
}

// ImageName returns the name of a service's image, without registry, tag or digest: `redis` for
// docker.io/library/redis:8.10-alpine, and for host:5000/redis, which is a copy.
func ImageName(service types.ServiceConfig) string {
	name, _ := imageOf(service)
	return name
}

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

// ignored are the settings that only confine or place a container. A process on your machine has no use for them.
var ignored = []string{
	"blkio_config", "cap_drop", "cpus", "cpu_count", "cpu_percent", "cpu_period", "cpu_quota", "cpu_rt_period",
	"cpu_rt_runtime", "cpu_shares", "cpuset", "deploy.resources", "expose", "init", "logging", "mem_limit",
	"mem_reservation", "mem_swappiness", "memswap_limit", "pids_limit", "read_only", "security_opt", "ulimits", "user",
	"environment.HTTP_PROXY", "environment.http_proxy", "environment.HTTPS_PROXY", "environment.https_proxy",
	"restart",          // the runner stops instead, and names what exited
	"networks.default", // every service of a file is in it
}

// supportedForAll are the settings that are supported in the same way for all kinds.
var supportedForAll = []string{"depends_on.*.condition", "depends_on.*.required", "deploy.replicas", "profiles",
	"scale", "stop_grace_period"}

// supportedOutside are those outside of services. Each volume is a separate folder, wherever Docker would keep it.
var supportedOutside = []string{"name", "networks.default.name", "volumes.*.name", "volumes.*.driver",
	"volumes.*.driver_opts"}

// checkSettings refuses settings that the runner neither supports nor may ignore. No setting is dropped silently: it
// checks everything that the merged files set, and refuses what is in none of the lists above. Keys that begin with
// `x-` are the author's own.
func checkSettings(model map[string]any, project *types.Project) error {
	outside := make(map[string]any, len(model))
	for key, value := range model {
		if key != "services" {
			outside[key] = value
		}
	}
	if unknown := firstUnknown(outside, supportedOutside); unknown != "" {
		return fmt.Errorf("%s: the runner doesn't support this setting", unknown)
	}
	services, _ := model["services"].(map[string]any)
	for _, name := range project.ServiceNames() {
		service := project.Services[name]
		kind, err := KindOf(service)
		if err != nil {
			return err
		}
		known := slices.Concat(ignored, supportedForAll, kinds[kind].settings)
		if unknown := firstUnknown(services[name], known); unknown != "" {
			return fmt.Errorf("services.%s.%s: the runner doesn't support this setting for a %s", name, unknown, kind)
		}
		if err := checkValues(service, kind); err != nil {
			return fmt.Errorf("services.%s.%w", name, err)
		}
	}
	return nil
}

// firstUnknown returns the path of the first value in a tree that is set but that no pattern covers, or "".
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
			// In merged files, variables and arguments are NAME=VALUE.
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

// covered reports whether a pattern is a prefix of the path. `*` matches any one name.
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

// checkValues refuses unsupported values of supported settings. Its errors begin with the setting.
func checkValues(service types.ServiceConfig, kind Kind) error {
	for _, port := range service.Ports {
		if port.Protocol != "" && port.Protocol != "tcp" {
			return fmt.Errorf("ports: %s: the runner supports only tcp", port.Protocol)
		}
	}
	for _, volume := range service.Volumes {
		switch volume.Type {
		case types.VolumeTypeBind, types.VolumeTypeVolume, types.VolumeTypeTmpfs:
		default:
			return fmt.Errorf("volumes: %s: the runner supports only bind, volume and tmpfs", volume.Type)
		}
	}
	if n := service.GetScale(); n > 1 && (kind != Program && kind != Collector || len(service.Ports) > 0) {
		return fmt.Errorf("scale: %d: the runner can scale only a program or collector that publishes no port", n)
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
		return fmt.Errorf(`healthcheck.test: %q: the runner supports only ["CMD", "/app", ...]`, check.Test)
	}
	return nil
}

func checkCollector(service types.ServiceConfig) error {
	if _, tag := imageOf(service); tag != collectorVersion {
		return fmt.Errorf("image: %s: the runner's collector is %s; keep local/go.mod and the image in sync",
			service.Image, collectorVersion)
	}
	return nil
}

// checkNothing refuses a shell that could change something: the runner doesn't run it.
func checkNothing(service types.ServiceConfig) error {
	for _, volume := range service.Volumes {
		if service.Command[0] == "sh" && !volume.ReadOnly {
			return fmt.Errorf("command: %q: the runner runs no shell, so mount %s read-only", service.Command, volume.Target)
		}
	}
	return nil
}

// keptOption sets how many traces Jaeger keeps. The runner's viewer keeps as many, on Zipkin's side too, whatever
// MEM_MAX_SPANS is.
var keptOption = fmt.Sprint("--set=extensions.jaeger_storage.backends.some_storage.memory.max_traces=", spans.KeptTraces)

func checkJaeger(service types.ServiceConfig) error {
	for _, arg := range service.Command {
		if arg != keptOption {
			return fmt.Errorf("command: %q: the runner's jaeger doesn't support this, only %s", arg, keptOption)
		}
	}
	return nil
}

// redisOptions describe what the runner's Redis does anyway: it stores nothing on disk and has no authentication. But it
// has no limit for a message's size; only programs on this machine can send it one.
var redisOptions = map[string]string{"--save": "", "--appendonly": "no", "--protected-mode": "no", "--proto-max-bulk-len": "1mb"}

func checkRedis(service types.ServiceConfig) error {
	args := service.Command
	if len(args) > 0 && args[0] == "redis-server" {
		args = args[1:]
	}
	for option := range slices.Chunk(args, 2) {
		if want, ok := redisOptions[option[0]]; !ok || len(option) != 2 || option[1] != want {
			return fmt.Errorf("command: %q: the runner's redis doesn't support this", option)
		}
	}
	return nil
}

// RepeatedCommand parses the arguments after `redis-cli`. The runner supports one form: a command that is repeated
// until the service stops, with a pause after each time.
func RepeatedCommand(args []string) (redisURL string, pause time.Duration, command []any, err error) {
	if len(args) < 7 || args[0] != "-u" || args[2] != "-r" || args[3] != "-1" || args[4] != "-i" {
		return "", 0, nil, errors.New("the runner's redis-cli supports only: -u URL -r -1 -i SECONDS COMMAND")
	}
	seconds, err := strconv.ParseFloat(args[5], 64)
	if err != nil {
		return "", 0, nil, fmt.Errorf("-i %s: want seconds", args[5])
	}
	for _, arg := range args[6:] {
		command = append(command, arg)
	}
	return args[1], time.Duration(seconds * float64(time.Second)), command, nil
}

func checkRedisCLI(service types.ServiceConfig) error {
	if _, _, _, err := RepeatedCommand(service.Command[1:]); err != nil {
		return fmt.Errorf("command: %w", err)
	}
	return nil
}
