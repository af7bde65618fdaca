package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"
)

// readConfig reads the configuration file, and over it the files of the drop-in directory that end in .conf, in the order
// of their names, and over all of that the flags. Each says only what it changes: maps and structures are merged, lists and
// values replaced. A feature gate of a file goes over that of the flag.
func readConfig(path, dropIns string, flags map[string]any) (*kubeletconfig.KubeletConfiguration, error) {
	merged := map[string]any{}
	var files []string
	if path != "" {
		files = append(files, path)
	}
	more, err := confFiles(dropIns)
	if err != nil {
		return nil, err
	}
	for _, file := range append(files, more...) {
		tree, err := readOne(file)
		if err != nil {
			return nil, err
		}
		merge(merged, tree)
	}
	over := maps.Clone(flags)
	if gates, ok := over["featureGates"].(map[string]any); ok {
		below, _ := merged["featureGates"].(map[string]any)
		gates = maps.Clone(gates)
		maps.Copy(gates, below)
		over["featureGates"] = gates
	}
	merge(merged, over)
	text, err := yaml.Marshal(merged)
	if err != nil {
		return nil, fmt.Errorf("join configuration: %w", err)
	}
	out := &kubeletconfig.KubeletConfiguration{}
	if err := yaml.UnmarshalStrict(text, out); err != nil {
		return nil, fmt.Errorf("join configuration: %w", err)
	}
	return out, errors.Join(unsupported(out)...)
}

// confFiles lists a drop-in directory, with those below it.
func confFiles(dir string) ([]string, error) {
	if dir == "" {
		return nil, nil
	}
	var out []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && filepath.Ext(path) == ".conf" {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list configuration directory: %w", err)
	}
	return out, nil
}

// readOne reads one file, which must be right by itself, into a tree of what it says.
func readOne(path string) (map[string]any, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	file := &kubeletconfig.KubeletConfiguration{}
	if err := yaml.UnmarshalStrict(text, file); err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", path, err)
	}
	if want := kubeletconfig.SchemeGroupVersion.String(); file.Kind != "KubeletConfiguration" || file.APIVersion != want {
		return nil, fmt.Errorf("read configuration %s: it holds %q of %q, not a KubeletConfiguration of %q", path, file.Kind, file.APIVersion, want)
	}
	tree := map[string]any{}
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", path, err)
	}
	return tree, nil
}

// merge writes one tree over another; a null says nothing.
func merge(into, from map[string]any) {
	for k, v := range from {
		if v == nil {
			continue
		}
		above, isMap := v.(map[string]any)
		below, wasMap := into[k].(map[string]any)
		switch {
		case isMap && wasMap:
			merge(below, above)
		case isMap:
			fresh := map[string]any{}
			merge(fresh, above)
			into[k] = fresh
		default:
			into[k] = v
		}
	}
}
