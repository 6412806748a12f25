package runner

import (
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/windows"
)

// confine puts a process into its own group, so that Ctrl+C on the terminal reaches only the runner, which then stops
// everything in order. When the runner is killed, its processes keep running: only Linux can kill them with it.
func confine(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP}
}

// terminate sends Windows' counterpart of SIGTERM to a process group. Go programs see it as an interrupt.
func terminate(p *os.Process) error {
	return windows.GenerateConsoleCtrlEvent(windows.CTRL_BREAK_EVENT, uint32(p.Pid))
}
