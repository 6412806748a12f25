//go:build !windows

package main

import "os"

// understandsEscapes is always true of a terminal here.
func understandsEscapes(*os.File) bool { return true }
