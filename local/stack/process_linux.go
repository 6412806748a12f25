package stack

import (
	"os"
	"os/exec"
	"syscall"
)

// confine puts a process into a group of its own, so that Ctrl+C on the terminal reaches the runner alone, which then
// stops all in order. When the runner is killed hard, the system kills the process too. (It does when the thread that
// started it ends; Go ends a thread only when a goroutine that is locked to it returns, and none is here.)
func confine(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
