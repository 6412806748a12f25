package server

import (
	"os/exec"
	"syscall"
)

// dieWithThisProcess makes the system kill the server when this process is killed, for example by a test timeout.
func dieWithThisProcess(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// pause stops the process with its connections open, until resume is called.
func (p *process) pause() (resume func(), err error) {
	return func() { p.cmd.Process.Signal(syscall.SIGCONT) }, p.cmd.Process.Signal(syscall.SIGSTOP)
}
