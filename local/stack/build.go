package stack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
)

// Binaries returns the folder that keeps built programs and collectors, so that the next run doesn't link them again.
// `go build` notices a stale one.
func Binaries(root string) string { return filepath.Join(root, "local", "bin") }

// binary returns the path of a program or a collector.
func (d *Demo) binary(name string) string {
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	if d.options.Binaries != "" {
		return filepath.Join(d.options.Binaries, name)
	}
	return filepath.Join(Binaries(d.options.Root), name)
}

// build is a `go build` that runs while other services start.
type build struct {
	what     string // what is built, for the log
	first    string // what to log first, if anything
	module   string // its folder, relative to the root
	packages []string
	done     chan struct{}
	err      error // once it is done
}

// build returns the build with that name, and creates it if there is none yet.
func (d *Demo) build(what, module string) *build {
	if d.builds[what] == nil {
		d.builds[what] = &build{what: what, module: module, done: make(chan struct{})}
	}
	return d.builds[what]
}

func (b *build) add(name string) {
	if !slices.Contains(b.packages, name) {
		b.packages = append(b.packages, name)
	}
}

func (b *build) run(ctx context.Context, d *Demo) {
	defer close(b.done)
	if d.options.Binaries != "" {
		return
	}
	if b.first != "" {
		d.line("", b.first)
	}
	b.err = d.progress("building "+b.what, func() error {
		return Build(ctx, filepath.Join(d.options.Root, b.module), Binaries(d.options.Root), b.packages...)
	})
}

// Build compiles packages of a module into a folder.
func Build(ctx context.Context, module, dir string, flagsAndPackages ...string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	args := []string{"-C", module, "build", "-ldflags", "-s -w", "-o", dir + string(filepath.Separator)}
	cmd := exec.CommandContext(ctx, "go", append(args, flagsAndPackages...)...)
	confine(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}
