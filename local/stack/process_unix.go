//go:build unix && !linux

package stack

import (
	"os"
	"os/exec"
	"syscall"
)

// confine puts a process into a group of its own, so that Ctrl+C on the terminal reaches the runner alone, which then
// stops all in order. When the runner is killed hard, its processes live on: only Linux can end them with it.
func confine(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
