package server

import (
	"os/exec"
	"syscall"
)

// dieWithThisProcess makes the system kill the server when this process is killed, for example by a test timeout.
func dieWithThisProcess(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
