package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// helm is the newest of the versions that tests are to pass with.
const helm = "helm.sh/helm/v3/cmd/helm@v3.22.0"

// client is a program that tests talk to the API with. It goes into a folder of the checkout, because it must neither
// replace nor be replaced by what the machine has under its name.
type client struct {
	name    string
	install func(dir, name string) error
}

func clients() []client {
	return []client{{"helm", installHelm}, {"kubectl-debian", unpackKubectl}}
}

// addClients installs the clients that dir lacks.
func addClients(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for _, c := range clients() {
		if exists(filepath.Join(dir, c.name)) {
			continue
		}
		fmt.Println("installing", c.name, "into", dir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := c.install(dir, c.name); err != nil {
			return fmt.Errorf("install %s: %w", c.name, err)
		}
	}
	return nil
}

func installHelm(dir, _ string) error {
	cmd := exec.Command("go", "install", "-ldflags", "-s -w", helm)
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0")
	return quietly(cmd)
}

// unpackKubectl takes kubectl out of Debian's package, which is years older than ours.
func unpackKubectl(dir, name string) (err error) {
	tmp, err := os.MkdirTemp("", "kubectl-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if err := apt("update", "-qq"); err != nil {
		return err
	}
	// As root, apt-get downloads as a user of its own, who must be able to write there.
	if err := os.Chmod(tmp, 0o777); err != nil {
		return err
	}
	download := exec.Command("apt-get", "download", "-qq", "kubernetes-client")
	download.Dir = tmp
	if err := quietly(download); err != nil {
		return err
	}
	packages, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(packages) != 1 {
		return fmt.Errorf("apt-get download brought %q: %v", packages, err)
	}
	if err := quietly(exec.Command("dpkg-deb", "-x", packages[0], filepath.Join(tmp, "x"))); err != nil {
		return err
	}
	return quietly(exec.Command("install", filepath.Join(tmp, "x", "usr", "bin", "kubectl"), filepath.Join(dir, name)))
}

func quietly(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
	}
	return nil
}
