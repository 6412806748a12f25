package compose

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
)

// Contrib's modules may be older than the images: see the comment in go.mod.
func TestModulesAreOfTheImagesVersion(t *testing.T) {
	var minor int
	if _, err := fmt.Sscanf(collectorVersion, "0.%d.0", &minor); err != nil {
		t.Fatal(err)
	}
	modules := requirements(t, "local")
	stable := fmt.Sprintf("v1.%d.0", minor-94)
	for module, version := range modules {
		if strings.HasPrefix(module, "go.opentelemetry.io/collector/") && version != "v"+collectorVersion && version != stable {
			t.Errorf("%s is %s, want v%s or %s", module, version, collectorVersion, stable)
		}
		var of int
		if strings.Contains(module, "/opentelemetry-collector-contrib/") {
			if _, err := fmt.Sscanf(version, "v0.%d.0", &of); err != nil || of > minor || of < minor-5 {
				t.Errorf("%s is %s, want up to v%s, and not much older", module, version, collectorVersion)
			}
		}
	}
	if modules["go.opentelemetry.io/collector/otelcol"] == "" {
		t.Errorf("the collector is not in go.mod: %v", modules)
	}
}

// A module with two versions would be downloaded and compiled twice from a fresh clone.
func TestModulesAgreeOnWhatTheyShare(t *testing.T) {
	all := map[string]string{}
	for _, folder := range []string{".", "local", "brokers"} {
		for module, version := range requirements(t, folder) {
			if other := cmp.Or(all[module], version); other != version {
				t.Errorf("%s is %s in %s, and %s elsewhere", module, version, folder, other)
			}
			all[module] = version
		}
	}
	if len(all) < 200 {
		t.Errorf("only %d modules are required", len(all))
	}
}

// requirements returns what a go.mod requires, without the project's own modules.
func requirements(t *testing.T, folder string) map[string]string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(projectRoot(t), folder, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	versions := map[string]string{}
	for _, line := range regexp.MustCompile(`(?m)^(?:require)?\s+(\S+\.\S+/\S+) (v\S+)`).FindAllStringSubmatch(string(content), -1) {
		versions[line[1]] = line[2]
	}
	return versions
}

// Compose has each setting in the lists. A misspelled one would have no effect.
func TestTheListsNameRealSettings(t *testing.T) {
	var names []string
	var collect func(reflect.Type)
	collect = func(typ reflect.Type) {
		for i := range typ.NumField() {
			field := typ.Field(i)
			name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
			if name == "" && field.Type.Kind() == reflect.Struct {
				collect(field.Type)
			}
			names = append(names, name)
		}
	}
	collect(reflect.TypeFor[types.ServiceConfig]())
	lists := slices.Concat(ignored, supportedForAll)
	for _, kind := range kinds {
		lists = append(lists, kind.settings...)
	}
	for _, setting := range lists {
		name, _, _ := strings.Cut(setting, ".")
		if !slices.Contains(names, name) {
			t.Errorf("%s: compose has no such setting", setting)
		}
	}
	if len(names) < 90 {
		t.Errorf("compose has %d settings, too few to be all of them", len(names))
	}
}

func TestHostsAndPortsAreOfThisMachine(t *testing.T) {
	project := &types.Project{Services: services("server", "redis", "otel-agent")}
	a, err := NewAddresses(project, false, "")
	if err != nil {
		t.Fatal(err)
	}
	for p, address := range map[Port]string{
		{"server", 0, 8080}: "127.0.0.1:1", {"redis", 0, 6379}: "127.0.0.1:2", {"otel-agent", 0, 4317}: "127.0.0.1:3",
		{"server", 0, 80}: "127.0.0.1:4", {"server", 1, 8080}: "127.0.0.1:5",
	} {
		a.of[p] = address
	}
	for _, test := range []struct{ text, want string }{
		{"http://server:8080/hello", "http://127.0.0.1:1/hello"},
		{"http://server/hello?to=1", "http://127.0.0.1:4/hello?to=1"},
		{"redis://redis/0", "redis://127.0.0.1:2/0"},
		{"redis://redis:redis@redis:6379/0", "redis://redis:redis@127.0.0.1:2/0"},
		{"0.0.0.0:8080", "127.0.0.1:1"},
		{":8080", "127.0.0.1:1"},
		{"[::]:8080", "127.0.0.1:1"},
		{"localhost:8080", "127.0.0.1:1"},
		{"http://127.0.0.1:8080/healthz", "http://127.0.0.1:1/healthz"},
		{"otel-agent:4317", "127.0.0.1:3"},
		{"a=server:8080,otel-agent:4317", "a=127.0.0.1:1,127.0.0.1:3"},
		{"--set=exporters::otlp::endpoint=otel-agent:4317", "--set=exporters::otlp::endpoint=127.0.0.1:3"},
		{"https://api.example.com/v1", "https://api.example.com/v1"},
		{"collector.example.com:4317", "collector.example.com:4317"},
		{"12:30", "12:30"},
		{"server", "server"},
		{"key=value", "key=value"},
	} {
		got, err := a.InText("server", 0, test.text)
		if err != nil || got != test.want {
			t.Errorf("%s: got %s, %v; want %s", test.text, got, err, test.want)
		}
	}
	if got, err := a.InText("server", 1, "0.0.0.0:8080"); err != nil || got != "127.0.0.1:5" {
		t.Errorf("the second instance listens on %s, %v", got, err)
	}
	a.redisURL = "rediss://:secret@redis.example.com/1"
	if got, err := a.InText("server", 0, "redis://redis:6379/0"); err != nil || got != a.redisURL {
		t.Errorf("with REDIS_URL: got %s, %v", got, err)
	}
}

func TestYAMLHasTheAddressesAndPathsOfThisMachine(t *testing.T) {
	a, err := NewAddresses(&types.Project{Services: services("collector", "one", "two")}, false, "")
	if err != nil {
		t.Fatal(err)
	}
	for p, address := range map[Port]string{
		{"one", 0, 4317}: "127.0.0.1:1", {"two", 0, 4317}: "127.0.0.1:2", {"collector", 0, 8888}: "127.0.0.1:3",
		{"collector", 0, 4317}: "127.0.0.1:4",
	} {
		a.of[p] = address
	}
	file := filepath.Join(t.TempDir(), "config.yaml")
	content := `receivers: {otlp: {protocols: {grpc: {endpoint: "0.0.0.0:4317"}}}}
extensions: {file_storage: {directory: /var/lib/storage/queue}}
exporters:
  load_balancing:
    resolver: {static: {hostnames: ["one:4317", "two:4317"]}}
service: {telemetry: {metrics: {readers: [{pull: {exporter: {prometheus: {host: 0.0.0.0, port: 8888}}}}]}}}
`
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	onHost := func(path string) string { return strings.Replace(path, "/var/lib/storage", "/tmp/volume", 1) }
	got, err := a.InFile("collector", 0, file, onHost)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"127.0.0.1:4"`, `["127.0.0.1:1", "127.0.0.1:2"]`, "host: 127.0.0.1, port: 3}", "directory: /tmp/volume/queue"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("want %s in\n%s", want, got)
		}
	}

	if err := os.WriteFile(file, []byte("exporters:\n  otlp:\n    endpoint: oen:4317\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = a.InFile("collector", 0, file, func(path string) string { return path })
	if want := `config.yaml:3: "oen:4317": no service is named oen; the services are collector, one, two`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestAnImageIsKnownFromAnyRegistry(t *testing.T) {
	for image, want := range map[string]Kind{
		"redis:8.10-alpine":                   Redis,
		"docker.io/library/redis:8.10-alpine": Redis,
		"host:5000/redis":                     Redis,
		"host:5000/library/redis@sha256:" + strings.Repeat("0", 64): Redis,
		"quay.io/jaegertracing/jaeger:2.20.0":                       Jaeger,
		"localhost:5000/otel/opentelemetry-collector:0.165.0":       Collector,
		"host:5000/myredis": "",
	} {
		service := types.ServiceConfig{Name: "it"}
		service.Image = image
		kind, err := KindOf(service)
		if kind != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %s, %v; want %s", image, kind, err, want)
		}
		if kind == Collector {
			if err := checkCollector(service); err != nil {
				t.Error(err)
			}
		}
	}
}

// services returns programs with these names.
func services(names ...string) types.Services {
	all := types.Services{}
	for _, name := range names {
		service := types.ServiceConfig{Name: name}
		service.Build = &types.BuildConfig{}
		all[name] = service
	}
	return all
}

// projectRoot returns the project's root: docker-compose.yml is two folders up.
func projectRoot(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return root
}
