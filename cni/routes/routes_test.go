package routes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var (
	addr   = netip.MustParseAddr
	prefix = netip.MustParsePrefix
	plain  = cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})
)

// peer i has 10.1.i.0/24 and fd00:1:i::/64.
func peer(i int, addrs ...string) Node {
	n := Node{Name: fmt.Sprintf("n%d", i), UID: fmt.Sprintf("uid-%d", i), Pods: []netip.Prefix{prefix(fmt.Sprintf("10.1.%d.0/24", i)), prefix(fmt.Sprintf("fd00:1:%d::/64", i))}}
	for _, a := range addrs {
		n.Addrs = append(n.Addrs, addr(a))
	}
	return n
}

func text(s State) string {
	var out []string
	for _, i := range s {
		out = append(out, i.String())
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func TestDecide(t *testing.T) {
	self := peer(0, "192.0.2.100", "2001:db8::100")
	onLink, routed := Path{Reachable: true, MTU: 1500}, Path{Reachable: true, Router: addr("192.0.2.254"), MTU: 1500}
	direct := "route to 10.1.1.0/24 via 192.0.2.1\nroute to fd00:1:1::/64 via 2001:db8::1"
	mac := MACOf("uid-1").String()
	hop := peer(1).hop(addr("fd00::"), MACOf("uid-1")).String()
	tunnelled := strings.NewReplacer("MAC", mac, "HOP", hop).Replace(`endpoint MAC at orlop-vx to 192.0.2.1
link orlop-vx vxlan 7 udp 4789 from 192.0.2.100 address ` + MACOf("uid-0").String() + ` mtu 1450
neighbour 192.0.2.1 at orlop-vx is MAC
neighbour HOP at orlop-vx is MAC
route of pods to 192.0.2.1/32 via 192.0.2.1 over orlop-vx
route of pods to 2001:db8::1/128 via HOP over orlop-vx
route to 10.1.1.0/24 via 192.0.2.1 over orlop-vx from 192.0.2.100
route to fd00:1:1::/64 via HOP over orlop-vx from 2001:db8::100
rule for packets from 10.1.0.0/24
rule for packets from fd00:1::/64`)
	both := []string{"192.0.2.1", "2001:db8::1"}
	there := State{}
	there.Put(Route{Dst: prefix("10.1.1.0/24"), Via: addr("192.0.2.1")})
	for _, tt := range []struct {
		name   string
		when   When
		addrs  []string
		v4, v6 Path
		actual State
		want   string
		why    string
	}{
		{"on a link", Auto, both, onLink, onLink, nil, direct, "direct: 192.0.2.1 is on a link of this node"},
		{"a router", Auto, both, routed, routed, nil, tunnelled, "overlay: the router 192.0.2.254 lies before 192.0.2.1"},
		{"a router for one family", Auto, both, onLink, routed, nil, tunnelled, "overlay: the router 192.0.2.254 lies before 2001:db8::1"},
		{"a link without neighbours", Auto, both, Path{Reachable: true, Routed: true, MTU: 1500}, onLink, nil, tunnelled, "overlay: the link to 192.0.2.1 has no neighbours"},
		{"always", Always, both, onLink, onLink, nil, tunnelled, "overlay: an overlay is asked for"},
		{"never", Never, both, routed, routed, nil, "", "routers: the router 192.0.2.254 lies before 192.0.2.1, and an overlay is not allowed: routers must know the way to its pods"},
		{"never, on a link", Never, both, onLink, onLink, nil, direct, "direct: 192.0.2.1 is on a link of this node"},
		{"no way", Auto, both, Path{}, Path{}, nil, "", "-: there is no way to 192.0.2.1"},
		{"no way now", Auto, both, Path{}, Path{}, there, direct, "direct: kept: there is no way to 192.0.2.1 now"},
		{"no address", Auto, nil, onLink, onLink, there, "", "-: it has no InternalIP of a family that this node has one of"},
		{"one family of nodes, two of pods", Auto, both[:1], onLink, Path{}, nil, strings.ReplaceAll(`endpoint MAC at orlop-vx to 192.0.2.1
link orlop-vx vxlan 7 udp 4789 from 192.0.2.100 address `+MACOf("uid-0").String()+` mtu 1450
neighbour 192.0.2.1 at orlop-vx is MAC
neighbour `+hop+` at orlop-vx is MAC
route of pods to 192.0.2.1/32 via 192.0.2.1 over orlop-vx
route to 10.1.1.0/24 via 192.0.2.1 over orlop-vx from 192.0.2.100
route to fd00:1:1::/64 via `+hop+` over orlop-vx from 2001:db8::100
rule for packets from 10.1.0.0/24`, "MAC", mac), "overlay: no InternalIP of the family of fd00:1:1::/64"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			paths := map[netip.Addr]Path{addr("192.0.2.1"): tt.v4, addr("2001:db8::1"): tt.v6}
			got, decisions := Decide(View{self, []Node{peer(1, tt.addrs...)}}, Overlay{tt.when, 7, 4789}, paths, tt.actual)
			if d := cmp.Diff(tt.want, text(got)); d != "" {
				t.Error(d)
			}
			if why := fmt.Sprintf("%s: %s", decisions[0].How, decisions[0].Why); why != tt.why {
				t.Errorf("got  %s\nwant %s", why, tt.why)
			}
		})
	}
}

func TestDecideTakesTheSmallestWay(t *testing.T) {
	r := addr("192.0.2.254")
	paths := map[netip.Addr]Path{addr("192.0.2.1"): {true, r, false, 1500, 0}, addr("192.0.2.2"): {true, r, false, 1400, 0}, addr("192.0.2.3"): {true, r, false, 9000, 0}}
	s, _ := Decide(View{peer(0, "192.0.2.100"), []Node{peer(3, "192.0.2.3"), peer(1, "192.0.2.1"), peer(2, "192.0.2.2")}}, DefaultOverlay(), paths, nil)
	if got := smallest(s); got != 1350 {
		t.Errorf("MTU %d", got)
	}
}

func TestPlan(t *testing.T) {
	a, b := Route{Dst: prefix("10.1.1.0/24"), Via: addr("192.0.2.1")}, Route{Dst: prefix("10.1.2.0/24"), Via: addr("192.0.2.2")}
	b2 := b
	b2.Via = addr("192.0.2.3")
	link := Tunnel{Name: tunnel4, VNI: 1, Port: 4789, Local: addr("192.0.2.100"), MTU: 1450}
	over := Route{Dst: b.Dst, Via: b.Via, Tunnel: tunnel4}
	end := Endpoint{tunnel4, MACOf("b"), b.Via}
	other := link
	other.VNI = 2
	state := func(items ...Item) State {
		s := State{}
		s.Put(items...)
		return s
	}
	for _, tt := range []struct {
		name            string
		desired, actual State
		want            []string
	}{
		{"new node", state(a), nil, []string{"put route to 10.1.1.0/24 via 192.0.2.1: wanted"}},
		{"nothing to do", state(a, link), state(a, link), nil},
		{"puts before it drops", state(b2), state(a, b), []string{
			"put route to 10.1.2.0/24 via 192.0.2.3: it was route to 10.1.2.0/24 via 192.0.2.2", "drop route to 10.1.1.0/24 via 192.0.2.1: no node needs it"}},
		{"from a link to a tunnel", state(over, end, link), state(b), []string{
			"put " + link.String() + ": wanted", "put " + end.String() + ": wanted", "put " + over.String() + ": it was " + b.String()}},
		{"and back", state(b), state(over, end, link), []string{
			"put " + b.String() + ": it was " + over.String(), "drop " + end.String() + ": no node needs it", "drop " + link.String() + ": no node needs it"}},
		{"a link made again loses what is on it", state(over, end, other), state(over, end, link, Endpoint{tunnel4, MACOf("c"), a.Via}), []string{
			"drop " + link.String() + ": the kernel cannot change it", "put " + other.String() + ": wanted", "put " + end.String() + ": wanted", "put " + over.String() + ": wanted"}},
	} {
		var got []string
		for _, a := range Plan(tt.desired, tt.actual) {
			got = append(got, a.String())
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
	}
}

// fakeKernel is a state that refuses now and then, and what a kernel refuses.
type fakeKernel struct {
	state  State
	router map[netip.Addr]bool
	fail   func() bool
}

func (k *fakeKernel) State() (State, error) {
	if k.fail() {
		return State{}, errors.New("dump was interrupted")
	}
	return maps.Clone(k.state), nil
}

func (k *fakeKernel) Path(a netip.Addr) (Path, error) {
	if k.fail() {
		return Path{}, errors.New("no answer")
	}
	p := Path{Reachable: true, MTU: 1500}
	if k.router[a] {
		p.Router = addr("192.0.2.254")
	}
	return p, nil
}

func (k *fakeKernel) Probe(to []netip.Addr, _ uint16) {}

func (k *fakeKernel) Try(context.Context, netip.Addr) Verdict { return Verdict{true, true} }
func (k *fakeKernel) TurnOffload(string) error                { return errors.New("not asked for") }

func (k *fakeKernel) Watch(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return ctx.Err()
}

func (k *fakeKernel) Apply(a Action) error {
	if k.fail() {
		return errors.New("refused")
	}
	on := a.Item.tunnel()
	if _, there := k.state[Tunnel{Name: on}.key()]; on != "" && !there && !a.Drop {
		return errors.New("no such link: " + on)
	}
	t, isTunnel := a.Item.(Tunnel)
	if have, there := k.state[a.Item.key()].(Tunnel); isTunnel && there && !a.Drop && t.remade(have) {
		return errors.New("the link is another one")
	}
	if !a.Drop {
		k.state[a.Item.key()] = a.Item
		return nil
	}
	delete(k.state, a.Item.key())
	maps.DeleteFunc(k.state, func(_ string, i Item) bool { return isTunnel && i.tunnel() == t.Name })
	return nil
}

func TestRunConvergesFromAnyStateToAny(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		k := &fakeKernel{state: State{}, router: map[netip.Addr]bool{}, fail: func() bool { return rnd.IntN(8) == 0 }}
		k.state.Put(Route{Dst: prefix("10.9.0.0/24"), Via: addr("192.0.2.9")})
		want, known := View{Self: peer(0, "192.0.2.100", "2001:db8::100")}, false
		r, err := New(Config{Desired: func() (View, bool) { return want, known }, Overlay: DefaultOverlay(), Resync: time.Minute, Log: slog.New(slog.DiscardHandler)}, k)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		before := text(k.state)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		if d := cmp.Diff(before, text(k.state)); d != "" {
			t.Errorf("changed before nodes were known: %s", d)
		}
		if _, known := r.MTU(); known {
			t.Error("an MTU is known before nodes are")
		}
		known = true
		for range 100 {
			want.Peers = nil
			for _, i := range rnd.Perm(6)[:rnd.IntN(6)] {
				p := peer(i+1, fmt.Sprintf("192.0.2.%d", rnd.IntN(3)*10+i+1), fmt.Sprintf("2001:db8::%d", i+1))
				p.Addrs = p.Addrs[:rnd.IntN(3)]
				want.Peers = append(want.Peers, p)
				for _, a := range p.Addrs {
					k.router[a] = rnd.IntN(2) == 0
				}
			}
			want.Self.Addrs[0] = addr(fmt.Sprintf("192.0.2.%d", 100+rnd.IntN(2)))
			r.Poke()
			time.Sleep(time.Hour)
			synctest.Wait()
			flaky := k.fail
			k.fail = func() bool { return false }
			paths, _ := Paths(k, want)
			k.fail = flaky
			state, _ := Decide(want, DefaultOverlay(), paths, nil)
			if d := cmp.Diff(text(state), text(k.state)); d != "" {
				t.Fatal(d)
			}
		}
		cancel()
		<-done
		k.fail = func() bool { return false }
		if err := RemoveAll(k); err != nil || len(k.state) > 0 {
			t.Errorf("left: %v, %v", k.state, err)
		}
	})
}

func TestExplain(t *testing.T) {
	actual := State{}
	actual.Put(Route{Dst: prefix("10.1.1.0/24"), Via: addr("192.0.2.1")}, Route{Dst: prefix("10.1.4.0/24"), Via: addr("192.0.2.4")}, Rule{prefix("10.1.9.0/24")})
	var peers []Node
	for i := 1; i <= 3; i++ {
		p := peer(i, fmt.Sprintf("192.0.2.%d", i))
		p.Pods = p.Pods[:1]
		peers = append(peers, p)
	}
	fresh := peer(4, "192.0.2.4")
	fresh.Pods = nil
	peers = append(peers, fresh)
	on := Path{Reachable: true, MTU: 1500}
	paths := map[netip.Addr]Path{addr("192.0.2.1"): on, addr("192.0.2.2"): on, addr("192.0.2.4"): on}
	lines, rest := Explain(View{peer(0, "192.0.2.100"), peers}, DefaultOverlay(), paths, actual)
	var got []string
	for _, l := range lines {
		got = append(got, fmt.Sprintf("%s|%s|%s|%s|%s|%s", strings.TrimPrefix(l.Dst.String(), "invalid Prefix"), l.Node, l.How, l.Wanted, l.There, l.Why))
	}
	for _, a := range rest {
		got = append(got, a.String())
	}
	want := `|n4|-|||it has no pods' range yet
10.1.1.0/24|n1|direct|via 192.0.2.1|via 192.0.2.1|192.0.2.1 is on a link of this node
10.1.2.0/24|n2|direct|via 192.0.2.2||192.0.2.2 is on a link of this node; put route to 10.1.2.0/24 via 192.0.2.2: wanted
10.1.3.0/24|n3|-|||there is no way to 192.0.2.3
10.1.4.0/24||-||via 192.0.2.4|drop route to 10.1.4.0/24 via 192.0.2.4: no node needs it
drop rule for packets from 10.1.9.0/24: no node needs it`
	if d := cmp.Diff(want, strings.Join(got, "\n")); d != "" {
		t.Error(d)
	}
}
