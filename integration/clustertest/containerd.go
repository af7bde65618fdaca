package clustertest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// containerd2 is the version that tests of what only containerd 2.x does run on.
const containerd2 = "v2.4.2"

// Containerd2 gives the path of a containerd 2.x with its shim and ctr beside it, in the folder of the built programs. It
// builds them if they are not there, which takes a minute or two: no package of Debian 12 has them.
func Containerd2() (string, error) {
	bin, err := binDir()
	if err != nil {
		return "", err
	}
	dir, err := filepath.Abs(filepath.Join(bin, "containerd-"+containerd2))
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, "containerd")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	const module = "github.com/containerd/containerd/v2/cmd/"
	// The daemon last: that it is there says that all are.
	for _, name := range []string{"ctr", "containerd-shim-runc-v2", "containerd"} {
		cmd := exec.Command("go", "install", "-ldflags", "-s -w", module+name+"@"+containerd2)
		cmd.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s %s: %w\n%s", name, containerd2, err, out)
		}
	}
	return program, nil
}
