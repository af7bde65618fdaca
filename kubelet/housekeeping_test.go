package kubelet

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
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
