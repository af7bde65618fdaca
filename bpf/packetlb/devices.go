package packetlb

import (
	"cmp"
	"net/netip"
	"slices"
)

// Device is a device that packets of clients come by.
type Device struct {
	Index int
	Name  string
	Pod   bool // the node's end of a pod's link: packets from it are from inside
}

// Link is what the kernel says of a device.
type Link struct {
	Index    int
	Name     string
	Type     string // as "ip -d link" has it: veth, bridge, bond; "device" of hardware
	Master   int    // index of the bridge or bond that it is a port of; 0 none
	Ethernet bool   // packets have an Ethernet header
	Loopback bool
	Addrs    []netip.Addr // that other hosts can use
}

// DevicesOf chooses from all devices of a node those to attach to; pods are the ranges of the node's own pods. Each packet passes one
// of them on each side of the node's stack: a pod's veth, and on the side of the network what has no master, so not the ports of a bond but the bond. A bridge
// that pods hang on has its ports instead.
func DevicesOf(links []Link, pods []netip.Prefix) []Device {
	bridges := map[int]bool{}
	for _, l := range links {
		bridges[l.Index] = l.Type == "bridge"
	}
	inside := func(a netip.Addr) bool {
		return slices.ContainsFunc(pods, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	var out []Device
	for _, l := range links {
		outer := slices.ContainsFunc(l.Addrs, func(a netip.Addr) bool { return !inside(a) })
		switch {
		case l.Loopback || !l.Ethernet || l.Type == "ifb": // packets on an ifb are between a device and the node's stack
		case l.Type == "veth" && (l.Master != 0 && bridges[l.Master] || l.Master == 0 && !outer):
			out = append(out, Device{l.Index, l.Name, true})
		case l.Master != 0 || l.Type == "bridge" && !outer:
		default:
			out = append(out, Device{l.Index, l.Name, false})
		}
	}
	slices.SortFunc(out, func(a, b Device) int { return cmp.Compare(a.Index, b.Index) })
	return out
}
