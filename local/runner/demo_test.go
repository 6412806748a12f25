package runner

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"

	"otel-demo/local/compose"
)

// overlay writes a compose file, and returns its path.
func overlay(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "overlay.yml")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestWhatCannotBeServedIsAnErrorThatNamesIt(t *testing.T) {
	root := filepath.Join("..", "..")
	for _, test := range []struct{ overlay, want string }{
		{`services: {worker: {sysctls: {a: b}}}`, "services.worker.sysctls.a: the runner doesn't support this setting for a program"},
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
		{`services: {cli: {image: "redis:8", command: [redis-cli, -h, redis, -r, "-1", -i, "1", ping]}}`, "services.cli.command: the runner's redis-cli supports only: -u URL -r -1 -i SECONDS COMMAND"},
		{`services: {cli: {image: "redis:8", command: [redis-cli, -u, "redis://redis:6379", -r, "-1", -i, soon, ping]}}`, "services.cli.command: -i soon: want seconds"},
		{`services: {cli: {image: "redis:8", command: [redis-cli, -u, "redis://rediss:6379", -r, "-1", -i, "1", ping]}}`, "services.cli.command: \"redis://rediss:6379\": no service is named rediss"},
		{`services: {jaeger: {command: ["--set=extensions.jaeger_storage.backends.some_storage.memory.max_traces=5"]}}`, "services.jaeger.command"},
		{`services: {jaeger: {environment: {SPAN_STORAGE_TYPE: badger}}}`, "services.jaeger.environment.SPAN_STORAGE_TYPE"},
		{`services: {otel-agent: {image: "otel/opentelemetry-collector:0.1.0"}}`, "services.otel-agent.image: otel/opentelemetry-collector:0.1.0"},
		{`services: {readable: {volumes: ["./docs:/docs"]}}`, "services.readable.command: [\"sh\""},
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
		files := []string{compose.File, overlay(t, test.overlay)}
		d, err := Start(t.Context(), Options{Root: root, Files: files, FreePorts: true})
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

// Two files with the same name in different folders stay separate.
func TestMountedFilesOfOneNameAreKeptApart(t *testing.T) {
	dir := t.TempDir()
	d := &Demo{dir: t.TempDir(), addresses: compose.NewAddresses(&types.Project{})}
	for _, name := range []string{"one", "two"} {
		if err := errors.Join(os.Mkdir(filepath.Join(dir, name), 0o700), os.WriteFile(filepath.Join(dir, name, "it.yaml"), []byte("is: "+name), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	var mapped []string
	for _, name := range []string{"one", "two"} {
		onHost := func(path string) string { return strings.Replace(path, "/etc", dir, 1) }
		file, err := d.mappedYAML(&service{}, 0, "/etc/"+name+"/it.yaml", onHost)
		if err != nil {
			t.Fatal(err)
		}
		mapped = append(mapped, file)
	}
	for i, want := range []string{"is: one\n", "is: two\n"} {
		if got, err := os.ReadFile(mapped[i]); err != nil || string(got) != want {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
}

// Go fails to read the commit of a clone that belongs to another user. Here, the repository is broken.
func TestProgramsAreBuiltWhenTheCommitCannotBeRead(t *testing.T) {
	module, dir := t.TempDir(), t.TempDir()
	t.Setenv("GOENV", "off") // which may have -buildvcs=false
	t.Setenv("GOFLAGS", "")
	for name, content := range map[string]string{"go.mod": "module one\n", "one.go": "package main\n\nfunc main() {}\n"} {
		if err := os.WriteFile(filepath.Join(module, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(module, ".git"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Build(t.Context(), module, dir, "."); err != nil {
		t.Error(err)
	}
	if built, err := os.ReadDir(dir); err != nil || len(built) != 1 {
		t.Errorf("built %v, %v", built, err)
	}
}

func TestAReadOnlyCloneHasItsProgramsInTheCache(t *testing.T) {
	root, cache := t.TempDir(), t.TempDir()
	for _, name := range []string{"XDG_CACHE_HOME", "HOME", "LocalAppData"} { // on Linux, macOS and Windows
		t.Setenv(name, cache)
	}
	if dir := Binaries(root); dir != filepath.Join(root, "local", "bin") {
		t.Errorf("a clone that can be written to has its programs in %s", dir)
	}
	root = t.TempDir()
	// A file in the folder's place stops root too.
	if err := os.WriteFile(filepath.Join(root, "local"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := Binaries(root)
	if !strings.HasPrefix(dir, cache) || dir != Binaries(root) {
		t.Errorf("the programs are in %s", dir)
	}
}
