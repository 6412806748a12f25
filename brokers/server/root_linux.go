package server

import (
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// notAsRoot runs a command that refuses root as the user postgres, who then owns the directory.
func notAsRoot(cmd *exec.Cmd, directory string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		return err
	}
	uid, _ := strconv.Atoi(account.Uid)
	gid, _ := strconv.Atoi(account.Gid)
	cmd.Dir = directory
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	return os.Chown(directory, uid, gid)
}
