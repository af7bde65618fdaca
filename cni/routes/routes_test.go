package routes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/vishvananda/netlink"
)

func dst(i int) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf("10.1.%d.0/24", i)) }
func via(i int) netip.Addr   { return netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", i)) }

func TestPlan(t *testing.T) {
	for _, tt := range []struct {
		name            string
		desired, actual Table
		want            []string
	}{
		{"new node", Table{dst(1): via(1)}, nil, []string{"route 10.1.1.0/24 via 192.0.2.1: node has these pods"}},
		{"nothing to do", Table{dst(1): via(1)}, Table{dst(1): via(1)}, nil},
		{"adds before it deletes", Table{dst(2): via(3)}, Table{dst(1): via(1), dst(2): via(2)}, []string{
			"route 10.1.2.0/24 via 192.0.2.3: node has these pods", "delete route to 10.1.1.0/24: no node has these pods"}},
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

// fakeKernel is a table that refuses now and then.
type fakeKernel struct {
	table Table
	fail  func() bool
}

func (k *fakeKernel) Routes() (Table, error) {
	if k.fail() {
		return Table{}, errors.New("dump was interrupted")
	}
	return maps.Clone(k.table), nil
}

func (k *fakeKernel) Apply(a Action) error {
	if k.fail() {
		return errors.New("refused")
	}
	if a.Via.IsValid() {
		k.table[a.Dst] = a.Via
	} else {
		delete(k.table, a.Dst)
	}
	return nil
}

func TestRunConvergesFromAnyStateToAny(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		random := func() Table {
			out := Table{}
			for range rnd.IntN(6) {
				out[dst(rnd.IntN(6))] = via(rnd.IntN(3) + 1)
			}
			return out
		}
		k := &fakeKernel{table: random(), fail: func() bool { return rnd.IntN(4) == 0 }}
		var want Table
		r, err := New(Config{Desired: func() (Table, bool) { return want, want != nil }, Resync: time.Minute, Log: slog.New(slog.DiscardHandler)}, k)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		before := maps.Clone(k.table)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		if d := cmp.Diff(before, k.table, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); d != "" {
			t.Errorf("changed before nodes were known: %s", d)
		}
		for range 50 {
			want = random()
			r.Poke()
			time.Sleep(time.Hour)
			synctest.Wait()
			if d := cmp.Diff(want, k.table, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); d != "" {
				t.Fatal(d)
			}
		}
		cancel()
		<-done
	})
}

func TestKernelRoutes(t *testing.T) {
	ns := netnstest.New(t)
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: "up0"})
	veth.PeerName = "up1"
	if err := ns.NL.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"up0", "up1"} {
		l, err := ns.NL.LinkByName(name)
		if err == nil {
			err = ns.NL.LinkSetUp(l)
		}
		if err == nil && i == 0 {
			err = ns.NL.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 100), Mask: net.CIDRMask(24, 32)}})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var k *Kernel
	if err := ns.Do(func() (err error) { k, err = Open(); return err }); err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	for _, want := range []Table{{dst(1): via(1), dst(2): via(2)}, {dst(1): via(3)}, {}} {
		actual, err := k.Routes()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range Plan(want, actual) {
			if err := k.Apply(a); err != nil {
				t.Fatalf("%s: %v", a, err)
			}
		}
		got, err := k.Routes()
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); d != "" {
			t.Error(d)
		}
	}
	if err := k.Apply(Action{Dst: dst(3), Via: netip.MustParseAddr("198.51.100.1")}); !errors.Is(err, ErrOffLink) {
		t.Errorf("a next hop off link: %v", err)
	}
}
