//go:build unix

package e2e

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The runner would wait for a frozen process, which can't exit. A second Ctrl+C kills everything at once.
func TestASecondSignalKillsAll(t *testing.T) {
	t.Parallel()
	needsProc(t)
	for name, test := range map[string]struct {
		args   []string
		says   string // when the signals are sent
		frozen string
	}{
		"run":   {nil, "all services have started", "/worker"},
		"load":  {[]string{"-load", "1"}, "starting the demo twice", "/worker"},
		"start": {[]string{"-f", overlay(t, `services: {worker: {scale: 0}, client: {depends_on: {server: {condition: service_healthy}}}}`)}, "waiting for server", "/server"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startRunner(t, test.args...)
			r.says(test.says)
			eventually(t, "a process to freeze: "+test.frozen, func() bool {
				for pid, command := range r.children() {
					if strings.HasSuffix(strings.Trim(command, "\x00"), test.frozen) {
						return syscall.Kill(pid, syscall.SIGSTOP) == nil
					}
				}
				return false
			})
			for range 2 {
				if err := r.Process.Signal(syscall.SIGINT); err != nil {
					t.Fatal(err)
				}
				r.says("stopping ") // a step that takes more than a second
			}
			start := time.Now()
			if status := r.status(); status != 130 {
				t.Errorf("exit status %d, want 130", status)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("it took %v after the second signal", took)
			}
		})
	}
}

// A run that can't write its traces stops in order, and one line says why.
func TestLostOutputStopsTheRun(t *testing.T) {
	t.Parallel()
	reader, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	reader.Close() // as `head` does when it has enough
	defer pipe.Close()
	for _, test := range []struct {
		stdout string
		args   []string
		status int
		says   string
	}{
		{"/dev/full", []string{"-once", "-shape"}, 1, "\nwrite /dev/stdout: no space left on device\n"},
		{"a closed pipe", nil, 141, "\nstopped by a signal: broken pipe\n"},
	} {
		t.Run(test.stdout, func(t *testing.T) {
			stdout := pipe
			if strings.HasPrefix(test.stdout, "/") {
				if stdout, err = os.OpenFile(test.stdout, os.O_WRONLY, 0); err != nil {
					t.Skip(err) // only Linux has it
				}
				defer stdout.Close()
			}
			r := startRunnerTo(t, stdout, test.args...)
			if status := r.status(); status != test.status || !strings.HasSuffix(r.stderr.String(), test.says) {
				t.Errorf("exit status %d, want %d and the last line %q", status, test.status, test.says)
			}
		})
	}
}
