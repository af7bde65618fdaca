package modes

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/bpf/packetlb"
	"github.com/orlop-io/orlop/bpf/socklb"
	"github.com/orlop-io/orlop/proxy"
	"github.com/orlop-io/orlop/proxy/ebpf"
	"github.com/orlop-io/orlop/proxy/proxytest"
)

// both is the mode ebpf: programs in sockets, and on devices for packets whose sockets they do not see.
type both struct {
	*ebpf.Backend
	packets *packetlb.LB
	on      bool
}

func (b *both) Set(m proxy.Model) error {
	if err := b.Backend.Set(m); err != nil || b.on {
		return err
	}
	b.on = true
	_, err := b.packets.Sync(proxytest.NodeOf().Inside)
	return err
}

func TestKernelEBPF(t *testing.T) {
	netnstest.RequireRoot(t)
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	root, err := socklb.CgroupRoot(string(info))
	if err != nil {
		t.Fatal(err)
	}
	cgroup, pins := netnstest.Cgroup(t, root), filepath.Join(netnstest.BPFFS(t), "orlop")
	open := func(r *proxytest.Rig) proxytest.Backend {
		cookie, err := socklb.NetnsCookie()
		r.Must(err)
		lb, err := socklb.Open(socklb.Config{PinDir: pins, Cgroup: cgroup, NodeNetns: cookie})
		r.Must(err)
		own := proxytest.NodeOf().NodePorts
		r.Must(lb.SetNodes(own, own))
		packets, err := packetlb.Open(packetlb.Config{PinDir: pins, Flows: 1 << 15})
		r.Must(err)
		r.Must(packets.SetMasquerade(own))
		t.Cleanup(func() { packets.Close(); lb.Close() })
		return &both{Backend: ebpf.New(lb, proxy.Everywhere), packets: packets}
	}
	proxytest.Suite(t, proxytest.Mode{
		Name: proxy.ModeEBPF, Changes: 40, Lacks: proxy.Lacks(proxy.ModeEBPF), Cgroup: cgroup, KeepsSource: true, Open: open,
		Remove: func(*proxytest.Rig) error {
			if err := packetlb.Remove(pins); err != nil {
				return err
			}
			return socklb.Remove(pins)
		},
		Left: func(*proxytest.Rig) (string, error) {
			left, err := filepath.Glob(filepath.Join(pins, "*"))
			if err != nil || len(left) == 0 {
				return "", err
			}
			return fmt.Sprint(left), nil
		},
	})
}
