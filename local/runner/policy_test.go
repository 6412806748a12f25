package runner

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"

	"otel-demo/local/compose"
)

var secretName = regexp.MustCompile(`(?i)password|passwd|secret|token|credential|api_?key|private_?key`)

// checkPolicy reports how a service violates the policy.
func checkPolicy(t *testing.T, file string, service types.ServiceConfig, dockerfile string) {
	t.Helper()
	check := func(ok bool, rule, finding string) {
		t.Helper()
		if !ok {
			t.Errorf("%s: services.%s: %s: %q", file, service.Name, rule, finding)
		}
	}
	of, _ := kindOf(service) // an unknown one is refused elsewhere
	for _, p := range service.Ports {
		check(p.HostIP == "127.0.0.1", "ports on 127.0.0.1 only", p.HostIP+":"+p.Published)
	}
	check(service.NetworkMode == "" && service.Pid == "" && service.Ipc == "" && service.UserNSMode == "", "its own namespaces", service.NetworkMode)

	// Without its own user, a service has its image's. The Dockerfile's last one is distroless nonroot.
	user, _, _ := strings.Cut(service.User, ":")
	if user == "" && of == program && strings.Contains(dockerfile, ":nonroot\n") {
		user = "nonroot"
	}
	check(user != "" && user != "0" && user != "root", "no root", "user "+service.User)
	check(slices.Equal(service.CapDrop, []string{"ALL"}) && len(service.CapAdd) == 0 && !service.Privileged && len(service.Devices) == 0,
		"no capabilities", strings.Join(service.CapAdd, " "))
	check(slices.Contains(service.SecurityOpt, "no-new-privileges:true"), "no new privileges", strings.Join(service.SecurityOpt, " "))
	check(service.ReadOnly, "read-only root", "")
	for _, v := range service.Volumes {
		check(v.Type != types.VolumeTypeBind || v.ReadOnly, "read-only root", v.Source)
		check(v.Type != types.VolumeTypeBind || v.Bind != nil && v.Bind.SELinux == "z", "readable under SELinux", v.Source)
		check(!strings.Contains(v.Source, "docker.sock"), "no engine", v.Source)
	}
	check(service.MemLimit > 0 || service.Deploy != nil && service.Deploy.Resources.Limits != nil && service.Deploy.Resources.Limits.MemoryBytes > 0,
		"memory limit", "")

	// A client makes its requests and exits; a service that only prepares or checks something exits at once.
	ends := of == program && *service.Build.Args["CMD"] == "client" || of == nothing
	check(ends == (service.Restart == ""), "restarts if it dies", service.Restart)

	if service.Build == nil {
		check(hasVersion(service.Image), "an image of one version", service.Image)
		check(strings.HasPrefix(service.Image, "docker.io/"), "an image of a named registry", service.Image)
	}
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"} {
		value, set := service.Environment[name]
		check(!slices.Contains([]*kind{program, foreign, collector, jaeger}, of) || set && (value == nil || *value == ""), "no proxy", name)
	}
	for name, value := range service.Environment {
		if value == nil {
			continue // set by whoever starts it
		}
		check(!secretName.MatchString(name) || *value == "", "no secret", name)
		check(!regexp.MustCompile(`://[^/\s]*@`).MatchString(*value), "no secret", name)
	}
	for _, arg := range service.Command {
		check(!regexp.MustCompile(`(?i)--requirepass|password=`).MatchString(arg), "no secret", arg)
	}
}

// hasVersion reports whether an image has a tag other than latest.
func hasVersion(image string) bool {
	_, tag, _ := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":")
	return tag != "" && !strings.Contains(tag, "latest")
}

func TestComposePolicy(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	dockerfiles, err := filepath.Glob(filepath.Join(root, "recipes", "*", "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	var dockerfile []byte // in the end the root's
	for _, file := range append(dockerfiles, filepath.Join(root, "Dockerfile")) {
		if dockerfile, err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
		for _, from := range regexp.MustCompile(`(?m)^FROM (\S+)`).FindAllStringSubmatch(string(dockerfile), -1) {
			if !hasVersion(from[1]) {
				t.Errorf("%s: FROM %s: want an image of one version", file, from[1])
			}
		}
		if regexp.MustCompile(`(?mi)^\s*USER\s+(0|root)\b`).Match(dockerfile) {
			t.Errorf("%s: USER root", file)
		}
	}

	overlays, err := filepath.Glob(filepath.Join(root, "[rc]*s", "*", "docker-compose*.yml")) // recipes and cases
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append([]string{compose.File}, overlays...) {
		project, err := Load(t.Context(), root, slices.Compact([]string{compose.File, file}))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, service := range project.Services {
			checkPolicy(t, file, service, string(dockerfile))
		}
	}
}
