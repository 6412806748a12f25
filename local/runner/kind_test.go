package runner

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

	"otel-demo/local/compose"
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
	content, err := os.ReadFile(filepath.Join("..", "..", folder, "go.mod"))
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
	lists := slices.Clone(compose.ForAll)
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

func TestAnImageIsKnownFromAnyRegistry(t *testing.T) {
	for image, want := range map[string]*kind{
		"redis:8.10-alpine":                   redis,
		"docker.io/library/redis:8.10-alpine": redis,
		"host:5000/redis":                     redis,
		"host:5000/library/redis@sha256:" + strings.Repeat("0", 64): redis,
		"quay.io/jaegertracing/jaeger:2.20.0":                       jaeger,
		"localhost:5000/otel/opentelemetry-collector:0.165.0":       collector,
		"host:5000/myredis": nil,
	} {
		service := types.ServiceConfig{Name: "it"}
		service.Image = image
		got, err := kindOf(service)
		if got != want || (err == nil) != (want != nil) {
			t.Errorf("%s: got %v, %v; want %v", image, got, err, want)
		}
		if got == collector && got.check(service) != nil {
			t.Error(got.check(service))
		}
	}
}
