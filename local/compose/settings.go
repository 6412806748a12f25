package compose

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// ForAll are the settings that any service may have.
var ForAll = []string{
	// These are supported in the same way for all kinds.
	"depends_on.*.condition", "depends_on.*.required", "deploy.replicas", "profiles", "scale", "stop_grace_period",
	// These only confine or place a container. A process on your machine has no use for them.
	"blkio_config", "cap_drop", "cpus", "cpu_count", "cpu_percent", "cpu_period", "cpu_quota", "cpu_rt_period",
	"cpu_rt_runtime", "cpu_shares", "cpuset", "deploy.resources", "expose", "init", "logging", "mem_limit",
	"mem_reservation", "mem_swappiness", "memswap_limit", "pids_limit", "read_only", "security_opt", "ulimits", "user",
	"environment.HTTP_PROXY", "environment.http_proxy", "environment.HTTPS_PROXY", "environment.https_proxy",
	"restart",          // the runner stops instead, and names what exited
	"networks.default", // every service of a file is in it
}

// outsideServices are those outside of services. Each volume is a separate folder, wherever Docker would keep it.
var outsideServices = []string{"name", "networks.default.name", "volumes.*.name", "volumes.*.driver", "volumes.*.driver_opts"}

// Supported returns the kind of a service, and the settings that the runner supports for it: each covers all below it.
type Supported func(types.ServiceConfig) (kind string, settings []string, err error)

// checkSettings refuses settings that the runner neither supports nor may ignore. No setting is dropped silently: it
// checks everything that the merged files set, and refuses what is in none of the lists. Keys that begin with
// `x-` are the author's own.
func checkSettings(model map[string]any, project *types.Project, supported Supported) error {
	outside := maps.Clone(model)
	delete(outside, "services")
	if unknown := firstUnknown(outside, outsideServices); unknown != "" {
		return fmt.Errorf("%s: the runner doesn't support this setting", unknown)
	}
	services, _ := model["services"].(map[string]any)
	for _, name := range project.ServiceNames() {
		service := project.Services[name]
		kind, settings, err := supported(service)
		if err != nil {
			return err
		}
		if unknown := firstUnknown(services[name], slices.Concat(ForAll, settings)); unknown != "" {
			return fmt.Errorf("services.%s.%s: the runner doesn't support this setting for a %s", name, unknown, kind)
		}
		for _, port := range service.Ports {
			if port.Protocol != "" && port.Protocol != "tcp" {
				return fmt.Errorf("services.%s.ports: %s: the runner supports only tcp", name, port.Protocol)
			}
		}
		for _, volume := range service.Volumes {
			if !slices.Contains([]string{types.VolumeTypeBind, types.VolumeTypeVolume, types.VolumeTypeTmpfs}, volume.Type) {
				return fmt.Errorf("services.%s.volumes: %s: the runner supports only bind, volume and tmpfs", name, volume.Type)
			}
		}
	}
	return nil
}

// firstUnknown returns the path of the first value in a tree that is set but that no pattern covers, or "".
func firstUnknown(tree any, known []string, path ...string) string {
	if covered(path, known) {
		return ""
	}
	here := strings.Join(path, ".")
	switch node := tree.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(node)) {
			if strings.HasPrefix(key, "x-") {
				continue
			}
			if unknown := firstUnknown(node[key], known, slices.Concat(path, []string{key})...); unknown != "" {
				return unknown
			}
		}
	case []any: // in merged files, variables and arguments are NAME=VALUE
		for _, item := range node {
			name, _, ok := strings.Cut(fmt.Sprint(item), "=")
			if !ok {
				return here
			}
			if unknown := firstUnknown(item, known, slices.Concat(path, []string{name})...); unknown != "" {
				return unknown
			}
		}
	default:
		if node != nil && !reflect.ValueOf(node).IsZero() {
			return here
		}
	}
	return ""
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
