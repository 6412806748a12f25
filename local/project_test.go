package main

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
)

func TestWhatCannotBeServedIsAnErrorThatNamesIt(t *testing.T) {
	for _, test := range []struct{ overlay, want string }{
		{`services: {worker: {sysctls: {a: b}}}`, "services.worker.sysctls.a: the runner can't serve this setting for a program"},
		{`services: {worker: {tty: true}}`, "services.worker.tty"},
		{`services: {worker: {cap_add: [NET_ADMIN]}}`, "services.worker.cap_add"},
		{`services: {worker: {privileged: true}}`, "services.worker.privileged"},
		{`services: {worker: {entrypoint: [sh]}}`, "services.worker.entrypoint"},
		{`services: {worker: {volumes: ["./a:/a"]}}`, "services.worker.volumes"},
		{`services: {worker: {deploy: {mode: global}}}`, "services.worker.deploy.mode"},
		{`services: {worker: {build: {target: x}}}`, "services.worker.build.target"},
		{`services: {worker: {build: {args: {X: y}}}}`, "services.worker.build.args.X"},
		{`services: {worker: {build: {args: {CMD: nosuch}}}}`, "services.worker.build.args.CMD: nosuch: there is no folder cmd/nosuch"},
		{`services: {worker: {networks: [back]}}` + "\nnetworks: {back: {}}", "networks.back"},
		{`services: {worker: {secrets: [s]}}` + "\nsecrets: {s: {file: ./s}}", "secrets.s"},
		{`services: {worker: {healthcheck: {test: ["CMD-SHELL", "true"]}}}`, "services.worker.healthcheck.test"},
		{`services: {worker: {depends_on: {redis: {condition: service_healthy, restart: true}}}}`, "services.worker.depends_on.redis.restart"},
		{`services: {server: {ports: ["127.0.0.1:9:9/udp"]}}`, "services.server.ports: udp"},
		{`services: {server: {scale: 2}}`, "services.server.scale: 2"},
		{`services: {redis: {scale: 2}}`, "services.redis.scale: 2"},
		{`services: {redis: {command: [redis-server, --requirepass, x]}}`, "services.redis.command"},
		{`services: {jaeger: {command: ["--set=extensions.jaeger_storage.backends.some_storage.memory.max_traces=5"]}}`, "services.jaeger.command"},
		{`services: {jaeger: {environment: {SPAN_STORAGE_TYPE: badger}}}`, "services.jaeger.environment.SPAN_STORAGE_TYPE"},
		{`services: {otel-agent: {image: "otel/opentelemetry-collector:0.1.0"}}`, "services.otel-agent.image: otel/opentelemetry-collector:0.1.0"},
		{`services: {db: {image: "postgres:18"}}`, `services.db: image "postgres:18": the runner has no stand-in for it`},
		{`services: {worker: {nosuch: 1}}`, "nosuch"},
		{`services: {otel-agent: {command: ["--config=/nosuch.yaml"]}}`, "services.otel-agent.command: no volume mounts /nosuch.yaml"},
		{`services: {otel-agent: {command: ["--help"]}}`, "services.otel-agent.command: --help"},
		{`services: {client: {environment: {SERVER_URL: "http://sever:8080/hello"}}}`,
			`services.client.environment.SERVER_URL: "http://sever:8080/hello": no service is named sever; the services are client,`},
		{`services: {otel-collector: {command: ["--config=/etc/otel-collector-config.yaml", "--set=exporters.zipkin.endpoint=http://zipkn:9411"]}}`,
			"no service is named zipkn"},
		{`services: {otel-collector: {command: ["--config=/etc/otel-collector-config.yaml", "--set=exporters.otlp_http/jaeger.endpoint=http://jaeger:4319"]}}`,
			"jaeger:4319: the runner's jaeger has no such port"},
	} {
		files := []string{composeFile, overlay(t, test.overlay)}
		d, err := Start(t.Context(), Options{Root: projectRoot(t), Files: files, FreePorts: true})
		if err == nil {
			t.Errorf("%s: started", test.overlay)
			_ = d.Stop()
			continue
		}
		if !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s:\ngot  %v\nwant %s", test.overlay, err, test.want)
		}
	}
}

// Each setting in the lists is one that compose has. A misspelt one would serve nothing.
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
	lists := slices.Concat(leftAside, servedForAll)
	for _, list := range served {
		lists = append(lists, list...)
	}
	for _, setting := range lists {
		name, _, _ := strings.Cut(setting, ".")
		if !slices.Contains(names, name) {
			t.Errorf("%s: compose has no such setting", setting)
		}
	}
	if len(names) < 90 {
		t.Errorf("compose has %d settings, which is too few to be all", len(names))
	}
}

func TestHostsAndPortsAreOfThisMachine(t *testing.T) {
	project := &types.Project{Services: types.Services{"server": {}, "redis": {}, "otel-agent": {}}}
	a, err := newAddresses(project, false)
	if err != nil {
		t.Fatal(err)
	}
	for p, address := range map[port]string{
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
		got, err := a.inText("server", 0, test.text)
		if err != nil || got != test.want {
			t.Errorf("%s: got %s, %v; want %s", test.text, got, err, test.want)
		}
	}
	if got, err := a.inText("server", 1, "0.0.0.0:8080"); err != nil || got != "127.0.0.1:5" {
		t.Errorf("the second instance listens on %s, %v", got, err)
	}
	a.redisURL = "rediss://:secret@redis.example.com/1"
	if got, err := a.inText("server", 0, "redis://redis:6379/0"); err != nil || got != a.redisURL {
		t.Errorf("with REDIS_URL: got %s, %v", got, err)
	}
}

func TestYAMLHasTheAddressesAndPathsOfThisMachine(t *testing.T) {
	a, err := newAddresses(&types.Project{Services: types.Services{"collector": {}, "one": {}, "two": {}}}, false)
	if err != nil {
		t.Fatal(err)
	}
	for p, address := range map[port]string{
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
	got, err := a.inFile("collector", 0, file, onHost)
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
	_, err = a.inFile("collector", 0, file, noPaths)
	if want := `config.yaml:3: "oen:4317": no service is named oen; the services are collector, one, two`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
