package podnet

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/orlop-io/orlop/bpf/netnstest"
)

// Pods of two nodes have the same indexes on their links: each node knows its own alone.
func TestKernelPeersAreTheOwnEnds(t *testing.T) {
	nodes := []*netnstest.NS{netnstest.New(t), netnstest.New(t)}
	pods := []*netnstest.NS{netnstest.New(t), netnstest.New(t)}
	dir := t.TempDir()
	for i, name := range []string{"10.1.0.2", "10.1.0.3"} {
		nodes[i].Join("orl", "", pods[i], "eth0")
		pods[i].Addrs("eth0", name+"/24", "fd10::"+name[7:]+"/64")
		nodes[i].Must(os.Symlink(pods[i].Path(), filepath.Join(dir, name)))
		nodes[i].Must(os.Symlink(pods[i].Path(), filepath.Join(dir, name+"-again")))
	}
	nodes[0].Must(os.WriteFile(filepath.Join(dir, "no-namespace"), nil, 0o600))
	for i, node := range nodes {
		l := NewLister(Config{Folders: []string{dir}, Proc: "/proc"})
		for _, anew := range []bool{true, false} {
			var found []Namespace
			node.Must(node.Do(func() (err error) {
				found, err = l.List(anew)
				return err
			}))
			if len(found) != 2 {
				t.Fatalf("node %d: %+v", i, found)
			}
			for _, ns := range found {
				want := 0
				if len(ns.Links) == 1 && len(ns.Links[0].Addrs) == 2 && ns.Links[0].Addrs[0] == netip.MustParseAddr([]string{"10.1.0.2", "10.1.0.3"}[i]) {
					want = node.Link("orl").Attrs().Index
				}
				if len(ns.Links) != 1 || ns.Links[0].Peer != want || ns.Cookie == 0 || len(ns.Links[0].MAC) != 6 {
					t.Errorf("node %d: %+v, want the other end to be %d", i, ns, want)
				}
			}
		}
	}
}
