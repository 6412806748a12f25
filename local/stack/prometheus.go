package stack

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// prometheusDefault are the arguments that the image has where compose gives none.
var prometheusDefault = []string{"--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"}

var localAddress = regexp.MustCompile(`127\.0\.0\.1:\d+`)

// prometheusCommand returns what runs a Prometheus on the YAML that compose mounts, or "" if there is none to run: then
// it says that the service is left out, and where you find what it would have scraped.
func (d *Demo) prometheusCommand(s *service) (string, []string, error) {
	onHost, err := d.mounts(s, 0)
	if err != nil {
		return "", nil, err
	}
	command := []string(s.Command)
	if len(command) == 0 {
		command = prometheusDefault
	}
	config := ""
	var args []string
	for _, arg := range command {
		name, value, _ := strings.Cut(arg, "=")
		switch name {
		case "--config.file":
			file := onHost(value)
			if file == value {
				return "", nil, fmt.Errorf("command: %s: no volume mounts %s", name, value)
			}
			content, err := d.addresses.inFile(s.Name, 0, file, onHost)
			if err != nil {
				return "", nil, err
			}
			config = string(content)
			mapped := filepath.Join(d.dir, s.Name+"-"+filepath.Base(file))
			if err := os.WriteFile(mapped, content, 0o600); err != nil {
				return "", nil, err
			}
			arg = name + "=" + mapped
		case "--storage.tsdb.path":
			arg = name + "=" + filepath.Join(d.dir, "tsdb")
		case "--web.listen-address":
			return "", nil, fmt.Errorf("command: %s: the runner gives Prometheus its address itself", name)
		}
		args = append(args, arg)
	}
	address, err := d.addresses.get(port{s.Name, 0, 9090})
	if err != nil {
		return "", nil, err
	}
	path, err := exec.LookPath("prometheus")
	if err != nil {
		targets := localAddress.FindAllString(config, -1)
		slices.Sort(targets)
		d.line("", fmt.Sprintf("%s is left out, since there is no program `prometheus` on the PATH; what it would scrape: http://%s/metrics",
			s.Name, strings.Join(slices.Compact(targets), "/metrics, http://")))
		return "", nil, nil
	}
	return path, append(args, "--web.listen-address="+address), nil
}
