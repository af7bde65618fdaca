package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/bpf/packetlb"
	"github.com/orlop-io/orlop/proxy/nft"
)

// The ways of --proxy-external in which packets that no hook in sockets sees are translated in ebpf mode.
const (
	externalTCX    = packetlb.TCX
	externalClsact = packetlb.Clsact
	externalNft    = "nft"
)

// outside is what translates packets of clients whose sockets no program sees, by programs on the node's devices. A nil one does nothing.
type outside struct {
	lb *packetlb.LB

	mu       sync.Mutex
	pods     []netip.Prefix // of this node
	attached bool
}

// openOutside decides how packets are translated beside sockets, by --proxy-external or by what the kernel can do; nil leaves them to nftables. The maps
// of services must be open.
func openOutside(o options, log *slog.Logger) (*outside, error) {
	cfg := packetlb.Config{PinDir: o.pinDir, Flows: flowsFor(ram())}
	switch o.proxyExternal {
	case "":
	case externalNft:
		return nil, nil
	case externalTCX, externalClsact:
		cfg.Attach = o.proxyExternal
	default:
		return nil, fmt.Errorf(`--proxy-external=%s is not supported: give "tcx", "clsact" or "nft", or leave it out for the first of them that this kernel can`, o.proxyExternal)
	}
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		cfg.FirstPort, cfg.LastPort, err = packetlb.PortsBeside(string(text))
	}
	if err == nil {
		var lb *packetlb.LB
		if lb, err = packetlb.Open(cfg); err == nil {
			return &outside{lb: lb}, nil
		}
	}
	if o.proxyExternal != "" {
		return nil, err
	}
	log.Warn("packets from outside are translated by nftables: BPF programs on devices cannot do it here", "why", err)
	return nil, nil
}

// ram is how many bytes the node has; 0 not known.
func ram() uint64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return info.Totalram * uint64(info.Unit)
}

// flowsFor is how many parts of flows a node of that memory keeps: an eighth of a percent of it, between 10 and 160 MB.
func flowsFor(memory uint64) uint32 { return uint32(min(max(memory/(128<<10), 1<<16), 1<<20)) }

// way is a word of --proxy-external.
func (x *outside) way() string {
	if x == nil {
		return externalNft
	}
	return x.lb.Attachment()
}

// setNode says what the node is now.
func (x *outside) setNode(pods []netip.Prefix, addrs []netip.Addr) error {
	if x == nil {
		return nil
	}
	x.mu.Lock()
	x.pods = slices.Clone(pods)
	x.mu.Unlock()
	defer x.lb.Poke()
	return x.lb.SetMasquerade(addrs)
}

func (x *outside) podRanges() []netip.Prefix {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.pods
}

// attach puts the programs in charge, once the maps hold all services, and ends what nftables did in their place. A device that does not take them is
// tried again, and told of, by follow; the others must not wait for it.
func (x *outside) attach() error {
	if x == nil || x.attached {
		return nil
	}
	on, err := x.sync()
	if !slices.ContainsFunc(on, func(d packetlb.Device) bool { return !d.Pod }) {
		return errors.Join(err, errors.New("no device to the network has the programs that translate services"))
	}
	if err := nft.Remove(); err != nil {
		return err
	}
	x.attached = true
	return nil
}

// sync attaches the programs to the devices there are now. The calling thread is in the node's network namespace.
func (x *outside) sync() ([]packetlb.Device, error) { return x.lb.Sync(x.podRanges()) }

// follow keeps the programs on devices that come and go, once services are in force.
func (x *outside) follow(ctx context.Context, proxying <-chan struct{}, log *slog.Logger) error {
	if x == nil {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-proxying:
	}
	return x.lb.Follow(ctx, x.podRanges, log)
}

func (x *outside) close() error {
	if x == nil {
		return nil
	}
	return x.lb.Close()
}
