package main

import (
	"fmt"
	"os"

	_ "github.com/alicebob/miniredis/v2"
	_ "github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	if err := runCollector(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
