package socklb

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/orlop-io/orlop/bpf/netnstest"
)

func openTest(t *testing.T, pins string, entries uint32) *LB {
	t.Helper()
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	root, err := CgroupRoot(string(info))
	if err != nil {
		t.Fatal(err)
	}
	lb, err := Open(Config{PinDir: pins, Cgroup: root, Entries: entries}) // attached to nothing
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lb.Close() })
	return lb
}

// A process may die between any two steps of growing.
func TestKernelGrowthIsCut(t *testing.T) {
	netnstest.RequireRoot(t)
	steps := []struct {
		name string
		cut  func(*store[objectMember, uint32]) error
		want uint32 // capacity after the next start
	}{
		{"before all", func(*store[objectMember, uint32]) error { return nil }, 16},
		{"the bigger one is half full", func(s *store[objectMember, uint32]) error {
			m, err := s.make(64)
			if err == nil {
				err = m.Pin(s.pin(m))
			}
			return err
		}, 16},
		{"both are there, the bigger one in force", func(s *store[objectMember, uint32]) error {
			m, err := s.make(64)
			if err == nil {
				err = copyMap[objectMember, uint32](s.m, m)
			}
			if err == nil {
				err = s.use(m)
			}
			return err
		}, 64},
		{"after all", func(s *store[objectMember, uint32]) error { return s.grow(64) }, 64},
	}
	for _, tt := range steps {
		t.Run(tt.name, func(t *testing.T) {
			pins := filepath.Join(netnstest.BPFFS(t), "orlop")
			lb := openTest(t, pins, 16)
			for i := range 10 {
				if err := lb.PutMember(7, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 80), Chosen); err != nil {
					t.Fatal(err)
				}
			}
			if err := tt.cut(&lb.members); err != nil {
				t.Fatal(err)
			}
			lb.Close()
			again := openTest(t, pins, 16)
			all, err := again.Members()
			if u := again.members.usage(); err != nil || len(all[7]) != 10 || u.Entries != 10 || u.Capacity != tt.want {
				t.Errorf("%d members, %v, %+v; want 10 of %d", len(all[7]), err, u, tt.want)
			}
			left, err := filepath.Glob(filepath.Join(Maps(pins), "members_*"))
			if err != nil || len(left) != 1 {
				t.Errorf("pinned: %v, %v", left, err)
			}
		})
	}
}
