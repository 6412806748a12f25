package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
)

// exceptions from the policy, each with its reason. One that nothing needs is an error.
// There is none now; this is what one looks like:
//
//	"recipes/NAME/docker-compose.yml SERVICE read-only root": "it keeps its database there",
var exceptions = map[string]string{}

var secretName = regexp.MustCompile(`(?i)password|passwd|secret|token|credential|api_?key|private_?key`)

// breaches returns what a service does against the policy, as rule and finding.
func breaches(service types.ServiceConfig, dockerfile string) map[string]string {
	found := map[string]string{}
	check := func(ok bool, rule, finding string) {
		if !ok {
			found[rule] = finding
		}
	}
	for _, p := range service.Ports {
		check(p.HostIP == "127.0.0.1", "ports on 127.0.0.1 only", p.HostIP+":"+p.Published)
	}
	check(service.NetworkMode == "" && service.Pid == "" && service.Ipc == "" && service.UserNSMode == "", "namespaces of its own", service.NetworkMode)

	// Without a user of its own, a service has that of its image. The Dockerfile's last one is distroless nonroot.
	user, _, _ := strings.Cut(service.User, ":")
	if user == "" && service.Build != nil && strings.Contains(dockerfile, ":nonroot\n") {
		user = "nonroot"
	}
	check(user != "" && user != "0" && user != "root", "no root", "user "+service.User)
	check(slices.Equal(service.CapDrop, []string{"ALL"}) && len(service.CapAdd) == 0 && !service.Privileged && len(service.Devices) == 0,
		"no capabilities", strings.Join(service.CapAdd, " "))
	check(slices.Contains(service.SecurityOpt, "no-new-privileges:true"), "no new privileges", strings.Join(service.SecurityOpt, " "))
	check(service.ReadOnly, "read-only root", "")
	for _, v := range service.Volumes {
		check(v.Type != types.VolumeTypeBind || v.ReadOnly, "read-only root", v.Source)
		check(!strings.Contains(v.Source, "docker.sock"), "no engine", v.Source)
	}
	check(service.MemLimit > 0 || service.Deploy != nil && service.Deploy.Resources.Limits != nil && service.Deploy.Resources.Limits.MemoryBytes > 0,
		"memory limit", "")

	// The client makes its requests and ends; a service whose command is `true` has ended already.
	ends := service.Name == "client" || slices.Equal(service.Command, []string{"true"})
	check(ends == (service.Restart == ""), "restarts if it dies", service.Restart)

	if service.Build == nil {
		check(hasVersion(service.Image), "an image of one version", service.Image)
	}
	for name, value := range service.Environment {
		if value == nil {
			continue // it comes from whoever starts it
		}
		check(!secretName.MatchString(name) || *value == "", "no secret", name)
		check(!regexp.MustCompile(`://[^/\s]*@`).MatchString(*value), "no secret", name)
	}
	for _, arg := range service.Command {
		check(!regexp.MustCompile(`(?i)--requirepass|password=`).MatchString(arg), "no secret", arg)
	}
	return found
}

// hasVersion says whether an image's tag is there, and isn't latest.
func hasVersion(image string) bool {
	_, tag, _ := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":")
	return tag != "" && !strings.Contains(tag, "latest")
}

func TestComposePolicy(t *testing.T) {
	root := projectRoot(t)
	dockerfile, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range regexp.MustCompile(`(?m)^FROM (\S+)`).FindAllStringSubmatch(string(dockerfile), -1) {
		if !hasVersion(from[1]) {
			t.Errorf("Dockerfile: FROM %s: want an image of one version", from[1])
		}
	}
	if regexp.MustCompile(`(?mi)^\s*USER\s+(0|root)\b`).Match(dockerfile) {
		t.Error("Dockerfile: USER root")
	}

	needed := map[string]bool{}
	overlays, err := filepath.Glob(filepath.Join(root, "recipes", "*", "docker-compose*.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append([]string{composeFile}, overlays...) {
		files := []string{composeFile}
		if file != composeFile {
			files = append(files, file)
		}
		project, err := loadProject(t.Context(), root, files)
		if err != nil {
			t.Error(err)
			continue
		}
		name := strings.TrimPrefix(filepath.ToSlash(strings.TrimPrefix(file, root)), "/")
		for _, service := range project.Services {
			for rule, finding := range breaches(service, string(dockerfile)) {
				key := name + " " + service.Name + " " + rule
				needed[key] = true
				if exceptions[key] == "" {
					t.Errorf("%s: services.%s: %s: %q; make it so, or give the reason in exceptions", name, service.Name, rule, finding)
				}
			}
		}
	}
	for key := range exceptions {
		if !needed[key] {
			t.Errorf("nothing needs the exception %q", key)
		}
	}
}

// A test that finds nothing has to find what is there to be found.
func TestComposePolicyFindsEachBreach(t *testing.T) {
	project, err := loadProject(t.Context(), projectRoot(t), []string{composeFile})
	if err != nil {
		t.Fatal(err)
	}
	password := "x"
	for rule, break_ := range map[string]func(s *types.ServiceConfig){
		"ports on 127.0.0.1 only": func(s *types.ServiceConfig) { s.Ports = []types.ServicePortConfig{{Published: "1", Target: 1}} },
		"namespaces of its own":   func(s *types.ServiceConfig) { s.NetworkMode = "host" },
		"no root":                 func(s *types.ServiceConfig) { s.User = "" },
		"no capabilities":         func(s *types.ServiceConfig) { s.CapAdd = []string{"NET_ADMIN"} },
		"no new privileges":       func(s *types.ServiceConfig) { s.SecurityOpt = nil },
		"read-only root":          func(s *types.ServiceConfig) { s.ReadOnly = false },
		"no engine": func(s *types.ServiceConfig) {
			s.Volumes = []types.ServiceVolumeConfig{{Type: "bind", Source: "/var/run/docker.sock", ReadOnly: true}}
		},
		"memory limit":            func(s *types.ServiceConfig) { s.MemLimit = 0 },
		"restarts if it dies":     func(s *types.ServiceConfig) { s.Restart = "" },
		"an image of one version": func(s *types.ServiceConfig) { s.Image = "redis:latest" },
		"no secret":               func(s *types.ServiceConfig) { s.Environment = types.MappingWithEquals{"DB_PASSWORD": &password} },
	} {
		service := project.Services["redis"]
		break_(&service)
		if found := breaches(service, ""); len(found) != 1 || !slices.Contains(sortedKeys(found), rule) {
			t.Errorf("%s: found %v", rule, found)
		}
	}
}
