package bootstrap

import (
	"fmt"
	"os"
	"path/filepath"
)

// Paths are the places bootstrap writes to; Root "" is the host itself.
type Paths struct{ Root string }

func (p Paths) at(path string) string { return filepath.Join("/", p.Root, path) }

func (p Paths) kubernetes(name string) string { return p.at("/etc/kubernetes/" + name) }
func (p Paths) pki(name string) string        { return p.at("/etc/kubernetes/pki/" + name) }
func (p Paths) manifest(name string) string {
	return p.at("/etc/kubernetes/manifests/" + name + ".yaml")
}
func (p Paths) kubelet(name string) string { return p.at("/var/lib/kubelet/" + name) }

// writeFile writes content to path whole or not at all, and on the disk before
// it returns.
func writeFile(path string, content []byte, mode os.FileMode) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".orlop-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	if _, err := tmp.Write(content); err != nil {
		return err
	}
	if err := tmp.Chmod(mode); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
