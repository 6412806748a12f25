package main

import (
	"context"
	"fmt"
	"os"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == collectorName {
		if err := runCollector(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	root, err := findRoot()
	if err != nil {
		panic(err)
	}
	d, err := Start(context.Background(), Options{Root: root, FreePorts: true, Line: func(s, l string) { fmt.Println(s, "|", l) }})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(d.Wait(context.Background(), "client"))
	fmt.Println(d.Stop())
}
