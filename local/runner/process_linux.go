package runner

import (
	"os"
	"os/exec"
	"syscall"
)

// confine puts a process into its own group, so that Ctrl+C on the terminal reaches only the runner, which then stops
// everything in order. When the runner is killed, the system kills the process too. (It does so when the thread that
// started the process ends; Go ends a thread only when a goroutine locked to it returns, and no goroutine here is.)
func confine(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
