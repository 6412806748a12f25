package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

const otherLanguage = "recipes/other-language"

// The page's command starts a worker that waits for Redis. After SIGTERM, its spans are in the demo's traces, though no
// batch was due: they are exported on the way out.
func checkOtherLanguage(t *testing.T) {
	redis, overGRPC, overHTTP := freeAddress(t), freeAddress(t), freeAddress(t)
	worker, log := startPython(t, "REDIS_URL=redis://"+redis, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+overHTTP,
		"OTEL_BSP_SCHEDULE_DELAY=600000")
	says := func(text string, times int) {
		t.Helper()
		eventually(t, "the worker to write "+text, func() bool { return strings.Count(log.String(), text) >= times })
	}
	says("Redis is unreachable", 1)

	// The client starts only when the worker listens.
	r := startRunner(t, "-shape", "-recipe", "other-language", "-f", overlay(t, fmt.Sprintf(`services:
  client: {scale: 0}
  redis: {ports: !override ["%s:6379"]}
  otel-agent: {ports: !override ["%s:4317", "%s:4318"]}
`, redis, overGRPC, overHTTP)))
	r.says("all services have started")
	r.says("worker-python is left out")
	says("listening on the channel work", 1)
	client := exec.Command(binary(t, "client"))
	client.Env = append(os.Environ(), "SERVER_URL=http://"+r.ports[0]+"/hello", "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+overGRPC)
	if out, err := client.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	says("processed message", 5)

	if err := worker.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := worker.Wait(); err != nil {
		t.Errorf("the worker after SIGTERM: %v", err)
	}
	if err := r.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := r.status(); status != 128+int(syscall.SIGTERM) {
		t.Errorf("the runner's exit status is %d", status)
	}
	if got, want := blocks(r.stdout.String()), blocks(lessonTraces(t, otherLanguage, "")); got != want {
		t.Errorf("-shape wrote\n%s\nwant\n%s", got, want)
	}
}

// startPython runs the page's command for a second terminal. Without Python, or without what the worker needs from PyPI,
// the test is skipped, unless REQUIRE_PYTHON is set, as .ci/run does.
func startPython(t *testing.T, env ...string) (worker *exec.Cmd, log *safeBuffer) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("no signals on Windows")
	}
	page := continued.ReplaceAllString(text(t, otherLanguage+"/README.md"), "$1 ")
	line := regexp.MustCompile(`(?m)^cd (\S+) && (python3 .*)$`).FindStringSubmatch(page)
	if line == nil {
		t.Fatal("the page has no command that starts the worker")
	}
	log = &safeBuffer{}
	steps := strings.Split(line[2], " && ")
	for i, step := range steps {
		words := strings.Fields(step)
		worker = exec.Command(words[0], words[1:]...)
		worker.Dir, worker.Env = filepath.Join(projectRoot(t), filepath.FromSlash(line[1])), append(os.Environ(), env...)
		worker.Stdout, worker.Stderr = log, log
		if i == len(steps)-1 {
			break
		}
		if err := worker.Run(); err != nil && os.Getenv("REQUIRE_PYTHON") == "" {
			t.Skipf("needs python3 with venv, and PyPI: %s: %v\n%s", step, err, log)
		} else if err != nil {
			t.Fatalf("REQUIRE_PYTHON is set, but %s: %v\n%s", step, err, log)
		}
	}
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = worker.Process.Kill() // if the test failed early
		if t.Failed() {
			t.Logf("the worker's output:\n%s", log)
		}
	})
	return worker, log
}
