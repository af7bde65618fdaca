package ebpf

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/bpf/socklb"
	"github.com/orlop-io/orlop/proxy"
)

// many is a model of n services with two endpoints each.
func many(n int) proxy.Model {
	m := proxy.Model{}
	for i := range n {
		a := netip.AddrFrom4([4]byte{10, byte(100 + i>>16), byte(i >> 8), byte(i)})
		m[fmt.Sprint(i)] = group(a, 1, 2)
	}
	return m
}

func group(a netip.Addr, x, y byte) *proxy.Group {
	b := a.As4()
	ep := func(z byte) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, z, b[2], b[3]}), 8080)
	}
	return &proxy.Group{Frontends: []proxy.Frontend{{Addr: a, Port: 80, Protocol: proxy.TCP, Scope: proxy.Inside}}, Backends: []netip.AddrPort{ep(x), ep(y)}}
}

func open(b *testing.B, pins, cgroup string) *Backend {
	b.Helper()
	lb, err := socklb.Open(socklb.Config{PinDir: pins, Cgroup: cgroup})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { lb.Close() })
	return New(lb, proxy.Inside)
}

// BenchmarkKernelFirstSync is 10,000 services into empty maps.
func BenchmarkKernelFirstSync(b *testing.B) {
	m, pins, group := many(10_000), netnstest.BPFFS(b), cgroup(b)
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		back := open(b, filepath.Join(pins, fmt.Sprint(i)), group)
		b.StartTimer()
		if err := back.Set(m); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkKernelOneChange is one endpoint of one service, among few and among many.
func BenchmarkKernelOneChange(b *testing.B) {
	for _, n := range []int{100, 50_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m := many(n)
			back := open(b, netnstest.BPFFS(b), cgroup(b))
			if err := back.Set(m); err != nil {
				b.Fatal(err)
			}
			a := m["77"].Frontends[0].Addr
			i := byte(0)
			for b.Loop() {
				i++
				if err := back.Apply(proxy.Change{Groups: maps.All(proxy.Model{"77": group(a, 2, 3+i%100)})}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
