//go:build !linux

package server

import (
	"errors"
	"os/exec"
)

func dieWithThisProcess(*exec.Cmd) {}

func (*process) pause() (resume func(), err error) { return nil, errors.ErrUnsupported }
