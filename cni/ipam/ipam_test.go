package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

var small = sets("10.1.2.0/29") // .2 to .6 for pods

// sets makes a set of each subnet.
func sets(subnets ...string) []Set {
	var out []Set
	for _, p := range subnets {
		s, err := Set{RangeOf(netip.MustParsePrefix(p))}.Normal()
		if err != nil {
			panic(err)
		}
		out = append(out, s)
	}
	return out
}

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
	l, err := s.Reserve(Request{Attachment: att(i), Sets: small})
	if err != nil {
		t.Fatal(err)
	}
	return l.Addrs[0]
}

func TestNormal(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	for _, tt := range []struct{ subnet, start, end, gateway, want string }{
		{"10.1.2.0/24", "", "", "", "10.1.2.1 to 10.1.2.254, 10.1.2.1"},
		{"10.1.2.0/30", "", "", "10.1.2.2", "10.1.2.1 to 10.1.2.2, 10.1.2.2"},
		{"fd00::/120", "", "", "", "fd00::1 to fd00::ff, fd00::1"},
		{"10.1.2.0/24", "10.1.2.9", "10.1.2.20", "", "10.1.2.9 to 10.1.2.20, 10.1.2.1"},
		{"10.1.2.0/31", "", "", "", "has no address"},
		{"10.1.2.3/24", "", "", "", "10.1.2.0/24 is meant"},
		{"10.1.2.0/24", "10.1.3.1", "", "", "rangeStart 10.1.3.1 is not in"},
		{"10.1.2.0/24", "10.1.2.9", "10.1.2.8", "", "is before"},
		{"10.1.2.0/24", "", "", "fd00::1", "gateway fd00::1 is not in"},
		{"127.0.0.0/24", "", "", "", "no container can have its addresses"},
		{"224.0.0.0/24", "", "", "", "no container can have its addresses"},
		{"0.0.0.0/0", "", "", "", "no container can have its addresses"},
		{"ff05::/64", "", "", "", "no container can have its addresses"},
		{"::ffff:10.1.2.0/120", "", "", "", "no container can have its addresses"},
	} {
		r := Range{Subnet: prefix(tt.subnet)}
		for s, field := range map[string]*netip.Addr{tt.start: &r.Start, tt.end: &r.End, tt.gateway: &r.Gateway} {
			if s != "" {
				*field = addr(s)
			}
		}
		n, err := r.Normal()
		got := fmt.Sprintf("%s, %s", n, n.Gateway)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("%+v: got %s, want %s", tt, got, tt.want)
		}
	}
}

func TestSeveralRangesAreUsedUpInTurn(t *testing.T) {
	set, err := Set{RangeOf(netip.MustParsePrefix("10.1.0.0/30")), {Subnet: netip.MustParsePrefix("10.2.0.0/24"), Start: netip.MustParseAddr("10.2.0.7"), End: netip.MustParseAddr("10.2.0.9")}}.Normal()
	if err != nil {
		t.Fatal(err)
	}
	six := sets("fd00::/64")[0]
	s := newStore(t, t.TempDir(), "b1")
	req := Request{Sets: []Set{set, six}, Reserved: []netip.Prefix{netip.MustParsePrefix("10.2.0.8/32")}}
	for i, want := range []string{"10.1.0.2 fd00::2", "10.2.0.7 fd00::3", "10.2.0.9 fd00::4"} {
		req.Attachment = att(i)
		l, err := s.Reserve(req)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%s %s", l.Addrs[0], l.Addrs[1]); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	req.Attachment = att(9)
	if _, err := s.Reserve(req); !errors.Is(err, ErrExhausted) {
		t.Errorf("a reserved address is left, and was given: %v", err)
	}
}

func TestWantedAddresses(t *testing.T) {
	s := newStore(t, t.TempDir(), "b1")
	taken := reserve(t, s, 1)
	both := append(sets("fd00::/64"), small...)
	reserved := []netip.Prefix{netip.MustParsePrefix("10.1.2.5/32")}
	for _, tt := range []struct{ wanted, want string }{
		{"10.1.2.4", "[fd00::2 10.1.2.4]"},
		{"10.1.2.5", "[fd00::3 10.1.2.5]"}, // reserved for who asks
		{taken.String(), "held by container c1 eth0: address is taken"},
		{"10.1.2.1", "in no range"}, // the gateway's
		{"10.9.9.9", "in no range"},
		{"10.1.2.6 10.1.2.6", "[fd00::4 10.1.2.6]"}, // told twice, as by an argument and a capability
		{"10.1.2.6 10.1.2.3", "10.1.2.3 is in no range of the network that has not given one"},
	} {
		req := Request{Attachment: att(2), Sets: both, Reserved: reserved}
		for a := range strings.FieldsSeq(tt.wanted) {
			req.Wanted = append(req.Wanted, netip.MustParseAddr(a))
		}
		l, err := s.Reserve(req)
		got := fmt.Sprint(l.Addrs)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %s, want %s", tt.wanted, got, tt.want)
		}
		if err := s.Release(att(2)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTornLeases(t *testing.T) {
	holding := func(content string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte(content), 0o600) }
	}
	for name, tear := range map[string]func(path string) error{
		"empty": holding(""), "half": holding(`{"containerID":"c`), "no address": holding(`{"containerID":"c1","ifname":"eth0","addrs":[""]}`),
		"larger than memory": func(path string) error { return os.Truncate(path, 1<<40) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, t.TempDir(), "b1")
			a, other := reserve(t, s, 1), reserve(t, s, 2)
			if err := tear(s.leasePath(att(1))); err != nil {
				t.Fatal(err)
			}
			if _, ok, err := s.Lookup(att(1)); !ok || !errors.Is(err, ErrTorn) {
				t.Errorf("look up: %v, %v", ok, err)
			}
			if got := reserve(t, s, 3); got == a || got == other {
				t.Errorf("%s was given twice", got)
			}
			if fs, err := s.Verify(); err != nil || len(fs) != 1 {
				t.Errorf("verify: %v, %v", fs, err)
			}
			if err := s.Release(att(1)); err != nil {
				t.Fatal(err)
			}
			if fs, err := s.Verify(); err != nil || len(fs) != 0 {
				t.Errorf("verify after release: %v, %v", fs, err)
			}
			if ok, err := s.free(a); !ok || err != nil {
				t.Errorf("%s is not free: %v", a, err)
			}
		})
	}
}

func TestRepair(t *testing.T) {
	s := newStore(t, t.TempDir(), "b1")
	a, b, c := reserve(t, s, 1), reserve(t, s, 2), reserve(t, s, 3)
	for _, err := range []error{
		os.Remove(s.leasePath(att(1))),          // an address without a lease
		os.Remove(s.addrPath(b)),                // a lease without its address
		os.WriteFile(s.addrPath(c), nil, 0o600), // both torn
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	faults, err := s.Repair()
	if err != nil || len(faults) != 3 {
		t.Fatalf("%v, %v", faults, err)
	}
	if faults, err = s.Verify(); err != nil || len(faults) != 0 {
		t.Fatalf("after repair: %v, %v", faults, err)
	}
	ls, err := s.List()
	if err != nil || len(ls) != 1 || ls[0].Addrs[0] != b {
		t.Fatalf("leases %v, %v", ls, err)
	}
	for _, x := range []netip.Addr{a, c} {
		if ok, _ := s.free(x); !ok {
			t.Errorf("%s is not free", x)
		}
	}
}

func TestFolderOfHostLocal(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, dir, "b1")
	files := map[string]string{"10.1.2.2": "c1\r\neth0", "10.1.2.3": "c1\r\nnet1", "10.1.2.4": "c2", "last_reserved_ip.0": "10.1.2.4"}
	if err := os.MkdirAll(s.network, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(s.network, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := reserve(t, s, 5); got != netip.MustParseAddr("10.1.2.5") {
		t.Errorf("got %s", got)
	}
	for i, left := range []string{"10.1.2.3 10.1.2.4 last_reserved_ip.0", "10.1.2.3 last_reserved_ip.0"} {
		if err := s.Release(att(i + 1)); err != nil {
			t.Fatal(err)
		}
		var have []string
		for name := range files {
			if _, err := os.Stat(filepath.Join(s.network, name)); err == nil {
				have = append(have, name)
			}
		}
		slices.Sort(have)
		if got := strings.Join(have, " "); got != left {
			t.Errorf("after release of c%d: %s, want %s", i+1, got, left)
		}
	}
}

func FuzzLease(f *testing.F) {
	f.Add([]byte(`{"containerID":"c1","ifname":"eth0","addrs":["10.1.2.2","fd00::1"],"data":{"x":1}}`))
	f.Add([]byte(`{"containerID":"c1","addrs":[""]}`))
	f.Add([]byte(`{"containerID":"another","ifname":"eth0","addrs":["10.1.2.2","fd00::1"]}`))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newStore(t, t.TempDir(), "b1")
		a := reserve(t, s, 1)
		if err := os.WriteFile(s.leasePath(att(1)), b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, _ = s.Lookup(att(1))
		if _, err := s.List(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Repair(); err != nil {
			t.Fatal(err)
		}
		if err := s.Release(att(1)); err != nil {
			t.Fatal(err)
		}
		if l, ok := plainLease(b); ok { // then the library has nothing else to say
			var want Lease
			if err := json.Unmarshal(b, &want); err != nil || fmt.Sprintf("%+v", l) != fmt.Sprintf("%+v", want) {
				t.Fatalf("%s: got %+v, want %+v, %v", b, l, want, err)
			}
		}
		if l, err := decode(b); err == nil {
			again := l.encode()
			if l2, err := decode(again); err != nil || fmt.Sprint(l2.Addrs) != fmt.Sprint(l.Addrs) || l2.Attachment != l.Attachment {
				t.Fatalf("%s came back as %+v, %v", again, l2, err)
			}
			return
		}
		if ok, err := s.free(a); !ok || err != nil {
			t.Fatalf("%s is not free: %v", a, err)
		}
	})
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
	if _, err := s.Reserve(Request{Attachment: att(9), Sets: small}); !errors.Is(err, ErrExhausted) {
		t.Fatalf("sixth: %v", err)
	}
	if err := s.Check(small, nil); !errors.Is(err, ErrExhausted) {
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

// The pointer to what was given last is written over: nothing of a longer address may stay behind a shorter one, nor may a torn one do harm.
func TestPointerAfterAShorterAddress(t *testing.T) {
	set, err := Set{{Subnet: netip.MustParsePrefix("10.1.2.0/24"), Start: netip.MustParseAddr("10.1.2.9"), End: netip.MustParseAddr("10.1.2.11")}}.Normal()
	if err != nil {
		t.Fatal(err)
	}
	s := newStore(t, t.TempDir(), "b1")
	for i, want := range []string{"10.1.2.9", "10.1.2.10", "10.1.2.11", "10.1.2.9", "10.1.2.10", "10.1.2.9"} {
		if i == 5 {
			torn := fmt.Appendf(nil, "%-*s", cursorSize, "10.1.2")
			if err := os.WriteFile(filepath.Join(s.network, lockName), torn, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		l, err := s.Reserve(Request{Attachment: att(i), Sets: []Set{set}})
		if err != nil {
			t.Fatal(err)
		}
		if got, pointer := l.Addrs[0].String(), pointer(t, s); got != want || pointer != l.Addrs[0] {
			t.Errorf("reservation %d: got %s, want %s; the pointer is %s", i, got, want, pointer)
		}
		if err := s.Release(att(i)); err != nil {
			t.Fatal(err)
		}
	}
}

func pointer(t *testing.T, s *Store) netip.Addr {
	t.Helper()
	held, err := s.lock()
	if err != nil {
		t.Fatal(err)
	}
	defer held.unlock()
	return s.cursor(held, 0)
}

// A plugin that takes the place of an older one goes on behind the address that that one gave last, and each set has a pointer of its own.
func TestPointersOfSetsAndOfAnOlderPlugin(t *testing.T) {
	var sets []Set
	for _, p := range []string{"10.1.2.0/24", "fd00::/64"} {
		set, err := Set{RangeOf(netip.MustParsePrefix(p))}.Normal()
		if err != nil {
			t.Fatal(err)
		}
		sets = append(sets, set)
	}
	s := newStore(t, t.TempDir(), "b1")
	if err := os.MkdirAll(s.network, 0o700); err != nil {
		t.Fatal(err)
	}
	for i, a := range []string{"10.1.2.77", "fd00::ff"} {
		if err := os.WriteFile(filepath.Join(s.network, fmt.Sprint("next.", i)), fmt.Appendf(nil, "%-40s", a), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []string{"[10.1.2.78 fd00::100]", "[10.1.2.79 fd00::101]"} {
		l, err := s.Reserve(Request{Attachment: att(i), Sets: sets})
		if got := fmt.Sprint(l.Addrs); got != want || err != nil {
			t.Errorf("got %s, want %s; %v", got, want, err)
		}
	}
}

// Older and newer plugins of a node read each other's leases.
func TestLeasesAreWrittenAsTheLibraryDoes(t *testing.T) {
	for _, l := range []Lease{
		{Attachment: att(1), Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}, Data: json.RawMessage(`{"x":1}`)},
		{Attachment: Attachment{ContainerID: "a<b", IfName: "ä\n"}, Addrs: []netip.Addr{}},
		{Attachment: att(2)},
	} {
		want, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(l.encode()); got != string(want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestReserveTwiceIsRefused(t *testing.T) {
	s := newStore(t, t.TempDir(), "b1")
	reserve(t, s, 1)
	if _, err := s.Reserve(Request{Attachment: att(1), Sets: small}); !errors.Is(err, ErrReserved) {
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
	if _, err := s.Reserve(Request{Attachment: att(1), Sets: small, Data: func([]netip.Addr) (json.RawMessage, error) { return json.RawMessage(`{"x":1}`), nil }}); err != nil {
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

// A process may die between any two effects of Reserve and Release. Whoever comes next frees what it had, and nobody else's. (Every
// effect of the whole plugin is tested by killing it there; these are the moments that need a second container.)
func TestDeathBetweenEffects(t *testing.T) {
	s := newStore(t, t.TempDir(), "b1")
	a := reserve(t, s, 1)
	b := a.Next()
	for name, die := range map[string]func() error{
		"address taken, lease not made": func() error {
			return errors.Join(s.writeTemp(Lease{Attachment: att(2), Addrs: []netip.Addr{b}}), os.Link(s.tempPath(), s.addrPath(b)))
		},
		"address of another named, not taken": func() error {
			return s.writeTemp(Lease{Attachment: att(2), Addrs: []netip.Addr{a}})
		},
		"half written":                  func() error { return os.WriteFile(s.tempPath(), []byte("{"), 0o600) },
		"lease given up, address taken": func() error { return os.Rename(s.leasePath(att(3)), s.tempPath()) },
	} {
		t.Run(name, func(t *testing.T) {
			if strings.HasPrefix(name, "lease given up") {
				reserve(t, s, 3)
			}
			if err := die(); err != nil {
				t.Fatal(err)
			}
			if ls, err := s.List(); err != nil || len(ls) != 1 {
				t.Errorf("leases %v, %v", ls, err)
			}
			if err := s.Release(att(2)); err != nil {
				t.Fatal(err)
			}
			files, err := filepath.Glob(filepath.Join(s.boot, "*s", "*"))
			if err != nil || len(files) != 2 {
				t.Errorf("files %v, %v", files, err)
			}
			if _, err := os.Stat(s.addrPath(a)); err != nil {
				t.Errorf("address of the living attachment is gone: %v", err)
			}
			if faults, err := s.Verify(); err != nil || len(faults) != 0 {
				t.Errorf("faults %v, %v", faults, err)
			}
		})
	}
}

func TestConcurrentReserve(t *testing.T) {
	dir := t.TempDir()

	var mu sync.Mutex
	seen := map[netip.Addr]int{}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			l, err := newStore(t, dir, "b1").Reserve(Request{Attachment: att(i), Sets: sets("10.9.0.0/24")})
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
