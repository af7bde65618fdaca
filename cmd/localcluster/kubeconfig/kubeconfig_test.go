package kubeconfig

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/orlop-io/orlop/cmd/localcluster/layout"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

func config(name string) *api.Config {
	c := api.NewConfig()
	c.Clusters[name] = &api.Cluster{Server: "https://" + name}
	c.AuthInfos[name] = &api.AuthInfo{Token: name}
	c.Contexts[name] = &api.Context{Cluster: name, AuthInfo: name}
	c.CurrentContext = name
	return c
}

func me() User { return User{UID: os.Getuid(), GID: os.Getgid()} }

func merge(path string, add *api.Config) (entry layout.KubeconfigEntry, err error) {
	err = Merge(path, add, me(), func(e layout.KubeconfigEntry) error {
		entry = e
		return nil
	})
	return entry, err
}

func TestMergeAndRemoveLeaveOthersAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	if err := clientcmd.WriteToFile(*config("work"), path); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	entry, err := merge(path, config("orlop-a"))
	if err != nil {
		t.Fatal(err)
	}
	merged, err := clientcmd.LoadFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if merged.CurrentContext != "orlop-a" || merged.Clusters["work"] == nil || merged.Clusters["orlop-a"] == nil {
		t.Errorf("merged: %+v", merged)
	}
	if err := Remove("orlop-a", entry); err != nil {
		t.Fatal(err)
	}
	after, _ := os.ReadFile(path)
	if d := cmp.Diff(string(before), string(after)); d != "" {
		t.Error("not as before:", d)
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o640 {
		t.Errorf("mode is %v now", st.Mode())
	}
}

func TestRemoveTakesWhatMergeMade(t *testing.T) {
	home := t.TempDir()
	path := filepath.Join(home, ".kube", "config")
	a, err := merge(path, config("orlop-a"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := merge(path, config("orlop-b"))
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []error{Remove("orlop-b", b), Remove("orlop-a", a), Remove("orlop-a", a)} {
		if step != nil {
			t.Fatal(step)
		}
	}
	if entries, _ := os.ReadDir(home); len(entries) != 0 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestTheLastClusterTakesWhatTheFirstMade(t *testing.T) {
	a := layout.KubeconfigEntry{Path: "/k", CreatedFile: true, CreatedDir: true, PreviousContext: "work"}
	b := layout.KubeconfigEntry{Path: "/k", PreviousContext: "orlop-a"}
	want := layout.KubeconfigEntry{Path: "/k", CreatedFile: true, CreatedDir: true, PreviousContext: "work"}
	if got := HandOver("orlop-a", a, b); got != want {
		t.Errorf("got %+v", got)
	}
	if elsewhere := (layout.KubeconfigEntry{Path: "/other"}); HandOver("orlop-a", a, elsewhere) != elsewhere {
		t.Error("another file's entry changed")
	}
}
