package main

import (
	"os"

	"golang.org/x/sys/windows"
)

// understandsEscapes makes a console interpret escape sequences, such as colors, and reports whether it does. A classic
// console doesn't by default.
func understandsEscapes(f *os.File) bool {
	console := windows.Handle(f.Fd())
	var mode uint32
	return windows.GetConsoleMode(console, &mode) == nil &&
		windows.SetConsoleMode(console, mode|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING) == nil
}
