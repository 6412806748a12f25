package compose

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// composeFile is what every run starts from; overlays are merged into it.
const composeFile = "docker-compose.yml"

// findRoot returns the project's root: the folder of docker-compose.yml. `go run -C local .` starts in the one below it.
func findRoot() (string, error) {
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for _, dir := range []string{here, filepath.Dir(here)} {
		if _, err := os.Stat(filepath.Join(dir, composeFile)); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no %s in %s or the folder above it: run `go run -C local .` in the project's folder", composeFile, here)
}

// recipeFile returns the overlay of a recipe: NAME, or NAME/VARIANT.
func recipeFile(root, recipe string) (string, error) {
	name, variant, hasVariant := strings.Cut(recipe, "/")
	base := composeFile
	if hasVariant {
		base = "docker-compose." + variant + ".yml"
	}
	file := filepath.Join("recipes", name, base)
	if _, err := os.Stat(filepath.Join(root, file)); err != nil {
		return "", fmt.Errorf("-recipe %s: there is no %s; the recipes are: %s", recipe, filepath.ToSlash(file),
			strings.Join(recipes(root), ", "))
	}
	return file, nil
}

// recipes lists what -recipe takes.
func recipes(root string) []string {
	files, _ := filepath.Glob(filepath.Join(root, "recipes", "*", "docker-compose*.yml")) // the pattern is a good one
	var names []string
	for _, file := range files {
		name := filepath.Base(filepath.Dir(file))
		variant := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "docker-compose"), ".yml")
		if variant != "" {
			name += "/" + strings.TrimPrefix(variant, ".")
		}
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// loadProject reads and merges the compose files as Compose does, and refuses what the runner can't serve.
// Relative paths are from root.
func loadProject(ctx context.Context, root string, files []string) (*types.Project, error) {
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
	// The same as a tree of what is set, with no zero values: so that nothing that someone wrote is overlooked.
	model, err := o.LoadModel(ctx)
	if err != nil {
		return nil, fmt.Errorf("compose: %w", err)
	}
	if project, err = withoutLeftOut(project); err != nil {
		return nil, err
	}
	return project, checkSettings(model, project)
}

// withoutLeftOut drops the services with `scale: 0`, and what depends on them no longer does. Compose does the same.
func withoutLeftOut(project *types.Project) (*types.Project, error) {
	for name, service := range project.Services {
		if service.GetScale() == 0 {
			delete(project.Services, name)
		}
	}
	for _, service := range project.Services {
		for other := range service.DependsOn {
			if _, ok := project.Services[other]; !ok {
				delete(service.DependsOn, other)
			}
		}
	}
	if len(project.Services) == 0 {
		return nil, fmt.Errorf("compose: every service is left out by `scale: 0`")
	}
	return project, nil
}

// startOrder sorts the services so that each comes after those that it depends on. Compose has refused cycles already.
// The order is the same in every run.
func startOrder(project *types.Project) []string {
	var order []string
	var visit func(name string)
	visit = func(name string) {
		if slices.Contains(order, name) {
			return
		}
		for _, other := range sortedKeys(project.Services[name].DependsOn) {
			visit(other)
		}
		order = append(order, name)
	}
	// What has no dependencies of its own goes first: backends are up before who needs them, named or not.
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

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
