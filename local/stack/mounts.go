package stack

import (
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// mounts returns a function that turns a path in a container of the service into the one on this machine, where the
// service mounts one there. Files and folders of the project are used as they are. A volume, which belongs to all services
// that name it, is a folder of the run, and so is a tmpfs, which is the instance's own.
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

// mappedYAML writes the YAML that one instance of a service mounts at a path in its container, with the paths and addresses
// of this machine, and returns the path of that.
func (d *Demo) mappedYAML(s *service, instance int, container string, onHost func(string) string) (string, error) {
	file := onHost(container)
	if file == container {
		return "", fmt.Errorf("no volume mounts %s", container)
	}
	content, err := d.addresses.InFile(s.Name, instance, file, onHost)
	if err != nil {
		return "", err
	}
	mapped := filepath.Join(d.dir, fmt.Sprintf("%s-%d-%s", s.Name, instance, url.PathEscape(container)))
	return mapped, os.WriteFile(mapped, content, 0o600)
}
