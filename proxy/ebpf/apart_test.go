package ebpf

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/bpf/socklb"
)

// apart has the sockets of namespaces left as they are.
func (f *field) apart(list ...*netnstest.NS) {
	f.t.Helper()
	var a socklb.Apart
	for _, ns := range list {
		f.node.Must(ns.Do(func() error {
			cookie, err := socklb.NetnsCookie()
			a.Netns = append(a.Netns, cookie)
			return err
		}))
	}
	f.node.Must(f.svc.SetApart(a))
}

// inSockets says how many calls were translated, and inPackets how many flows were begun, and how many packets went with those.
func (f *field) inSockets() uint64 {
	f.t.Helper()
	all, err := f.svc.Counters()
	f.node.Must(err)
	return all["translated"] + all["affinity"]
}

func (f *field) inPackets() (begun, known uint64) {
	all := f.counters()
	return all["started"], all["request"]
}

// A pod whose sockets are left as they are reaches services all the same, by its packets, and others as before; a restart does not change that.
func TestKernelPodsSetApart(t *testing.T) {
	f := newField(t, "")
	f.set(published(nil, 1, 2, 3))
	clients := &rig{t: t, cgroup: f.cgroup}
	check := func(ns *netnstest.NS, sockets bool, network, addr string) {
		t.Helper()
		inSockets := f.inSockets()
		begun, known := f.inPackets()
		got := clients.client(ns, order{Network: network, Addr: addr, Times: 8})()
		if len(got.Errors) > 0 || got.Peers[addr] != 8 && network != "tcp" { // whose connections may be over by then
			t.Errorf("%s %s: %+v %v", network, addr, got, f.counters())
		}
		nowBegun, nowKnown := f.inPackets()
		bySockets, byPackets := f.inSockets() > inSockets, nowBegun > begun
		if !sockets { // the port may be one that an earlier client had, whose flow is known; and late packets of others are no sign
			byPackets = byPackets || nowKnown > known
		}
		if bySockets != sockets || byPackets == sockets {
			t.Errorf("%s %s: translated in sockets %v, in packets %v", network, addr, bySockets, byPackets)
		}
	}
	f.apart(f.pods[0])
	for _, network := range []string{"tcp", "udp", "udp-any"} {
		for _, addr := range []string{vip + ":80", "[" + vip6 + "]:80", "192.0.2.1:30080"} {
			check(f.pods[0], false, network, addr)
		}
		check(f.pods[1], true, network, vip+":80")
	}
	f.apart(f.pods[1])
	check(f.pods[0], true, "udp", vip+":80")
	check(f.pods[1], false, "udp", vip+":80")
	f.open() // a restart, and nobody says anything yet
	check(f.pods[1], false, "tcp", vip+":80")
	f.set(published(nil, 1, 2, 3))
	check(f.pods[1], false, "tcp", vip+":80")
	f.apart()
	check(f.pods[1], true, "tcp", vip+":80")
}

// Where the node's own sockets alone are translated, pods' packets are.
func TestKernelPodsAllApart(t *testing.T) {
	f := newField(t, "")
	f.set(published(nil, 1, 2, 3))
	var cookie uint64
	f.node.Must(f.node.Do(func() (err error) {
		cookie, err = socklb.NetnsCookie()
		return err
	}))
	f.svc.Close()
	svc, err := socklb.Open(socklb.Config{PinDir: f.pins, Cgroup: f.cgroup, NodeNetns: cookie})
	f.node.Must(err)
	f.svc = svc
	f.node.Must(errors.Join(f.svc.SetApart(socklb.Apart{Pods: true}), f.svc.Attach()))
	clients := &rig{t: t, cgroup: f.cgroup}
	for _, tt := range []struct {
		ns      *netnstest.NS
		sockets bool
	}{{f.pods[0], false}, {f.node, true}} {
		before := f.inSockets()
		got := clients.client(tt.ns, order{Network: "tcp", Addr: vip + ":80", Times: 5})()
		if len(got.Errors) > 0 || (f.inSockets() > before) != tt.sockets {
			t.Errorf("translated in sockets: %v; %+v", f.inSockets() > before, got)
		}
	}
}

// A mesh's rule in the pod leads what its application sends for a service to the sidecar, which hears whom it asked for; without opting out it sees an endpoint.
func TestKernelSidecarSeesTheServicesAddress(t *testing.T) {
	f := newField(t, "")
	f.set(published(nil, 2))
	pod := f.pods[0]
	l, sidecar := net.Listener(nil), "sidecar"
	pod.Must(pod.Do(func() (err error) {
		l, err = net.Listen("tcp", "0.0.0.0:15001")
		return err
	}))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte(sidecar))
			c.Close()
		}
	}()
	rules := exec.Command("nft", "-f", "-")
	rules.Stdin = strings.NewReader(fmt.Sprintf("table ip mesh {\n chain out {\n type nat hook output priority -100;\n ip daddr %s tcp dport 80 redirect to :15001\n }\n}\n", vip))
	pod.Must(pod.Start(rules))
	pod.Must(rules.Wait())
	clients := &rig{t: t, cgroup: f.cgroup}
	ask := func() map[string]int {
		return clients.client(pod, order{Network: "tcp", Addr: vip + ":80", Times: 3})().Answers
	}
	if got := ask(); got[sidecar] != 0 {
		t.Errorf("without opting out: %v", got)
	}
	f.apart(pod)
	if got := ask(); got[sidecar] != 3 {
		t.Errorf("%v, want the sidecar", got)
	}
	// What the sidecar sends on by an address of a service, of which no rule of its takes hold, is translated at the link.
	if got := clients.client(pod, order{Network: "tcp", Addr: "192.0.2.1:30080", Times: 3})(); len(got.Errors) > 0 || f.counters()["started"] == 0 {
		t.Errorf("%+v %v", got, f.counters())
	}
}

// One pod's asking by packets has no other pod's looked at.
func TestKernelQuietPodsStayQuiet(t *testing.T) {
	f := newField(t, "")
	f.set(published(nil, 3))
	f.apart(f.pods[0])
	clients := &rig{t: t, cgroup: f.cgroup}
	if got := clients.client(f.pods[0], order{Network: "tcp", Addr: vip + ":80", Times: 3})(); len(got.Errors) > 0 {
		t.Fatalf("%+v", got)
	}
	links, err := f.lb.AskedAt()
	f.node.Must(err)
	if want := f.node.Link("orl1").Attrs().Index; len(links) != 1 || links[0] != want {
		t.Errorf("looked at: %v, want %d alone", links, want)
	}
}
