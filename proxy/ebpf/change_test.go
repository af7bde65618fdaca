package ebpf

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/orlop-io/orlop/proxy"
)

// Whatever changes come, with frontends that go from group to group and restarts between, the maps hold what the last model says and nothing else.
func TestKernelChangesConverge(t *testing.T) {
	r := newRigOf(t, 16, 0)
	seed := rand.Uint64()
	t.Log("seed", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	frontend := func(i int) proxy.Frontend {
		return proxy.Frontend{Addr: netip.AddrFrom4([4]byte{10, 96, 2, byte(i)}), Port: 80, Protocol: proxy.TCP, Scope: proxy.Everywhere}
	}
	random := func() *proxy.Group {
		g := &proxy.Group{Port: "default/web"}
		for range 1 + rnd.IntN(3) {
			if f := frontend(rnd.IntN(30)); !slices.Contains(g.Frontends, f) {
				g.Frontends = append(g.Frontends, f)
			}
		}
		for i := range rnd.IntN(5) {
			g.Backends = append(g.Backends, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(rnd.IntN(3)), byte(i)}), 80))
		}
		slices.SortFunc(g.Backends, netip.AddrPort.Compare)
		return g
	}
	model, whole := proxy.Model{}, true
	for range 300 {
		changed := proxy.Model{}
		for range 1 + rnd.IntN(4) {
			name := fmt.Sprint("g", rnd.IntN(20))
			if changed[name] = nil; rnd.IntN(3) > 0 {
				changed[name] = random()
			}
		}
		model.Apply(proxy.Change{Groups: maps.All(changed)})
		c := proxy.Change{Groups: maps.All(changed)}
		if whole {
			c = model.Change()
		}
		if err := r.b.Apply(c); err != nil {
			t.Fatal(err)
		}
		if whole = rnd.IntN(40) == 0; whole {
			r.open()
		}
	}
	taken := map[netip.Addr]bool{} // no frontend is two groups' in the end
	for name, g := range model {
		g = &proxy.Group{Port: g.Port, Backends: g.Backends, Frontends: slices.DeleteFunc(slices.Clone(g.Frontends), func(f proxy.Frontend) bool { return taken[f.Addr] })}
		for _, f := range g.Frontends {
			taken[f.Addr] = true
		}
		if model[name] = g; len(g.Frontends) == 0 {
			model[name] = nil
		}
	}
	last := proxy.Change{Groups: maps.All(maps.Clone(model)), Whole: whole}
	model.Apply(last)
	if err := r.b.Apply(last); err != nil {
		t.Fatal(err)
	}
	for more, n := true, time.Duration(1); more && n < 10; n++ {
		var err error
		if more, err = r.b.Sweep(time.Now().Add(n * time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	r.holds(model)
}

// holds compares what the maps have with a model.
func (r *rig) holds(model proxy.Model) {
	r.t.Helper()
	there, err := r.lb.Frontends()
	if err != nil {
		r.t.Fatal(err)
	}
	frontends, backends := 0, 0
	for name, g := range model {
		backends += len(g.Backends)
		for f := range r.b.frontends(g) {
			frontends++
			e, is := there[f]
			list, err := r.lb.Backends(e.Generation, e.Count)
			if err != nil || !is || !slices.Equal(list, backendsOf(g)) {
				r.t.Errorf("%s at %s: the maps have %v, %v; want %v", name, f, list, err, g.Backends)
			}
		}
	}
	gens, err := r.lb.Generations()
	if err != nil {
		r.t.Fatal(err)
	}
	slots := 0
	for _, s := range gens {
		slots += int(s.Backends)
	}
	if len(there) != frontends || slots != backends || len(r.b.live) != len(model) || len(r.b.owner) != frontends {
		r.t.Errorf("%d frontends and %d backends in %d groups, %d owned; want %d and %d in %d", len(there), slots, len(r.b.live), len(r.b.owner), frontends, backends, len(model))
	}
}
