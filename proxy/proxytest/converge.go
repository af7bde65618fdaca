package proxytest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/orlop-io/orlop/proxy"
)

// converges has one random model follow another, with restarts between, and then asks each address of the last one: whatever was there before, just what it says
// is there now.
func (r *run) converges() {
	seed := rand.Uint64()
	r.T.Log("seed", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var model proxy.Model
	for range r.mode.Changes / 2 {
		model = randomModel(rnd)
		r.set(model)
		if rnd.IntN(8) == 0 && !r.lacks(proxy.Restart) {
			r.open()
		}
	}
	r.set(model)
	for name, g := range model {
		for _, f := range g.Frontends {
			network := "tcp"
			if f.Protocol == proxy.UDP {
				network = "udp"
			}
			at := netip.AddrPortFrom(f.Addr, f.Port).String()
			if len(g.Backends) == 0 { // that they are refused is asked elsewhere, for the kernel grants a client so many refusals
				if out := r.AskInVain(r.Pods[0], network, at); len(out.Who) > 0 {
					r.T.Errorf("%s by %s, which has no backends: %+v", at, network, out)
				}
				continue
			}
			out := r.Ask(r.Pods[0], network, at, 40) // one of three is left out by 1 of 10 million
			for _, b := range g.Backends {
				if out.Who[b.Addr().String()] == 0 || len(out.Who) != len(g.Backends) || len(out.Failed) > 0 {
					r.T.Errorf("%s of %s by %s: %+v, want %v", at, name, network, out, g.Backends)
					break
				}
			}
		}
	}
}

// randomModel has groups of six addresses and two protocols: any number of addresses to a group, and none to two.
func randomModel(rnd *rand.Rand) proxy.Model {
	m := proxy.Model{}
	for i := range 6 {
		for _, p := range []proxy.Protocol{proxy.TCP, proxy.UDP} {
			if rnd.IntN(4) == 0 {
				continue
			}
			name := fmt.Sprint("g", rnd.IntN(5), "/", p)
			g := m[name]
			if g == nil {
				g = &proxy.Group{Port: "default/" + name}
				for pod := 1; pod <= 3; pod++ {
					a := netip.AddrFrom4([4]byte{10, 10, 0, byte(pod)})
					if rnd.IntN(3) == 0 {
						continue
					}
					if g.Backends = append(g.Backends, netip.AddrPortFrom(a, 8080)); pod < 3 {
						g.Here = append(g.Here, a)
					}
				}
				slices.SortFunc(g.Backends, netip.AddrPort.Compare)
				m[name] = g
			}
			g.Frontends = append(g.Frontends, proxy.Frontend{Addr: netip.AddrFrom4([4]byte{10, 96, 0, 60 + byte(i)}), Port: 80, Protocol: p, Scope: proxy.Inside})
		}
	}
	return m
}
