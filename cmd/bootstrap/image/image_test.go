package image

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// The same programs must give the same bytes, or a release cannot be checked.
func TestWriteIsReproducible(t *testing.T) {
	bin := t.TempDir()
	for _, n := range []string{"pause", "orlop-server", "orlop-agent", "orlop-cni"} {
		if err := os.WriteFile(filepath.Join(bin, n), []byte("program "+n), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, spec := range Cluster() {
		var archives [2][]byte
		for i := range archives {
			file := filepath.Join(t.TempDir(), "image.tar")
			if err := spec.Write(file, bin, "localhost", "v1", "amd64"); err != nil {
				t.Fatalf("%s: %v", spec.Names[0], err)
			}
			archives[i], _ = os.ReadFile(file)
		}
		if !bytes.Equal(archives[0], archives[1]) {
			t.Errorf("%s: two archives of the same programs differ", spec.Names[0])
		}
	}
}

func TestWriteLeavesNothingBehindWithoutItsProgram(t *testing.T) {
	out := t.TempDir()
	if err := Cluster()[0].Write(filepath.Join(out, "pause.tar"), t.TempDir(), "localhost", "v1", "amd64"); err == nil {
		t.Fatal("packed an image without its program")
	}
	left, _ := os.ReadDir(out)
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := tarball.ImageFromPath(filepath.Join(out, "pause.tar"), nil); err == nil {
		t.Error("an archive exists")
	}
}
