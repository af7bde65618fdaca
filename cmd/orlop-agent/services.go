package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/orlop-io/orlop/bpf/packetlb"
	"github.com/orlop-io/orlop/bpf/socklb"
	"github.com/orlop-io/orlop/cni/sysctl"
	"github.com/orlop-io/orlop/proxy"
	"github.com/orlop-io/orlop/proxy/ebpf"
	"github.com/orlop-io/orlop/proxy/nft"
)

// The modes of --proxy-mode that are built; nftables is kube-proxy's word.
const (
	modeEBPF     = "ebpf"
	modeNftables = "nftables"
	modeNone     = "none" // of an agent that leaves services to somebody else
)

// services is what translates on this node: in sockets with packets from outside beside them, or all by packets.
type services struct {
	mode    string
	lb      *socklb.LB // nil where no sockets are translated
	sockets *ebpf.Backend
	outside *outside     // nil where packets translates what comes from outside
	packets *nft.Backend // nil where outside does
	log     *slog.Logger
	pinDir  string
	swept   bool // what another mode left is gone
}

// openServices decides the mode, by --proxy-mode or by what the kernel can do. It changes nothing that is in force.
func openServices(o options, log *slog.Logger) (*services, error) {
	s := &services{mode: o.proxyMode, log: log, pinDir: o.pinDir}
	if !o.proxy {
		s.mode = modeNone
		return s, nil
	}
	switch o.proxyMode {
	case "", modeEBPF:
		lb, err := openLB(o)
		switch {
		case err == nil:
			s.mode, s.lb = modeEBPF, lb
			return s, s.openPackets(o)
		case o.proxyMode == modeEBPF || !errors.Is(err, socklb.ErrUnsupported):
			return nil, err
		}
		log.Warn("services are translated by nftables: the kernel cannot do it in sockets", "why", err)
		s.mode = modeNftables
	case modeNftables:
	case "ipvs":
		return nil, errors.New(`--proxy-mode=ipvs is not supported, as upstream has deprecated it: give "ebpf" or "nftables", or leave it out`)
	default:
		return nil, fmt.Errorf(`--proxy-mode=%s is not supported: give "ebpf" or "nftables", or leave it out for the better of them that this kernel can`, o.proxyMode)
	}
	s.packets = nft.New(proxy.Everywhere)
	return s, nil
}

// openPackets decides how packets are translated that no hook in sockets sees.
func (s *services) openPackets(o options) (err error) {
	if s.outside, err = openOutside(o, s.log); err != nil {
		s.Close()
		return err
	}
	if s.outside != nil {
		s.sockets = ebpf.New(s.lb, proxy.Everywhere)
		return nil
	}
	s.sockets, s.packets = ebpf.New(s.lb, proxy.Inside), nft.New(proxy.Outside)
	return nil
}

// bridgedPackets has the kernel show packets between pods of a bridge to netfilter: the answer to a translated one must be translated back.
func bridgedPackets(kernel sysctl.Ledger, log *slog.Logger) error {
	for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		err := kernel.Set("net/bridge/"+name, "1")
		if errors.Is(err, fs.ErrNotExist) {
			log.Warn("load the kernel module br_netfilter: without it a pod may not reach a Service whose endpoint is on its own node", "sysctl", name)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Set implements the proxy's backend. What the mode of an earlier process left goes once this one's holds everything.
func (s *services) Set(m proxy.Model) error {
	var errs []error
	if s.sockets != nil {
		errs = append(errs, s.sockets.Set(m))
	}
	if s.packets != nil {
		errs = append(errs, s.packets.Set(m))
	}
	if err := errors.Join(errs...); err != nil || s.swept {
		return err
	}
	if err := s.outside.attach(); err != nil {
		return err
	}
	if s.outside == nil {
		if err := packetlb.Remove(s.pinDir); err != nil {
			return err
		}
	}
	if s.sockets == nil {
		if err := socklb.Remove(s.pinDir); err != nil {
			return err
		}
	}
	s.swept = true
	return nil
}

// Sweep implements the proxy's backend.
func (s *services) Sweep(now time.Time) (more bool, err error) {
	if s.sockets != nil {
		if more, err = s.sockets.Sweep(now); err != nil {
			return more, err
		}
	}
	if s.packets == nil {
		return more, nil
	}
	again, err := s.packets.Sweep(now)
	return more || again, err
}

// setNode says what the nodes are now. Node ports are asked at the primary addresses of this node, its first InternalIP of each family; sockets of the
// cluster may ask at every node's.
func (s *services) setNode(c *cluster) (again bool, err error) {
	if s.mode == modeNone {
		return false, nil
	}
	if s.lb != nil {
		if err := s.lb.SetNodes(c.addrs, primary(c.inner)); err != nil {
			return false, err
		}
	}
	if err := s.outside.setNode(c.podCIDRs, primary(c.inner)); err != nil {
		return false, err
	}
	if s.packets == nil {
		return false, nil
	}
	return s.packets.SetNode(proxy.Node{Inside: c.podCIDRs, NodePorts: primary(c.inner)}), nil
}

func primary(addrs []netip.Addr) (out []netip.Addr) {
	for _, v4 := range []bool{true, false} {
		if i := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Is4() == v4 }); i >= 0 {
			out = append(out, addrs[i])
		}
	}
	return out
}

// external is how packets from outside are translated.
func (s *services) external() string {
	switch s.mode {
	case modeEBPF:
		return s.outside.way()
	case modeNftables:
		return externalNft
	default:
		return s.mode
	}
}

// Close closes files; what is in force stays.
func (s *services) Close() {
	s.outside.close()
	if s.lb != nil {
		s.lb.Close()
	}
}
