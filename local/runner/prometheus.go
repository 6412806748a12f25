package runner

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"otel-demo/local/compose"
)

// prometheus runs the program of that name on the PATH. If there is none, the service is left out.
var prometheus = &kind{
	name:     "prometheus",
	images:   []string{"prom/prometheus"},
	settings: []string{"image", "command", "ports", "volumes", "tmpfs"},
	plan:     planPrometheus,
}

// prometheusDefault are the image's arguments, used if compose gives none.
var prometheusDefault = []string{"--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"}

var localAddress = regexp.MustCompile(`127\.0\.0\.1:\d+`)

func planPrometheus(d *Demo, s *service) error {
	onHost, err := d.mounts(s, 0)
	if err != nil {
		return err
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
			if config, err = d.mappedYAML(s, 0, value, onHost); err != nil {
				return fmt.Errorf("command: %w", err)
			}
			arg = name + "=" + config
		case "--storage.tsdb.path":
			arg = name + "=" + filepath.Join(d.dir, "tsdb")
		case "--web.listen-address":
			return fmt.Errorf("command: %s: the runner sets Prometheus's address", name)
		}
		args = append(args, arg)
	}
	path, err := exec.LookPath("prometheus")
	if err != nil {
		content, err := os.ReadFile(config)
		if err != nil {
			return fmt.Errorf("command: %w", err)
		}
		targets := localAddress.FindAllString(string(content), -1)
		slices.Sort(targets)
		d.line("", fmt.Sprintf("%s is left out, because there is no `prometheus` program on the PATH; "+
			"it would scrape http://%s/metrics", s.Name, strings.Join(slices.Compact(targets), "/metrics, http://")))
		return nil
	}
	address, err := d.addresses.Assign(compose.Port{Service: s.Name, Number: 9090})
	if err != nil {
		return err
	}
	return d.addProcesses(s, func(int) (string, []string, error) { return path, append(args, "--web.listen-address="+address), nil })
}
