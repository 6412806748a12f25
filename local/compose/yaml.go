package compose

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v3"
)

// ReplaceInFile reads a YAML file that a container would mount, and returns it with this machine's paths and addresses.
// Nothing else in it changes.
func (a *Addresses) ReplaceInFile(owner string, instance int, file string, onHost func(path string) string) ([]byte, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var document yaml.Node
	if err := yaml.Unmarshal(content, &document); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(file), err)
	}
	if err := a.inNode(owner, instance, &document, onHost); err != nil {
		return nil, fmt.Errorf("%s:%w", filepath.Base(file), err)
	}
	var mapped bytes.Buffer
	encoder := yaml.NewEncoder(&mapped)
	err = encoder.Encode(&document)
	return mapped.Bytes(), err
}

func (a *Addresses) inNode(owner string, instance int, node *yaml.Node, onHost func(path string) string) error {
	switch node.Kind {
	case yaml.DocumentNode, yaml.SequenceNode:
		for _, child := range node.Content {
			if err := a.inNode(owner, instance, child, onHost); err != nil {
				return err
			}
		}
	case yaml.MappingNode:
		if err := a.inHostAndPort(owner, instance, node); err != nil {
			return err
		}
		for i := 1; i < len(node.Content); i += 2 { // the values; keys are names, not addresses
			if err := a.inNode(owner, instance, node.Content[i], onHost); err != nil {
				return err
			}
		}
	case yaml.ScalarNode:
		if node.Tag != "!!str" {
			return nil
		}
		value := onHost(node.Value)
		if value == node.Value {
			var err error
			if value, err = a.Replace(owner, instance, value); err != nil {
				return fmt.Errorf("%d: %w", node.Line, err)
			}
		}
		node.Value = value
	}
	return nil
}

// inHostAndPort handles the one place where the collector takes host and port separately: where its metrics are read.
func (a *Addresses) inHostAndPort(owner string, instance int, node *yaml.Node) error {
	var host, number *yaml.Node
	for i := 0; i+1 < len(node.Content); i += 2 {
		switch node.Content[i].Value {
		case "host":
			host = node.Content[i+1]
		case "port":
			number = node.Content[i+1]
		}
	}
	if host == nil || number == nil || !slices.Contains(ownHosts, host.Value) {
		return nil
	}
	address, _, err := a.lookUp(owner, instance, host.Value, number.Value)
	if err != nil {
		return fmt.Errorf("%d: %w", node.Line, err)
	}
	host.Value, number.Value = HostAndPort(address)
	return nil
}
