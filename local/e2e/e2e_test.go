package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"otel-demo/local/compose"
	"otel-demo/local/poll"
	"otel-demo/local/runner"
	"otel-demo/local/spans"
)

var long = flag.Bool("long", false, "run the tests too that take more than 10 s by their nature")

// These tests mostly wait, so more of them run in parallel than there are cores, unless -parallel says otherwise, or
// -long adds those that need the cores.
func TestMain(m *testing.M) {
	flag.Parse()
	compose.FreePorts = [2]int{26000, 32000}
	parallel := false
	flag.Visit(func(f *flag.Flag) { parallel = parallel || f.Name == "test.parallel" })
	if !parallel && !*long {
		if err := flag.Set("test.parallel", "8"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// binaries returns the folder with the runner, the programs and the collectors: the one in which the runner keeps them.
// All are brought up to date once for all tests.
var binaries = sync.OnceValues(func() (string, error) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	dir, ctx := runner.Binaries(root), context.Background()
	return dir, errors.Join(err,
		runner.Build(ctx, root, dir, "./cmd/..."),
		runner.Build(ctx, filepath.Join(root, "local"), dir, ".", "./collector", "./collector/contrib"))
})

// binary returns the path of one of them.
func binary(t *testing.T, name string) string {
	t.Helper()
	dir, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	return filepath.Join(dir, name)
}

// projectRoot returns the project's root.
func projectRoot(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// expected returns the traces that the README promises.
func expected(t *testing.T) string {
	t.Helper()
	want, err := os.ReadFile(filepath.Join(projectRoot(t), "docs", "trace.txt"))
	if err != nil {
		t.Fatal(err)
	}
	return string(want)
}

// overlay writes a compose file, and returns its path.
func overlay(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "overlay.yml")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// freeAddress returns an address that nothing listens on now.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := compose.ListenOnFree()
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// isFree reports whether nothing listens on an address.
func isFree(address string) bool {
	listener, err := net.Listen("tcp", address)
	if err == nil {
		listener.Close()
	}
	return err == nil
}

// freePorts writes an overlay that publishes everything on free ports, so that it doesn't conflict with anything on
// this machine, and returns its path and the ports.
func freePorts(t *testing.T) (file string, ports []string) {
	t.Helper()
	content := "services:\n"
	for _, p := range []struct {
		service string
		number  int
	}{{"server", 8080}, {"jaeger", 16686}, {"zipkin", 9411}} {
		address := freeAddress(t)
		content += fmt.Sprintf("  %s:\n    ports: !override [\"%s:%d\"]\n", p.service, address, p.number)
		ports = append(ports, address)
	}
	return overlay(t, content), ports
}

// runnerProcess is the runner as a separate process.
type runnerProcess struct {
	*exec.Cmd
	t      *testing.T
	stdout bytes.Buffer
	stderr safeBuffer
	temp   string
	ports  []string
}

// startRunner starts the runner on free ports, with its own temporary folder.
func startRunner(t *testing.T, args ...string) *runnerProcess {
	t.Helper()
	return startRunnerTo(t, nil, args...)
}

// startRunnerTo starts the runner with its standard output going to a file, or to r.stdout.
func startRunnerTo(t *testing.T, stdout *os.File, args ...string) *runnerProcess {
	t.Helper()
	file, ports := freePorts(t)
	r := &runnerProcess{t: t, temp: t.TempDir(), ports: ports}
	r.Cmd = exec.Command(binary(t, "local"), append([]string{"-f", file}, args...)...)
	r.Cmd.Env = append(os.Environ(), "TMPDIR="+r.temp, "TMP="+r.temp, "OTEL_SERVICE_NAME=not-for-them", "GOCACHE="+goCache(t))
	r.Cmd.Dir = projectRoot(t)
	r.Cmd.Stdout, r.Cmd.Stderr = &r.stdout, &r.stderr
	if stdout != nil {
		r.Cmd.Stdout = stdout
	}
	r.Cmd.WaitDelay = time.Second
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.Process.Kill() // if the test failed early
		if t.Failed() {
			t.Logf("the runner's output:\n%s\n%s", r.stdout.String(), r.stderr.String())
		}
	})
	return r
}

var goCache = func() func(t *testing.T) string {
	get := sync.OnceValues(func() (string, error) {
		out, err := exec.Command("go", "env", "GOCACHE").Output()
		return strings.TrimSpace(string(out)), err
	})
	return func(t *testing.T) string {
		t.Helper()
		dir, err := get()
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
}()

// says waits until the runner has written a text to standard error.
func (r *runnerProcess) says(text string) {
	r.t.Helper()
	eventually(r.t, "the runner to write "+text, func() bool { return strings.Contains(r.stderr.String(), text) })
}

// status waits for the runner to exit, checks that it leaves nothing behind, and returns its exit status.
func (r *runnerProcess) status() int {
	r.t.Helper()
	done := make(chan error, 1)
	go func() { done <- r.Wait() }()
	select {
	case err := <-done:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			r.t.Fatal(err)
		}
	case <-time.After(90 * time.Second):
		r.t.Fatal("the runner did not exit within 90 s")
	}
	left, err := filepath.Glob(filepath.Join(r.temp, "otel-demo-*"))
	if err != nil || len(left) > 0 {
		r.t.Errorf("files left: %v %v", left, err)
	}
	r.portsAreFree()
	return r.ProcessState.ExitCode()
}

func (r *runnerProcess) portsAreFree() {
	r.t.Helper()
	for _, address := range r.ports {
		if !isFree(address) {
			r.t.Errorf("a port is still taken: %s", address)
		}
	}
}

// children returns the runner's processes by id, each with its command line.
func (r *runnerProcess) children() map[int]string {
	children := map[int]string{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is valid
	for _, stat := range stats {
		content, err := os.ReadFile(stat)
		if err != nil {
			continue // it has just exited
		}
		// "123 (name) S 45 ...": the name may contain anything, and the parent's id is the second field after it.
		_, rest, _ := strings.Cut(string(content), ") ")
		fields := strings.Fields(rest)
		if len(fields) > 1 && fields[1] == strconv.Itoa(r.Process.Pid) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
			line, _ := os.ReadFile(filepath.Join(filepath.Dir(stat), "cmdline"))
			children[pid] = string(line)
		}
	}
	return children
}

// left reports the children that are still running.
func (r *runnerProcess) left(children map[int]string) {
	r.t.Helper()
	for pid, command := range children {
		if isAlive(pid) {
			r.t.Errorf("process %d is still running: %s", pid, command)
		}
	}
}

func isAlive(pid int) bool {
	process, err := os.FindProcess(pid)
	return err == nil && process.Signal(syscall.Signal(0)) == nil
}

// within waits until check returns nil, and returns how long that took. After limit, the test fails with the last error.
func within(t *testing.T, limit time.Duration, check func() error) time.Duration {
	t.Helper()
	start := time.Now()
	if err := poll.Until(context.Background(), 20*time.Millisecond, max(limit, 1), check); err != nil { // 0 would be no limit
		t.Fatalf("not within %v: %v", limit, err)
	}
	return time.Since(start).Round(100 * time.Millisecond)
}

// eventually waits up to 30 s until so returns true.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	eventuallyWithin(t, 30*time.Second, what, so)
}

func eventuallyWithin(t *testing.T, limit time.Duration, what string, so func() bool) time.Duration {
	t.Helper()
	return within(t, limit, func() error {
		if !so() {
			return errors.New(what)
		}
		return nil
	})
}

type safeBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

func TestTakenPortIsOneLineWithPortAndService(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, number := compose.HostAndPort(listener.Addr().String())
	files := []string{compose.File, overlay(t, fmt.Sprintf(`services: {jaeger: {ports: !override ["127.0.0.1:%s:16686"]},
  server: {ports: !reset []}, zipkin: {ports: !reset []}}`, number))}
	_, err = runner.Start(t.Context(), runner.Options{Root: projectRoot(t), Files: files})
	want := "port " + number + ", which service jaeger publishes, is taken: stop the program that listens on it, or give the service " +
		`another port in an overlay (-f): services: {jaeger: {ports: !override ["127.0.0.1:PORT:16686"]}}`
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, want one line with %q", err, want)
	}
}

func TestOnceEndsWithTheTracesAndTheClientsStatus(t *testing.T) {
	t.Parallel()
	start := time.Now()
	r := startRunner(t, "-once", "-shape")
	if status := r.status(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	t.Logf("took %v", time.Since(start))
	if got, want := blocks(r.stdout.String()), blocks(expected(t)); got != want {
		t.Errorf("-shape wrote\n%s\nwant\n%s", got, want)
	}
}

// blocks sorts the traces of a text.
func blocks(text string) string {
	parts := strings.Split(strings.TrimSpace(text), "\n\n")
	slices.Sort(parts)
	return strings.Join(parts, "\n\n")
}

// Each of two clients fails and has printed why. Nothing else should be printed.
func TestOnceHasTheStatusOfClientsThatFail(t *testing.T) {
	t.Parallel()
	r := startRunner(t, "-once", "-f", overlay(t, `services: {client: {scale: 2, environment: {REQUESTS: many}}}`))
	if status := r.status(); status != 1 {
		t.Errorf("exit status %d, want the clients', 1", status)
	}
	out := r.stderr.String()
	if strings.Contains(out, "exited with status") || !strings.Contains(out, `client-1       | REQUESTS="many"`) || strings.Count(out, `| REQUESTS="many"`) != 2 {
		t.Error("want the clients' own lines and nothing else")
	}
}

func TestShapeIsThatOfTheBackendThatThereIs(t *testing.T) {
	t.Parallel()
	collector := filepath.Join(t.TempDir(), "zipkin.yaml")
	if err := os.WriteFile(collector, []byte(`
receivers: {otlp: {protocols: {http: {endpoint: "0.0.0.0:4318"}}}}
exporters: {zipkin: {endpoint: "http://zipkin:9411/api/v2/spans", format: proto}}
service: {pipelines: {traces: {receivers: [otlp], exporters: [zipkin]}}}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	r := startRunner(t, "-once", "-shape", "-f", overlay(t, fmt.Sprintf(`services:
  jaeger: {scale: 0}
  otel-collector: {volumes: !override ["%s:/etc/otel-collector-config.yaml:ro"]}
`, collector)))
	if status := r.status(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if got, want := strings.ToLower(blocks(r.stdout.String())), strings.ToLower(blocks(expected(t))); got != want {
		t.Errorf("-shape wrote\n%s\nwant\n%s", got, want)
	}
}

func TestOnceGivesUpWhenWaitIsOver(t *testing.T) {
	t.Parallel()
	r := startRunner(t, "-once", "-wait", "1s", "-f", overlay(t, `services: {client: {environment: {REQUESTS: "1000"}}}`))
	if status := r.status(); status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
	if out := r.stderr.String(); !strings.Contains(out, "not done after 1s (-wait)") {
		t.Error("the runner did not say why")
	}
}

func TestTheEndOfAProcessStopsAllAndIsNamed(t *testing.T) {
	needsProc(t)
	t.Parallel()
	r := startRunner(t, "-shape")
	r.says("client         | 200")
	children := r.children()
	for pid, command := range children {
		if strings.HasSuffix(strings.Trim(command, "\x00"), "/worker") {
			process, err := os.FindProcess(pid)
			if err != nil {
				t.Fatal(err)
			}
			if err := process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if status := r.status(); status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
	if out := r.stderr.String(); !strings.Contains(out, "worker exited with status 137\n") {
		t.Error("no line names the worker")
	}
	if shape := r.stdout.String(); !strings.Contains(shape, "client  make request  internal") {
		t.Errorf("-shape wrote\n%s", shape)
	}
	r.left(children)
}

// You can look at the traces of a client that failed.
func TestAFailedClientDoesNotStopTheDemo(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("no signals on Windows")
	}
	r := startRunner(t, "-f", overlay(t, `services: {client: {environment: {REQUESTS: many}}}`))
	r.says("client exited with status 1\n")
	r.says("the demo keeps running until Ctrl+C")
	if err := r.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if status := r.status(); status != 130 {
		t.Errorf("exit status %d, want 130", status)
	}
}

func TestNoProcessOutlivesARunnerThatIsKilledHard(t *testing.T) {
	needsProc(t)
	t.Parallel()
	r := startRunner(t)
	r.says("all services have started")
	children := r.children()
	if len(children) < 4 {
		t.Fatalf("the runner has %d processes, want agent, collector, worker, server and perhaps the client", len(children))
	}
	if err := r.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = r.Wait() // killed
	for pid, command := range children {
		eventually(t, "the exit of "+command, func() bool { return !isAlive(pid) })
	}
	r.portsAreFree()
}

// goCommand returns the path of the go command.
func goCommand(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func needsProc(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("finds the runner's processes in /proc, which only Linux has")
	}
}

func TestREADMEShowsTheExpectedTraces(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(projectRoot(t), "README.md"))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("there is no README.md")
	}
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), expected(t)) {
		t.Error("README.md doesn't contain docs/trace.txt verbatim")
	}
}

// startDemo starts the demo for a test, on free ports, with overlays, and stops it at the test's end. It returns a log
// of what the services write.
func startDemo(t *testing.T, overlays ...string) (*runner.Demo, *safeBuffer) {
	t.Helper()
	return startDemoOn(t, "", overlays...)
}

// startDemoOn does the same with an existing Redis, unless its URL is empty.
func startDemoOn(t *testing.T, redisURL string, overlays ...string) (*runner.Demo, *safeBuffer) {
	t.Helper()
	files := []string{compose.File}
	for _, content := range overlays {
		files = append(files, overlay(t, content))
	}
	return startDemoWith(t, runner.Options{Files: files, RedisURL: redisURL})
}

// startDemoWith does the same with options that select what to start.
func startDemoWith(t *testing.T, options runner.Options) (*runner.Demo, *safeBuffer) {
	t.Helper()
	log := &safeBuffer{}
	options.Root, options.FreePorts = projectRoot(t), true
	options.Binaries = cmp.Or(options.Binaries, filepath.Dir(binary(t, "local")))
	options.Line = func(service, line string) { fmt.Fprintf(log, "%s | %s\n", service, line) }
	d, err := runner.Start(t.Context(), options)
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the services' output:\n%s", log)
		}
	})
	return d, log
}

// waitForTraces waits up to a minute until the client has succeeded and its traces have arrived.
func waitForTraces(t *testing.T, d *runner.Demo) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if status, err := d.Wait(ctx, "client"); err != nil || status != 0 {
		t.Fatalf("the client exited with %d, %v", status, err)
	}
	if err := d.WaitForTraces(ctx); err != nil {
		t.Fatal(err)
	}
}

// arrived waits until a trace is in a store, and returns it.
func arrived(t *testing.T, store *spans.Store, id string) *spans.Trace {
	t.Helper()
	eventually(t, "trace "+id, func() bool { return store.Trace(id) != nil })
	return store.Trace(id)
}
