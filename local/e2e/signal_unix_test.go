//go:build unix

package e2e

import (
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
