package stack

import (
	"os"
	"os/exec"
	"syscall"
)

// confine puts a process into its own group, so that Ctrl+C on the terminal reaches only the runner, which then stops all
// in order. When the runner is killed, the system kills the process too. (It does when the thread that
// started it ends; Go ends a thread only when a goroutine that is locked to it returns, and none is here.)
func confine(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
