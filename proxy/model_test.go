package proxy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func addrs(list ...string) []netip.Addr { return parse(list) }

func ports(list ...string) (out []netip.AddrPort) {
	for _, s := range list {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

func TestGroups(t *testing.T) {
	base := func() (Service, []Slice) {
		return Service{
				Key: "ns/web", ClusterIPs: addrs("10.96.0.9"),
				Ports: []Port{{Name: "http", Protocol: TCP, Port: 80, NodePort: 30080}},
			}, []Slice{{
				Service: "ns/web", Ports: []SlicePort{{Name: "http", Protocol: TCP, Port: 8080}},
				Endpoints: []Endpoint{
					{Addrs: addrs("10.1.1.2"), Ready: true, Serving: true},
					{Addrs: addrs("10.1.0.2"), Ready: true, Serving: true, Local: true},
				},
			}}
	}
	vip := Frontend{Addr: netip.MustParseAddr("10.96.0.9"), Port: 80, Protocol: TCP, Scope: Inside}
	node := Frontend{Addr: netip.IPv4Unspecified(), Port: 30080, Protocol: TCP, Scope: Everywhere}
	balancer := Frontend{Addr: netip.MustParseAddr("192.0.2.9"), Port: 80, Protocol: TCP, Scope: Everywhere}
	in := func(f Frontend) Frontend { f.Scope = Inside; return f }
	out := func(f Frontend) Frontend { f.Scope = Outside; return f }
	all, here := ports("10.1.0.2:8080", "10.1.1.2:8080"), addrs("10.1.0.2")
	local := ports("10.1.0.2:8080")
	office := []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	for _, tt := range []struct {
		name   string
		mutate func(*Service, []Slice)
		want   Model
	}{
		{"ready endpoints, sorted", func(*Service, []Slice) {}, Model{
			"ns/web:80/6/4": {Port: "ns/web:http", Frontends: []Frontend{vip, node}, Backends: all, Here: here}}},
		{"affinity", func(s *Service, _ []Slice) { s.Affinity = time.Minute }, Model{
			"ns/web:80/6/4": {Port: "ns/web:http", Frontends: []Frontend{vip, node}, Backends: all, Here: here, Affinity: time.Minute}}},
		{"internal policy Local holds for the cluster IP only", func(s *Service, _ []Slice) { s.InternalLocal = true }, Model{
			"ns/web:80/6/4/local": {Port: "ns/web:http", Frontends: []Frontend{vip}, Backends: local, Here: here},
			"ns/web:80/6/4":       {Port: "ns/web:http", Frontends: []Frontend{node}, Backends: all, Here: here}}},
		{"external policy Local holds for clients outside", func(s *Service, _ []Slice) {
			s.ExternalLocal, s.LoadBalancerIPs, s.SourceRanges = true, addrs("192.0.2.9"), office
		}, Model{
			"ns/web:80/6/4":          {Port: "ns/web:http", Frontends: []Frontend{vip, in(balancer), in(node)}, Backends: all, Here: here},
			"ns/web:80/6/4/outside":  {Port: "ns/web:http", Frontends: []Frontend{out(node)}, Backends: local, Here: here, KeepSource: true},
			"ns/web:80/6/4/balancer": {Port: "ns/web:http", Frontends: []Frontend{out(balancer)}, Backends: local, Here: here, KeepSource: true, Sources: office}}},
		{"source ranges hold for the balancer, asked from outside", func(s *Service, _ []Slice) {
			s.LoadBalancerIPs, s.SourceRanges = addrs("192.0.2.9"), office
		}, Model{
			"ns/web:80/6/4":          {Port: "ns/web:http", Frontends: []Frontend{vip, in(balancer), node}, Backends: all, Here: here},
			"ns/web:80/6/4/balancer": {Port: "ns/web:http", Frontends: []Frontend{out(balancer)}, Backends: all, Here: here, Sources: office}}},
		{"an ending endpoint of this node serves clients outside when none is ready here", func(s *Service, l []Slice) {
			s.ExternalLocal = true
			l[0].Endpoints[1] = Endpoint{Addrs: addrs("10.1.0.2"), Serving: true, Terminating: true, Local: true}
		}, Model{
			"ns/web:80/6/4":         {Port: "ns/web:http", Frontends: []Frontend{vip, in(node)}, Backends: ports("10.1.1.2:8080")},
			"ns/web:80/6/4/outside": {Port: "ns/web:http", Frontends: []Frontend{out(node)}, Backends: local, Here: here, KeepSource: true}}},
		{"a terminating endpoint gets nothing while another is ready", func(_ *Service, l []Slice) {
			l[0].Endpoints[0] = Endpoint{Addrs: addrs("10.1.1.2"), Serving: true, Terminating: true}
		}, Model{"ns/web:80/6/4": {Port: "ns/web:http", Frontends: []Frontend{vip, node}, Backends: local, Here: here}}},
		{"terminating endpoints serve when none is ready", func(_ *Service, l []Slice) {
			l[0].Endpoints = []Endpoint{{Addrs: addrs("10.1.1.2"), Serving: true, Terminating: true}, {Addrs: addrs("10.1.1.3"), Terminating: true}}
		}, Model{"ns/web:80/6/4": {Port: "ns/web:http", Frontends: []Frontend{vip, node}, Backends: ports("10.1.1.2:8080")}}},
		{"no endpoints is still a service", func(_ *Service, l []Slice) { l[0].Endpoints = nil }, Model{
			"ns/web:80/6/4": {Port: "ns/web:http", Frontends: []Frontend{vip, node}}}},
		{"another port's endpoints do not count", func(_ *Service, l []Slice) { l[0].Ports[0].Name = "other" }, Model{
			"ns/web:80/6/4": {Port: "ns/web:http", Frontends: []Frontend{vip, node}}}},
		{"each family to itself", func(s *Service, l []Slice) {
			s.ClusterIPs = addrs("10.96.0.9", "fd96::9")
			l[0].Endpoints = append(l[0].Endpoints, Endpoint{Addrs: addrs("fd10::1"), Ready: true})
		}, Model{
			"ns/web:80/6/4": {Port: "ns/web:http", Frontends: []Frontend{vip, node}, Backends: all, Here: here},
			"ns/web:80/6/6": {Port: "ns/web:http", Frontends: []Frontend{
				{Addr: netip.MustParseAddr("fd96::9"), Port: 80, Protocol: TCP, Scope: Inside},
				{Addr: netip.IPv6Unspecified(), Port: 30080, Protocol: TCP, Scope: Everywhere},
			}, Backends: ports("[fd10::1]:8080")}}},
		{"balancer and external address", func(s *Service, _ []Slice) { s.LoadBalancerIPs, s.ExternalIPs = addrs("192.0.2.9"), addrs("192.0.2.7") }, Model{
			"ns/web:80/6/4": {Port: "ns/web:http", Frontends: []Frontend{vip, balancer, {Addr: netip.MustParseAddr("192.0.2.7"), Port: 80, Protocol: TCP, Scope: Everywhere}, node},
				Backends: all, Here: here}}},
		{"hints for the zone", hinted([]string{"a"}, []string{"b"}, nil, nil), Model{
			"ns/web:80/6/4": {Port: "ns/web:http", Frontends: []Frontend{vip, node}, Backends: ports("10.1.1.2:8080")}}},
		{"hints for no endpoint of the zone", hinted([]string{"c"}, []string{"b"}, nil, nil), Model{
			"ns/web:80/6/4": {Port: "ns/web:http", Frontends: []Frontend{vip, node}, Backends: all, Here: here}}},
		{"a hint is missing", hinted([]string{"a"}, nil, nil, nil), Model{
			"ns/web:80/6/4": {Port: "ns/web:http", Frontends: []Frontend{vip, node}, Backends: all, Here: here}}},
		{"hints for the node before those for its zone", hinted([]string{"a"}, []string{"a"}, []string{"n2"}, []string{"n1"}), Model{
			"ns/web:80/6/4": {Port: "ns/web:http", Frontends: []Frontend{vip, node}, Backends: local, Here: here}}},
		{"hints for other nodes leave those for the zone", hinted([]string{"a"}, []string{"b"}, []string{"n2"}, []string{"n3"}), Model{
			"ns/web:80/6/4": {Port: "ns/web:http", Frontends: []Frontend{vip, node}, Backends: ports("10.1.1.2:8080")}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			svc, list := base()
			tt.mutate(&svc, list)
			if d := cmp.Diff(tt.want, groups(svc, list, Place{Node: "n1", Zone: "a"}), cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{}), cmpopts.EquateEmpty(),
				cmpopts.IgnoreFields(Group{}, "Leaving")); d != "" {
				t.Fatal(d)
			}
		})
	}
}

// Who is not a backend keeps its connections of TCP for as long as it is in a slice, and flows of UDP while it is ready.
func TestWhoKeepsWhatItHas(t *testing.T) {
	for _, tt := range []struct {
		name          string
		change        func(*Service, []Endpoint)
		tcp, udp, out []netip.AddrPort // of the whole by TCP and UDP, and of clients outside by TCP
	}{
		{"all are backends", func(*Service, []Endpoint) {}, nil, nil, nil},
		{"one ends", func(_ *Service, e []Endpoint) { e[0].Ready, e[0].Terminating = false, true }, ports("10.1.1.2:8080"), nil, nil},
		{"one is not ready", func(_ *Service, e []Endpoint) { e[0].Ready, e[0].Serving = false, false }, ports("10.1.1.2:8080"), nil, nil},
		{"one is for another zone", func(_ *Service, e []Endpoint) { e[0].ForZones, e[1].ForZones = []string{"b"}, []string{"a"} },
			ports("10.1.1.2:8080"), ports("10.1.1.2:8080"), nil},
		{"one is elsewhere", func(s *Service, _ []Endpoint) { s.ExternalLocal = true }, nil, nil, ports("10.1.1.2:8080")},
	} {
		svc := Service{Key: "ns/web", ClusterIPs: addrs("10.96.0.9"), Ports: []Port{{Protocol: TCP, Port: 80, NodePort: 30080}, {Protocol: UDP, Port: 80}}}
		slice := Slice{Ports: []SlicePort{{Protocol: TCP, Port: 8080}, {Protocol: UDP, Port: 8080}}, Endpoints: []Endpoint{
			{Addrs: addrs("10.1.1.2"), Ready: true, Serving: true},
			{Addrs: addrs("10.1.0.2"), Ready: true, Serving: true, Local: true},
		}}
		tt.change(&svc, slice.Endpoints)
		m := groups(svc, []Slice{slice}, Place{Node: "n1", Zone: "a"})
		for name, want := range map[string][]netip.AddrPort{"ns/web:80/6/4": tt.tcp, "ns/web:80/17/4": tt.udp, "ns/web:80/6/4/outside": tt.out} {
			if m[name] == nil && want == nil {
				continue
			}
			if m[name] == nil || !slices.Equal(m[name].Leaving, want) {
				t.Errorf("%s, %s: %+v, want %v leaving", tt.name, name, m[name], want)
			}
		}
	}
}

// hinted gives the two endpoints hints for zones and for nodes.
func hinted(zones0, zones1, nodes0, nodes1 []string) func(*Service, []Slice) {
	return func(_ *Service, l []Slice) {
		e := l[0].Endpoints
		e[0].ForZones, e[1].ForZones, e[0].ForNodes, e[1].ForNodes = zones0, zones1, nodes0, nodes1
	}
}

// answer is what a client gets at an address, found the slow way: every rule of the documentation asked in turn for every endpoint.
func answer(svc Service, list []Slice, at Place, addr netip.Addr, portNumber uint16, proto Protocol, from Scope) (backends map[netip.AddrPort]bool, known bool) {
	for _, port := range svc.Ports {
		cluster := port.Port == portNumber && slices.Contains(svc.ClusterIPs, addr) && from == Inside
		outer := port.Port == portNumber && (slices.Contains(svc.LoadBalancerIPs, addr) || slices.Contains(svc.ExternalIPs, addr)) ||
			port.NodePort != 0 && port.NodePort == portNumber && addr.IsUnspecified()
		if port.Protocol != proto || !cluster && !outer {
			continue
		}
		onlyHere := cluster && svc.InternalLocal || !cluster && from == Outside && svc.ExternalLocal
		type option struct {
			e  Endpoint
			at netip.AddrPort
		}
		var options []option
		for _, s := range list {
			for _, sp := range s.Ports {
				for _, e := range s.Endpoints {
					for _, a := range e.Addrs {
						if sp.Name == port.Name && sp.Protocol == proto && a.Is4() == addr.Is4() && (e.Local || !onlyHere) {
							options = append(options, option{e, netip.AddrPortFrom(a, sp.Port)})
						}
					}
				}
			}
		}
		pick := func(ok func(Endpoint) bool) map[netip.AddrPort]bool {
			got := map[netip.AddrPort]bool{}
			for _, o := range options {
				if ok(o.e) {
					got[o.at] = true
				}
			}
			return got
		}
		ready := func(e Endpoint) bool { return e.Ready }
		unhinted := func(hints func(Endpoint) []string) bool {
			return len(pick(func(e Endpoint) bool { return e.Ready && len(hints(e)) == 0 })) > 0
		}
		nodes, zones := func(e Endpoint) []string { return e.ForNodes }, func(e Endpoint) []string { return e.ForZones }
		if !onlyHere && !unhinted(nodes) {
			if got := pick(func(e Endpoint) bool { return e.Ready && slices.Contains(e.ForNodes, at.Node) }); len(got) > 0 {
				return got, true
			}
		}
		if !onlyHere && at.Zone != "" && !unhinted(zones) {
			if got := pick(func(e Endpoint) bool { return e.Ready && slices.Contains(e.ForZones, at.Zone) }); len(got) > 0 {
				return got, true
			}
		}
		if got := pick(ready); len(got) > 0 {
			return got, true
		}
		return pick(func(e Endpoint) bool { return e.Serving && e.Terminating }), true
	}
	return nil, false
}

func TestGroupsAgreeWithTheObviousModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	coin := func() bool { return rnd.IntN(2) == 0 }
	some := func(list ...string) (out []string) {
		for _, s := range list {
			if coin() {
				out = append(out, s)
			}
		}
		return out
	}
	for round := range 3_000 {
		svc := Service{
			Key: "ns/s", ClusterIPs: addrs(some("10.96.0.1", "fd96::1")...), LoadBalancerIPs: addrs(some("192.0.2.1", "fd02::1")...),
			ExternalIPs: addrs(some("192.0.2.2")...), InternalLocal: coin(), ExternalLocal: coin(),
		}
		if coin() {
			svc.SourceRanges = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
		}
		for _, name := range some("a", "b") {
			p := Port{Name: name, Protocol: TCP, Port: uint16(80 + len(svc.Ports))}
			if coin() {
				p.Protocol = UDP
			}
			if coin() {
				p.NodePort = 30000 + p.Port
			}
			svc.Ports = append(svc.Ports, p)
		}
		var list []Slice
		for n := range rnd.IntN(3) {
			s := Slice{Service: svc.Key}
			for _, p := range svc.Ports {
				if rnd.IntN(4) > 0 {
					s.Ports = append(s.Ports, SlicePort{Name: p.Name, Protocol: p.Protocol, Port: uint16(8000 + rnd.IntN(2))})
				}
			}
			always := coin() // whether each endpoint has hints
			for i := range rnd.IntN(4) {
				e := Endpoint{Ready: coin(), Serving: coin(), Terminating: coin(), Local: coin()}
				e.Addrs = addrs(some(fmt.Sprintf("10.1.%d.%d", n, i), fmt.Sprintf("fd10::%d:%d", n, i))...)
				if e.ForZones = some("a", "b"); always && len(e.ForZones) == 0 {
					e.ForZones = []string{"b"}
				}
				if e.ForNodes = some("n1", "n2"); always && len(e.ForNodes) == 0 {
					e.ForNodes = []string{"n2"}
				}
				s.Endpoints = append(s.Endpoints, e)
			}
			list = append(list, s)
		}
		at := Place{Node: "n1", Zone: []string{"", "a", "c"}[rnd.IntN(3)]}
		model := groups(svc, list, at)
		for _, addr := range addrs("10.96.0.1", "fd96::1", "192.0.2.1", "fd02::1", "192.0.2.2", "0.0.0.0", "::") {
			for _, port := range []uint16{80, 81, 30080, 30081} {
				for _, proto := range []Protocol{TCP, UDP} {
					for _, from := range []Scope{Inside, Outside} {
						want, known := answer(svc, list, at, addr, port, proto, from)
						if addr.IsUnspecified() && !slices.ContainsFunc(svc.ClusterIPs, func(a netip.Addr) bool { return a.Is4() == addr.Is4() }) {
							known = false // a service has node ports in its own families
						}
						var found []*Group
						for _, g := range model {
							for _, f := range g.Frontends {
								if f.Addr == addr && f.Port == port && f.Protocol == proto && f.Scope&from != 0 {
									found = append(found, g)
								}
							}
						}
						ask := fmt.Sprintf("round %d: %s:%d/%d from %d of %+v %+v", round, addr, port, proto, from, svc, list)
						if len(found) > 1 || known != (len(found) == 1) {
							t.Fatalf("%s: %d groups answer, want an answer: %v", ask, len(found), known)
						}
						if !known {
							continue
						}
						got := map[netip.AddrPort]bool{}
						for _, b := range found[0].Backends {
							got[b] = true
						}
						if !maps.Equal(got, want) {
							t.Fatalf("%s: got %v, want %v", ask, got, want)
						}
						balancer := from == Outside && slices.Contains(svc.LoadBalancerIPs, addr)
						if limited := len(found[0].Sources) > 0; limited != (balancer && len(svc.SourceRanges) > 0) {
							t.Fatalf("%s: limited to sources: %v", ask, limited)
						}
					}
				}
			}
		}
	}
}
