package server

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// dieWithThisProcess makes the system kill the server when this process is killed, for example by a test timeout.
func dieWithThisProcess(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}

// pause stops all threads of the process, with its connections open, until resume is called.
func (p *process) pause() (resume func(), err error) {
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return nil, err
	}
	for running := true; running; {
		running = false
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
		for _, thread := range threads {
			stat, _ := os.ReadFile(thread)
			running = running || !strings.Contains(string(stat), ") T ")
		}
	}
	return func() { p.cmd.Process.Signal(syscall.SIGCONT) }, nil
}
