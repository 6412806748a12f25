package runner

import (
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// mounts returns a function that maps a path in the service's container to one on this machine, if the service mounts
// something there. The project's files and folders are used as they are. A volume is a folder of the run, shared by all
// services that name it; a tmpfs is a folder of the run for one instance.
func (d *Demo) mounts(s *service, instance int) (func(path string) string, error) {
	type mount struct{ target, host string }
	var mounts []mount
	for _, v := range s.Volumes {
		host := v.Source
		switch v.Type {
		case types.VolumeTypeVolume:
			host = filepath.Join(d.dir, "volumes", v.Source)
		case types.VolumeTypeTmpfs:
			host = filepath.Join(d.dir, "tmpfs", s.Name, fmt.Sprint(instance), url.PathEscape(v.Target))
		}
		mounts = append(mounts, mount{v.Target, host})
		if v.Type != types.VolumeTypeBind {
			if err := os.MkdirAll(host, 0o700); err != nil {
				return nil, err
			}
		} else if _, err := os.Stat(host); err != nil {
			return nil, fmt.Errorf("volumes: %w", err)
		}
	}
	for _, target := range s.Tmpfs {
		target, _, _ = strings.Cut(target, ":")
		host := filepath.Join(d.dir, "tmpfs", s.Name, fmt.Sprint(instance), url.PathEscape(target))
		mounts = append(mounts, mount{target, host})
		if err := os.MkdirAll(host, 0o700); err != nil {
			return nil, err
		}
	}
	return func(container string) string {
		for _, m := range mounts {
			target := path.Clean(m.target)
			if container == target || strings.HasPrefix(container, target+"/") {
				return filepath.Join(m.host, filepath.FromSlash(strings.TrimPrefix(container, target)))
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
