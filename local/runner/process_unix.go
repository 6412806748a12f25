//go:build unix && !linux

package runner

import (
	"os"
	"os/exec"
	"syscall"
)

// confine puts a process into its own group, so that Ctrl+C on the terminal reaches only the runner, which then stops
// everything in order. When the runner is killed, its processes keep running: only Linux can kill them with it.
func confine(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
