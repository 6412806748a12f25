package runner

import (
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// mounts returns a function that maps a path in the service's container to one on this machine, if the service mounts
// something there. The project's files and folders are used as they are. A volume is a folder of the run, shared by all
// services that name it; a tmpfs is a folder of the run for one instance.
func (d *Demo) mounts(s *service, instance int) (func(path string) string, error) {
	volumes := slices.Clone(s.Volumes)
	for _, target := range s.Tmpfs {
		target, _, _ := strings.Cut(target, ":")
		volumes = append(volumes, types.ServiceVolumeConfig{Type: types.VolumeTypeTmpfs, Target: target})
	}
	for i, v := range volumes {
		switch v.Type {
		case types.VolumeTypeVolume:
			volumes[i].Source = filepath.Join(d.dir, "volumes", v.Source)
		case types.VolumeTypeTmpfs:
			volumes[i].Source = filepath.Join(d.dir, "tmpfs", s.Name, fmt.Sprint(instance), url.PathEscape(v.Target))
		case types.VolumeTypeBind:
			if _, err := os.Stat(v.Source); err != nil {
				return nil, fmt.Errorf("volumes: %w", err)
			}
			continue
		}
		if err := os.MkdirAll(volumes[i].Source, 0o700); err != nil {
			return nil, err
		}
	}
	return func(container string) string {
		for _, v := range volumes {
			target := path.Clean(v.Target)
			if container == target || strings.HasPrefix(container, target+"/") {
				return filepath.Join(v.Source, filepath.FromSlash(strings.TrimPrefix(container, target)))
			}
		}
		return container
	}, nil
}

// mappedYAML copies the YAML that an instance of a service mounts at a path in its container, with this machine's paths
// and addresses, and returns the path of the copy.
func (d *Demo) mappedYAML(s *service, instance int, container string, onHost func(string) string) (string, error) {
	file := onHost(container)
	if file == container {
		return "", fmt.Errorf("no volume mounts %s", container)
	}
	content, err := d.addresses.ReplaceInFile(s.Name, instance, file, onHost)
	if err != nil {
		return "", err
	}
	mapped := filepath.Join(d.dir, fmt.Sprintf("%s-%d-%s", s.Name, instance, url.PathEscape(container)))
	return mapped, os.WriteFile(mapped, content, 0o600)
}
