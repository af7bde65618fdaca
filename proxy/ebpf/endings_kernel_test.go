package ebpf

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/bpf/podnet"
	"github.com/orlop-io/orlop/bpf/sockend"
	"github.com/orlop-io/orlop/proxy"
)

// endSockets has the rig's backend end sockets, and returns what looks for them at once.
func (r *rig) endSockets() (look func(after time.Duration)) {
	r.t.Helper()
	find, err := r.lb.Finder()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { find.Close() })
	ender, err := sockend.Open(podnet.Config{Proc: "/proc"})
	if err != nil {
		r.t.Fatal(err)
	}
	r.b.EndSockets(func() error {
		list, err := find.Find()
		if err != nil {
			return err
		}
		_, missed, err := ender.End(list)
		if len(missed) > 0 {
			r.t.Errorf("network namespaces %v were not found", missed)
		}
		return err
	})
	return func(after time.Duration) {
		r.t.Helper()
		if _, err := r.b.Sweep(time.Now().Add(after)); err != nil {
			r.t.Fatal(err)
		}
	}
}

// A connected socket of UDP is ended when its backend goes, wherever it is, and no other; one of TCP when its backend is in no slice any more.
func TestKernelSocketsEndWithTheirBackend(t *testing.T) {
	r := newRig(t)
	pod := netnstest.New(t)
	r.node.Join("pod", "", pod, "eth0")
	r.node.Forward()
	r.node.Addrs("pod", "10.20.0.1/24", "fd20::1/64")
	pod.Addrs("eth0", "10.20.0.2/24", "fd20::2/64")
	pod.Route("default", "10.20.0.1")
	pod.Route("default", "fd20::1")
	// For so many seconds MPTCP waits for another way after its last one; for 60 where that cannot be set (Linux 6.11).
	_, err := os.Stat("/proc/sys/net/mptcp/close_timeout")
	waits := err == nil
	if waits {
		r.node.Sysctl("mptcp/close_timeout", "1")
		pod.Sysctl("mptcp/close_timeout", "1")
	}
	look := r.endSockets()
	with := func(leaving []int, last ...int) proxy.Model {
		m := service(0, last...)
		v4, v6 := backends(leaving...)
		m[fmt.Sprint("4/", proxy.TCP)].Leaving, m[fmt.Sprint("6/", proxy.TCP)].Leaving = v4, v6
		return m
	}
	r.set(with(nil, 1))
	hold := func(ns *netnstest.NS, network, addr string) func() outcome {
		return r.client(ns, order{Network: network + "-hold", Addr: addr, UntilEOF: true})
	}
	type held struct {
		name   string
		finish func() outcome
	}
	var udp, tcp, others []held
	for where, ns := range map[string]*netnstest.NS{"node": r.node, "pod": pod} {
		for _, at := range []string{vip + ":80", "[" + vip6 + "]:80", "[::ffff:" + vip + "]:80"} {
			udp = append(udp, held{where + " udp " + at, hold(ns, "udp", at)})
			tcp = append(tcp, held{where + " tcp " + at, hold(ns, "tcp", at)})
		}
		if waits {
			tcp = append(tcp, held{where + " mptcp", hold(ns, "mptcp", vip+":80")})
		}
		for _, network := range []string{"udp", "tcp"} { // not by the service
			others = append(others, held{where + " direct " + network, hold(ns, network, "10.10.0.1:8080")})
		}
	}
	time.Sleep(300 * time.Millisecond)
	look(0) // nothing has gone
	r.set(with([]int{1}, 2))
	look(2 * time.Second)
	time.Sleep(100 * time.Millisecond)
	for _, h := range udp {
		got := h.finish()
		if got.Answers["10.10.0.1"]+got.Answers["fd10::1"] == 0 || got.Errors[syscall.ECONNABORTED.Error()]+got.Errors[syscall.EDESTADDRREQ.Error()] != 1 {
			t.Errorf("%s: %+v, want it ended", h.name, got)
		}
	}
	stays := hold(pod, "udp", vip+":80")
	time.Sleep(100 * time.Millisecond)
	r.set(with(nil, 2))
	look(0) // a moment of doubt
	look(doubt + 2*time.Second)
	time.Sleep(100 * time.Millisecond)
	for _, h := range tcp {
		got := h.finish()
		if got.Answers["10.10.0.1"]+got.Answers["fd10::1"] == 0 || got.Errors[syscall.ECONNABORTED.Error()]+got.Errors[syscall.ENOTCONN.Error()] != 1 {
			t.Errorf("%s: %+v, want it ended", h.name, got)
		}
	}
	for _, h := range append(others, held{"udp to the one there is", stays}) {
		if got := h.finish(); len(got.Errors) != 0 || len(got.Answers) != 1 {
			t.Errorf("%s: %+v, want it left alone", h.name, got)
		}
	}
}
