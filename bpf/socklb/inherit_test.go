package socklb

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/orlop-io/orlop/bpf/netnstest"
)

// An agent of the layout before leaves maps that do not grow. Services keep their numbers, and what was chosen is known to the programs of both while one takes
// over from the other. What this layout has by then is not written over.
func TestKernelTakesOverFromTheLayoutBefore(t *testing.T) {
	netnstest.RequireRoot(t)
	pins := filepath.Join(netnstest.BPFFS(t), "orlop")
	old := layoutBefore(t, filepath.Join(pins, before))
	put := func(name string, key, value any) {
		t.Helper()
		if err := old[name].Put(key, value); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	f := Frontend{Addr: netip.MustParseAddr("10.96.0.7"), Port: 80, Protocol: 17}
	at, from := netip.MustParseAddrPort("10.0.0.3:8080"), netip.MustParsePrefix("192.0.2.0/24")
	put(objectMapFrontends, keyOf(f), &objectFrontend{Generation: 9, Service: 5, Count: 1, Affinity: 60})
	put(objectMapBackends, &objectSlot{Generation: 9}, endpointOf(at))
	put(objectMapMembers, &objectMember{Service: 5, Ep: *endpointOf(at)}, uint32(1))
	put(objectMapSources, sourceOf(5, from), uint32(1))
	who := objectClient{Netns: 3, Service: 5}
	put(objectMapChoices, &who, &objectChoice{Ep: *endpointOf(at), Seen: 1})

	lb := openTest(t, pins, 16)
	frontends, err := lb.Frontends()
	if want := (Entry{Generation: 9, Service: 5, Count: 1, Affinity: time.Minute}); err != nil || len(frontends) != 1 || frontends[f] != want {
		t.Errorf("frontends %+v, %v", frontends, err)
	}
	if backends, err := lb.Backends(9, 1); err != nil || !slices.Equal(backends, []Backend{{AddrPort: at}}) {
		t.Errorf("backends %v, %v", backends, err)
	}
	if members, err := lb.Members(); err != nil || !maps.Equal(members[5], map[netip.AddrPort]MemberState{at: Chosen}) {
		t.Errorf("members %v, %v", members, err)
	}
	if sources, err := lb.Sources(); err != nil || !slices.Equal(sources[5], []netip.Prefix{from}) {
		t.Errorf("sources %v, %v", sources, err)
	}
	var chosen objectChoice
	if err := lb.objs.Choices.Lookup(&who, &chosen); err != nil || chosen.Ep != *endpointOf(at) {
		t.Errorf("choices %+v, %v", chosen, err)
	}
	if a, b := idOf(t, old[objectMapSockets]), idOf(t, lb.objs.Sockets); a != b {
		t.Errorf("what sockets chose is map %d, and was %d", b, a)
	}

	if err := lb.DeleteFrontend(f); err != nil {
		t.Fatal(err)
	}
	lb.Close()
	frontends, err = openTest(t, pins, 16).Frontends()
	if err != nil || len(frontends) != 0 {
		t.Errorf("the next start copies once more: %v, %v", frontends, err)
	}
}

// layoutBefore pins empty maps as that layout has them.
func layoutBefore(t *testing.T, dir string) map[string]*ebpf.Map {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	spec, err := loadObject()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*ebpf.Map{}
	for _, name := range []string{objectMapFrontends, objectMapBackends, objectMapTables, objectMapMembers, objectMapSources, objectMapSockets, objectMapChoices} {
		s := spec.Maps[name]
		if s.InnerMap != nil {
			s = s.InnerMap
		}
		s = s.Copy()
		s.Name, s.Pinning = name, ebpf.PinNone
		switch {
		case s.Type == ebpf.Hash:
			s.MaxEntries = 1 << 20
		case s.Type == ebpf.LPMTrie:
			s.MaxEntries = 1 << 16
		}
		m, err := ebpf.NewMap(s)
		if err == nil {
			err = m.Pin(filepath.Join(dir, name))
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		t.Cleanup(func() { m.Close() })
		out[name] = m
	}
	return out
}

func idOf(t *testing.T, m *ebpf.Map) ebpf.MapID {
	t.Helper()
	info, err := m.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return id
}
