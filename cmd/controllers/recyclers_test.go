package controllers

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/orlop-io/orlop/cmd/controllers/volumebinder"
)

// Volumes are recycled by the agent's image, or by a pod that the operator gives; without both they are not.
func TestRecyclers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pod.yaml")
	text := "spec: {restartPolicy: Never, volumes: [{name: v, hostPath: {path: /any}}], containers: [{name: c, image: own}]}"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		flags           recyclers
		image           string
		hostPath, nfs   string // images
		seconds, perGiB float64
	}{
		{recyclers{hostPathMinimum: 60, hostPathPerGiB: 30}, "agent", "agent", "agent", 60, 30},
		{recyclers{hostPath: file}, "agent", "own", "agent", 0, 0},
		{recyclers{hostPath: file}, "", "own", "", 0, 0},
		{recyclers{}, "", "", "", 0, 0},
	} {
		got, err := tt.flags.read(tt.image)
		if err != nil {
			t.Fatal(err)
		}
		if err := got.Validate(); err != nil {
			t.Errorf("%+v: %v", tt.flags, err)
		}
		image := func(r volumebinder.Recycler) string {
			if r.Pod == nil {
				return ""
			}
			return r.Pod.Spec.Containers[0].Image
		}
		if image(got.HostPath) != tt.hostPath || image(got.NFS) != tt.nfs || got.HostPath.Minimum.Seconds() != tt.seconds || got.HostPath.PerGiB.Seconds() != tt.perGiB {
			t.Errorf("%+v with %q: %+v", tt.flags, tt.image, got)
		}
	}
	if _, err := (&recyclers{hostPath: filepath.Join(t.TempDir(), "none")}).read("agent"); err == nil || !strings.Contains(err.Error(), "read recycler pod") {
		t.Errorf("a file that is not there: %v", err)
	}
}
