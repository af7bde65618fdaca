package kubelet

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What a kubelet left that died while it removed a pod goes; what other programs or pods own stays.
func TestDropLogs(t *testing.T) {
	pods, links := t.TempDir(), t.TempDir()
	for _, dir := range []string{"ns_gone_u1", "ns_here_u2", "other"} {
		if err := os.Mkdir(filepath.Join(pods, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(pods, dir), filepath.Join(links, dir+".log")); err != nil {
			t.Fatal(err)
		}
	}
	k := &Kubelet{cfg: Config{PodLogsDir: pods, ContainerLogsDir: links}, log: slog.New(slog.DiscardHandler), workers: map[types.UID]*worker{"u2": {}}}
	k.sync = newAPISide(k)
	k.dropLogs()
	for _, dir := range []string{pods, links} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var left []string
		for _, e := range entries {
			left = append(left, e.Name()[:5])
		}
		if d := cmp.Diff([]string{"ns_he", "other"}, left); d != "" {
			t.Errorf("left in %s (-want +got):\n%s", dir, d)
		}
	}
}

func TestLogsToDrop(t *testing.T) {
	for _, tt := range []struct {
		name       string
		old        []string
		keep       int
		drop, pack []string
	}{
		{"none", nil, 3, nil, nil},
		{"the newest are packed and kept", []string{"l.2.gz", "l.1.gz", "l.3"}, 3, nil, []string{"l.3"}},
		{"the oldest go", []string{"l.1.gz", "l.2.gz", "l.3.gz", "l.4"}, 2, []string{"l.1.gz", "l.2.gz"}, []string{"l.4"}},
		{"none may stay", []string{"l.1", "l.2.gz"}, 0, []string{"l.1", "l.2.gz"}, nil},
		{"half packed", []string{"l.1", "l.1.tmp", "l.2.gz"}, 3, []string{"l.1.tmp"}, []string{"l.1"}},
		{"packed, and not yet removed", []string{"l.1", "l.1.gz"}, 3, []string{"l.1"}, nil},
	} {
		drop, pack := logsToDrop(tt.old, tt.keep)
		if d := cmp.Diff([][]string{tt.drop, tt.pack}, [][]string{drop, pack}); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
	}
}

// A container that crashes all the time must not fill the disk with the logs of instances that nobody can ask for.
func TestDropBelow(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"0.log", "0.log.20260101-000000.gz", "1.log", "2.log", "10.log", "notes"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, least := range []int{0, 2} {
		if err := dropBelow(dir, least); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if d := cmp.Diff([]string{"10.log", "2.log", "notes"}, left); d != "" {
		t.Error(d)
	}
	if err := dropBelow(filepath.Join(dir, "absent"), 5); err != nil {
		t.Error(err)
	}
}

func TestKeepImage(t *testing.T) {
	used := map[string]bool{"sha256:a": true, "docker.io/library/b:1": true}
	for _, tt := range []struct {
		image *runtimeapi.Image
		want  bool
	}{
		{&runtimeapi.Image{Id: "sha256:a"}, true},
		{&runtimeapi.Image{Id: "sha256:b", RepoTags: []string{"docker.io/library/b:1"}}, true},
		{&runtimeapi.Image{Id: "sha256:c", Pinned: true}, true},
		{&runtimeapi.Image{Id: "sha256:d", RepoTags: []string{"localhost/orlop-server:1"}}, true},
		{&runtimeapi.Image{Id: "sha256:e", RepoTags: []string{"docker.io/library/e:1"}}, false},
	} {
		if got := keepImage(tt.image, used); got != tt.want {
			t.Errorf("%s: %v", tt.image.Id, got)
		}
	}
}
