package ebpf

import (
	"testing"

	"github.com/orlop-io/orlop/proxy"
)

// named is a model whose groups are of ports of the service default/web.
func named(m proxy.Model) proxy.Model {
	for name, g := range m {
		g.Port = "default/web:" + name
	}
	return m
}

func TestKernelTrafficOfSockets(t *testing.T) {
	r := newRig(t)
	r.set(named(service(0, 1, 2)))
	r.ask(order{Network: "tcp", Addr: vip + ":80", Times: 7})
	r.ask(order{Network: "tcp", Addr: "127.0.0.1:30080", Times: 3})
	r.ask(order{Network: "udp-any", Addr: vip + ":80", Times: 20}) // one flow, or one of each endpoint
	want := func(port string, connections, failures uint64) {
		t.Helper()
		all, err := r.b.Traffic()
		if got := all[port]; err != nil || got != (proxy.Traffic{Connections: connections, Failures: failures}) {
			t.Errorf("%s: %+v, %v; want %d and %d", port, got, err, connections, failures)
		}
	}
	want("default/web:4/TCP", 10, 0)
	want("default/web:4/UDP", 1, 0)
	want("default/web:6/TCP", 0, 0)

	// It outlives the process, and endpoints; no endpoint is a failure.
	r.open()
	r.set(named(service(0)))
	r.ask(order{Network: "tcp", Addr: vip + ":80", Times: 5})
	want("default/web:4/TCP", 10, 5)

	// It does not outlive the service.
	r.set(proxy.Model{})
	if all, err := r.b.Traffic(); err != nil || len(all) != 0 {
		t.Errorf("%v, %v: want none", all, err)
	}
	r.open()
	r.set(named(service(0, 1)))
	want("default/web:4/TCP", 0, 0)
}

// Each way is counted once, though what is masqueraded is translated twice.
func TestKernelTrafficOfPackets(t *testing.T) {
	f := newField(t, "")
	for _, pod := range []int{1, 3} { // on the node, and on another
		f.set(named(published(nil, pod)))
		before, err := f.b.Traffic()
		if err != nil {
			t.Fatal(err)
		}
		for _, network := range []string{"tcp", "udp"} {
			if got := f.client.Ask(network, "192.0.2.1:30080", 10); len(got.Failed) != 0 {
				t.Fatalf("%s: %+v", network, got)
			}
		}
		all, err := f.b.Traffic()
		if err != nil {
			t.Fatal(err)
		}
		udp := all["default/web:4/UDP"].Minus(before["default/web:4/UDP"])
		if udp.Connections != 10 || udp.PacketsIn != 10 || udp.PacketsOut != 10 || udp.BytesIn < 10*28 || udp.BytesIn > 10*100 || udp.BytesOut < 10*28 || udp.Failures != 0 {
			t.Errorf("UDP to pod %d: %+v", pod, udp)
		}
		tcp := all["default/web:4/TCP"].Minus(before["default/web:4/TCP"])
		if tcp.Connections != 10 || tcp.PacketsIn < 30 || tcp.PacketsOut < 20 || tcp.BytesIn < 30*40 || tcp.Failures != 0 {
			t.Errorf("TCP to pod %d: %+v", pod, tcp)
		}
	}
	f.set(named(published(nil)))
	f.client.Ask("udp", "192.0.2.1:30080", 3)
	if all, err := f.b.Traffic(); err != nil || all["default/web:4/UDP"].Failures < 3 || all["default/web:4/UDP"].Connections != 20 {
		t.Errorf("without endpoints: %+v, %v", all, err)
	}
}
