package server

import (
	"os/exec"
	"syscall"
)

// dieWithThisProcess makes the system kill the server when this process is killed, such as a test that takes too long.
func dieWithThisProcess(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
