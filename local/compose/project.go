// Package compose reads docker-compose.yml and its overlays, refuses what the runner doesn't support, and finds the
// addresses on this machine that replace the services' host names.
package compose

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// File is the compose file that every run starts from; overlays are merged into it.
const File = "docker-compose.yml"

// FindRoot returns the project's root, where docker-compose.yml is. `go run -C local .` starts one level below it.
func FindRoot() (string, error) {
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for _, dir := range []string{here, filepath.Dir(here)} {
		if _, err := os.Stat(filepath.Join(dir, File)); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no %s in %s or the folder above it: run `go run -C local .` in the project's folder", File, here)
}

// OverlayFile returns the overlay of a recipe or a case, whose folder is "recipes" or "cases": NAME, or NAME/VARIANT.
func OverlayFile(root, folder, overlay string) (string, error) {
	name, variant, hasVariant := strings.Cut(overlay, "/")
	base := File
	if hasVariant {
		base = "docker-compose." + variant + ".yml"
	}
	file := filepath.Join(folder, name, base)
	if _, err := os.Stat(filepath.Join(root, file)); err != nil {
		return "", fmt.Errorf("-%s %s: there is no %s; the %s are: %s", strings.TrimSuffix(folder, "s"), overlay,
			filepath.ToSlash(file), folder, strings.Join(Overlays(root, folder), ", "))
	}
	return file, nil
}

// Overlays lists the recipes or the cases: the values that -recipe or -case takes.
func Overlays(root, folder string) []string {
	files, _ := filepath.Glob(filepath.Join(root, folder, "*", "docker-compose*.yml")) // the pattern is valid
	var names []string
	for _, file := range files {
		name := filepath.Base(filepath.Dir(file))
		variant := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "docker-compose"), ".yml")
		if variant != "" {
			name += "/" + strings.TrimPrefix(variant, ".")
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Load reads and merges the compose files as Compose does, and refuses settings that the runner doesn't support. Relative
// paths are relative to root.
func Load(ctx context.Context, root string, files []string, supported Supported) (*types.Project, error) {
	var paths []string
	for _, file := range files {
		if !filepath.IsAbs(file) {
			file = filepath.Join(root, file)
		}
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("compose file: %w", err)
		}
		paths = append(paths, file)
	}
	options := func() (*cli.ProjectOptions, error) {
		return cli.NewProjectOptions(paths, cli.WithWorkingDirectory(root), cli.WithOsEnv, cli.WithEnvFiles(), cli.WithDotEnv,
			cli.WithDefaultProfiles(), cli.WithName("otel-demo"))
	}
	o, err := options()
	if err != nil {
		return nil, err
	}
	project, err := o.LoadProject(ctx)
	if err != nil {
		return nil, fmt.Errorf("compose: %w", err)
	}
	if o, err = options(); err != nil {
		return nil, err
	}
	// The same as a tree of what is set, without zero values, so that no setting in the files is overlooked.
	model, err := o.LoadModel(ctx)
	if err != nil {
		return nil, fmt.Errorf("compose: %w", err)
	}
	// A service with `scale: 0` is left out, and services that depend on it no longer do, as in Compose.
	for name, service := range project.Services {
		if service.GetScale() == 0 {
			project = project.WithServicesDisabled(name)
		}
	}
	if len(project.Services) == 0 {
		return nil, fmt.Errorf("compose: every service is left out by `scale: 0`")
	}
	return project, checkSettings(model, project, supported)
}

// StartOrder sorts the services so that each comes after those that it depends on. Compose has already refused cycles.
// The order is the same in every run.
func StartOrder(project *types.Project) []string {
	var order []string
	var visit func(name string)
	visit = func(name string) {
		if slices.Contains(order, name) {
			return
		}
		for _, other := range slices.Sorted(maps.Keys(project.Services[name].DependsOn)) {
			visit(other)
		}
		order = append(order, name)
	}
	// Services without dependencies go first, so backends are up before the services that need them, declared or not.
	for _, name := range project.ServiceNames() {
		if len(project.Services[name].DependsOn) == 0 {
			visit(name)
		}
	}
	for _, name := range project.ServiceNames() {
		visit(name)
	}
	return order
}
