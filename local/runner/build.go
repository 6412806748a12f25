package runner

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
)

// Binaries returns the folder that keeps built programs and collectors, so that the next run doesn't link them again.
// `go build` notices a stale one. A clone that can't be written to has its folder in the user's cache.
func Binaries(root string) string {
	dir := filepath.Join(root, "local", "bin")
	if err := os.MkdirAll(dir, 0o755); err == nil {
		if probe, err := os.MkdirTemp(dir, "probe-"); err == nil {
			_ = os.Remove(probe) // if it stays, it is empty
			return dir
		}
	}
	if cache, err := os.UserCacheDir(); err == nil {
		return filepath.Join(cache, "otel-demo", fmt.Sprintf("%x", sha256.Sum256([]byte(root)))[:16])
	}
	return dir
}

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

// build adds a package to the build with that name, and returns the build.
func (d *Demo) build(what, module, name string) *build {
	b := d.builds[what]
	if b == nil {
		b = &build{what: what, module: module, done: make(chan struct{})}
		d.builds[what] = b
	}
	if !slices.Contains(b.packages, name) {
		b.packages = append(b.packages, name)
	}
	return b
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
	run := func(flags ...string) ([]byte, error) {
		args := append([]string{"-C", module, "build", "-ldflags", "-s -w", "-o", dir + string(filepath.Separator)}, flags...)
		return command(ctx, "go", append(args, flagsAndPackages...)...).CombinedOutput()
	}
	out, err := run()
	// Go can't find out the clone's commit if, for example, the clone belongs to another user. Then service.version is (devel).
	if err != nil && bytes.Contains(out, []byte("-buildvcs=false")) {
		out, err = run("-buildvcs=false")
	}
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}
