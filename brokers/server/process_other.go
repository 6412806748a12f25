//go:build !linux

package server

import "os/exec"

func dieWithThisProcess(*exec.Cmd) {}
