package compose

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
)

// A port assigned to a service stays reserved until the service listens.
func TestPortsAreHeldUntilTheirServiceStarts(t *testing.T) {
	a := NewAddresses(&types.Project{Services: services("one", "two")})
	defer a.Release()
	one, err := a.Assign(Port{"one", 0, 80})
	if err != nil {
		t.Fatal(err)
	}
	two, err := a.Assign(Port{"two", 0, 80})
	if err != nil {
		t.Fatal(err)
	}
	a.ReleaseFor("one", 0)
	for address, free := range map[string]bool{one: true, two: false} {
		listener, err := net.Listen("tcp", address)
		if (err == nil) != free {
			t.Errorf("listen on %s: %v", address, err)
		}
		if err == nil {
			listener.Close()
		}
	}
	if listener, err := a.Listen(Port{"two", 0, 80}); err != nil || listener.Addr().String() != two {
		t.Errorf("service two can't listen on its own port: %v", err)
	} else {
		listener.Close()
	}
}

func TestHostsAndPortsAreOfThisMachine(t *testing.T) {
	a := NewAddresses(&types.Project{Services: services("server", "redis", "otel-agent")})
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
		got, err := a.Replace("server", 0, test.text)
		if err != nil || got != test.want {
			t.Errorf("%s: got %s, %v; want %s", test.text, got, err, test.want)
		}
	}
	if got, err := a.Replace("server", 1, "0.0.0.0:8080"); err != nil || got != "127.0.0.1:5" {
		t.Errorf("the second instance listens on %s, %v", got, err)
	}
	const url = "rediss://:secret@redis.example.com/1"
	a.AddRunning(Port{"redis", 0, 6379}, "redis.example.com:6379", url)
	if got, err := a.Replace("server", 0, "redis://redis:6379/0"); err != nil || got != url {
		t.Errorf("a Redis that is already running: got %s, %v", got, err)
	}
}

func TestYAMLHasTheAddressesAndPathsOfThisMachine(t *testing.T) {
	a := NewAddresses(&types.Project{Services: services("collector", "one", "two")})
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
	got, err := a.ReplaceInFile("collector", 0, file, onHost)
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
	_, err = a.ReplaceInFile("collector", 0, file, func(path string) string { return path })
	if want := `config.yaml:3: "oen:4317": no service is named oen; the services are collector, one, two`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// services returns services with these names.
func services(names ...string) types.Services {
	all := types.Services{}
	for _, name := range names {
		all[name] = types.ServiceConfig{Name: name}
	}
	return all
}
