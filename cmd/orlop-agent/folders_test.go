package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// runtimeThatTells is a CRI runtime that answers Status alone.
type runtimeThatTells struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	config string
}

func (r runtimeThatTells) Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{Info: map[string]string{"config": r.config}}, nil
}

func (r runtimeThatTells) listen(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(s, r)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return path
}

func TestWithFolders(t *testing.T) {
	debian := t.TempDir() // whose containerd's file says something
	if err := os.MkdirAll(filepath.Join(debian, "etc/containerd"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(debian, "etc/containerd/config.toml"), []byte("bin_dir = \"/usr/lib/cni\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	two := runtimeThatTells{config: `{"cni":{"binDirs":["/opt/a","/opt/b"],"confDir":"/etc/cni/x"}}`}.listen(t)
	mute := runtimeThatTells{config: `{}`}.listen(t)
	usual := []string{"/opt/cni/bin", "/etc/cni/net.d"}
	for _, tt := range []struct {
		name  string
		o     options
		there []string
		want  []string
		err   string
	}{
		{"nothing known", options{}, nil, usual, ""},
		{"given", options{binDir: "/x", confDir: "/y", runtime: two, inPod: true}, nil, []string{"/x", "/y"}, ""},
		{"the runtime tells", options{runtime: two, files: debian}, nil, []string{"/opt/a", "/etc/cni/x"}, ""},
		{"the second of its folders is there", options{runtime: two}, []string{"/opt/b"}, []string{"/opt/b", "/etc/cni/x"}, ""},
		{"one is given, the runtime tells the other", options{runtime: two, binDir: "/x"}, nil, []string{"/x", "/etc/cni/x"}, ""},
		{"it does not tell, its file does", options{runtime: mute, files: debian}, nil, []string{"/usr/lib/cni", "/etc/cni/net.d"}, ""},
		{"no runtime there, a file", options{runtime: "/nowhere/s", files: debian}, nil, []string{"/usr/lib/cni", "/etc/cni/net.d"}, ""},
		{"in a pod that has both", options{inPod: true}, usual, usual, ""},
		{"in a pod without the plugins' folder", options{inPod: true, runtime: two}, []string{"/etc/cni/x"}, []string{"/opt/a", "/etc/cni/x"}, "plugins in /opt/a"},
		{"in a pod without the configurations'", options{inPod: true}, usual[:1], usual, "configurations in /etc/cni/net.d"},
	} {
		there := func(path string) bool { return slices.Contains(tt.there, path) }
		if tt.o.files == "" {
			tt.o.files = t.TempDir()
		}
		got, err := tt.o.withFolders(t.Context(), there, slog.New(slog.DiscardHandler))
		if !slices.Equal([]string{got.binDir, got.confDir}, tt.want) {
			t.Errorf("%s: %s and %s, want %v", tt.name, got.binDir, got.confDir, tt.want)
		}
		if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: error %v, want %q", tt.name, err, tt.err)
		}
	}
}
