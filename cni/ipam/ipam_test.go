package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

var small = []netip.Prefix{netip.MustParsePrefix("10.1.2.0/29")} // .2 to .6 for pods

func newStore(t *testing.T, dir, boot string) *Store {
	t.Helper()
	s, err := New(Config{Dir: dir, Network: "net", BootID: boot})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func att(i int) Attachment { return Attachment{ContainerID: fmt.Sprintf("c%d", i), IfName: "eth0"} }

func reserve(t *testing.T, s *Store, i int) netip.Addr {
	t.Helper()
	l, err := s.Reserve(att(i), small, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l.Addrs[0]
}

func TestPool(t *testing.T) {
	for _, tt := range []struct {
		prefix, first, last string
		size                uint64
	}{
		{"10.1.2.0/24", "10.1.2.2", "10.1.2.254", 253},
		{"10.1.2.0/30", "10.1.2.2", "10.1.2.2", 1},
		{"10.1.2.0/31", "10.1.2.2", "10.1.2.0", 0},
		{"fd00::/120", "fd00::2", "fd00::ff", 254},
	} {
		p := poolOf(netip.MustParsePrefix(tt.prefix))
		if got := fmt.Sprintf("%s %s %d", p.first, p.last, p.size); got != fmt.Sprintf("%s %s %d", tt.first, tt.last, tt.size) {
			t.Errorf("%s: got %s", tt.prefix, got)
		}
	}
}

func TestReserveUntilExhaustedAndAgain(t *testing.T) {
	s := newStore(t, t.TempDir(), "b1")
	seen := map[netip.Addr]bool{}
	for i := range 5 {
		seen[reserve(t, s, i)] = true
	}
	if len(seen) != 5 || seen[netip.MustParseAddr("10.1.2.1")] {
		t.Fatalf("addresses %v", seen)
	}
	if _, err := s.Reserve(att(9), small, nil); !errors.Is(err, ErrExhausted) {
		t.Fatalf("sixth: %v", err)
	}
	if err := s.Check(small); !errors.Is(err, ErrExhausted) {
		t.Fatalf("check: %v", err)
	}
	for range 2 { // twice: giving back what is not held is no error
		if err := s.Release(att(3)); err != nil {
			t.Fatal(err)
		}
	}
	if got := reserve(t, s, 9); got != netip.MustParseAddr("10.1.2.5") {
		t.Fatalf("got %s", got)
	}
}

func TestAddressRestsBeforeReuse(t *testing.T) {
	s := newStore(t, t.TempDir(), "b1")
	first := reserve(t, s, 1)
	if err := s.Release(att(1)); err != nil {
		t.Fatal(err)
	}
	if second := reserve(t, s, 2); second == first {
		t.Fatalf("%s handed out twice in a row", first)
	}
}

func TestReserveTwiceIsRefused(t *testing.T) {
	s := newStore(t, t.TempDir(), "b1")
	reserve(t, s, 1)
	if _, err := s.Reserve(att(1), small, nil); !errors.Is(err, ErrReserved) {
		t.Fatalf("got %v", err)
	}
}

func TestRebootFreesEverything(t *testing.T) {
	dir := t.TempDir()
	old := newStore(t, dir, "b1")
	for i := range 5 {
		reserve(t, old, i)
	}
	s := newStore(t, dir, "b2")
	reserve(t, s, 7)
	if ls, err := s.List(); err != nil || len(ls) != 1 {
		t.Fatalf("leases %v, %v", ls, err)
	}
	if _, err := os.Stat(old.boot); !os.IsNotExist(err) {
		t.Fatalf("the earlier boot's folder is still there: %v", err)
	}
}

func TestDataComesBack(t *testing.T) {
	s := newStore(t, t.TempDir(), "b1")
	if _, err := s.Reserve(att(1), small, json.RawMessage(`{"x":1}`)); err != nil {
		t.Fatal(err)
	}
	l, ok, err := s.Lookup(att(1))
	if err != nil || !ok || string(l.Data) != `{"x":1}` {
		t.Fatalf("got %+v %v %v", l, ok, err)
	}
	if err := s.SetData(att(1), json.RawMessage(`{"x":2}`)); err != nil {
		t.Fatal(err)
	}
	if l, _, _ = s.Lookup(att(1)); string(l.Data) != `{"x":2}` {
		t.Fatalf("got %s", l.Data)
	}
	if err := s.Release(att(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.addrPath(l.Addrs[0])); !os.IsNotExist(err) {
		t.Fatalf("the address of a lease with changed data was not given back: %v", err)
	}
}

// A process may die between any two effects of Reserve and Release. Whatever it leaves, releasing the
// attachment must free what it held, and nobody else's.
func TestDeathBetweenEffects(t *testing.T) {
	s := newStore(t, t.TempDir(), "b1")
	a := reserve(t, s, 1)

	t.Run("lease written, address not taken, then another took it", func(t *testing.T) {
		if err := os.Remove(s.addrPath(a)); err != nil {
			t.Fatal(err)
		}
		if err := s.writeLease(Lease{Attachment: att(2), Addrs: []netip.Addr{a}}); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(s.leasePath(att(2)), s.addrPath(a)); err != nil {
			t.Fatal(err)
		}
		if err := s.Release(att(1)); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(s.addrPath(a)); err != nil {
			t.Fatalf("address of the living attachment is gone: %v", err)
		}
	})
	t.Run("address given back, lease not removed", func(t *testing.T) {
		if err := os.Remove(s.addrPath(a)); err != nil {
			t.Fatal(err)
		}
		if err := s.Release(att(2)); err != nil {
			t.Fatal(err)
		}
		if ls, err := s.List(); err != nil || len(ls) != 0 {
			t.Fatalf("leases %v, %v", ls, err)
		}
	})
	t.Run("temporary file left", func(t *testing.T) {
		if err := os.WriteFile(filepath.Join(s.boot, leasesDir, tempPrefix+"1"), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if ls, err := s.List(); err != nil || len(ls) != 0 {
			t.Fatalf("leases %v, %v", ls, err)
		}
	})
}

func TestConcurrentReserve(t *testing.T) {
	dir := t.TempDir()
	ranges := []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24")}
	var mu sync.Mutex
	seen := map[netip.Addr]int{}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			l, err := newStore(t, dir, "b1").Reserve(att(i), ranges, nil)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			seen[l.Addrs[0]]++
		})
	}
	wg.Wait()
	if len(seen) != 100 {
		t.Fatalf("%d different addresses for 100 attachments", len(seen))
	}
}

func TestNewRefusesWhatIsNoFileName(t *testing.T) {
	for _, name := range []string{"", "..", "a/b", "lock"} {
		if _, err := New(Config{Dir: "/x", Network: name, BootID: "b"}); err == nil {
			t.Errorf("network name %q was accepted", name)
		}
	}
}
