package proxy

import (
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// Protocol is an IP protocol number.
type Protocol uint8

// The protocols that backends translate.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

// Service is what the model needs to know of a Service.
type Service struct {
	Key        string // namespace/name
	ClusterIPs []netip.Addr
	// LoadBalancerIPs are reached from here as the service itself, without the way over the balancer.
	LoadBalancerIPs []netip.Addr
	Ports           []Port
	InternalLocal   bool          // clients of the cluster IPs get endpoints of their own node only
	Affinity        time.Duration // a client stays with its endpoint; 0 not at all
}

// Port is one port of a Service.
type Port struct {
	Name     string
	Protocol Protocol
	Port     uint16
	NodePort uint16 // 0: none
}

// Slice is one of the lists of endpoints that a service has.
type Slice struct {
	Service   string // key of the service
	Ports     []SlicePort
	Endpoints []Endpoint
}

// SlicePort is where the endpoints of a slice answer for a port of the service.
type SlicePort struct {
	Name     string
	Protocol Protocol
	Port     uint16
}

// Endpoint is one pod, or whatever answers.
type Endpoint struct {
	Addrs       []netip.Addr
	Ready       bool
	Serving     bool
	Terminating bool
	Local       bool // on this node
}

// Frontend is an address that clients ask for. An unspecified address is every address of the nodes in its family: a node port.
type Frontend struct {
	Addr     netip.Addr
	Port     uint16
	Protocol Protocol
}

// Group is frontends that lead to the same backends. It is not changed once made.
type Group struct {
	Frontends []Frontend
	Backends  []netip.AddrPort // sorted; none: connections are refused
	Affinity  time.Duration
}

// Model is everything a node translates, by a name that a group keeps when its endpoints change.
type Model map[string]*Group

// groups is what one service adds to the model. Node ports and balancer addresses count as the cluster's own traffic, whatever
// the external traffic policy: what the model serves are sockets of the node and its pods.
func groups(svc Service, list []Slice) Model {
	out := Model{}
	for _, port := range svc.Ports {
		for _, v4 := range []bool{true, false} {
			cluster := frontends(svc.ClusterIPs, v4, port.Protocol, port.Port)
			outer := frontends(svc.LoadBalancerIPs, v4, port.Protocol, port.Port)
			if port.NodePort != 0 && len(cluster) > 0 {
				outer = append(outer, Frontend{Addr: unspecified(v4), Port: port.NodePort, Protocol: port.Protocol})
			}
			name := svc.Key + ":" + strconv.Itoa(int(port.Port)) + "/" + strconv.Itoa(int(port.Protocol)) + family(v4)
			if svc.InternalLocal {
				out.add(name+"/local", cluster, backends(list, port, v4, true), svc.Affinity)
				cluster = nil
			}
			out.add(name, append(cluster, outer...), backends(list, port, v4, false), svc.Affinity)
		}
	}
	return out
}

func (m Model) add(name string, fs []Frontend, bs []netip.AddrPort, affinity time.Duration) {
	if len(fs) > 0 {
		m[name] = &Group{Frontends: fs, Backends: bs, Affinity: affinity}
	}
}

func frontends(addrs []netip.Addr, v4 bool, proto Protocol, port uint16) []Frontend {
	var out []Frontend
	for _, a := range addrs {
		if a.Is4() == v4 {
			out = append(out, Frontend{Addr: a, Port: port, Protocol: proto})
		}
	}
	return out
}

// backends are the ready endpoints, or, when there is none, those that still serve while they end.
func backends(list []Slice, port Port, v4, localOnly bool) []netip.AddrPort {
	var ready, ending []netip.AddrPort
	for _, s := range list {
		i := slices.IndexFunc(s.Ports, func(p SlicePort) bool { return p.Name == port.Name && p.Protocol == port.Protocol })
		if i < 0 {
			continue
		}
		for _, e := range s.Endpoints {
			if localOnly && !e.Local {
				continue
			}
			for _, a := range e.Addrs {
				ap := netip.AddrPortFrom(a, s.Ports[i].Port)
				switch {
				case a.Is4() != v4:
				case e.Ready:
					ready = append(ready, ap)
				case e.Serving && e.Terminating:
					ending = append(ending, ap)
				}
			}
		}
	}
	if len(ready) == 0 {
		ready = ending
	}
	slices.SortFunc(ready, netip.AddrPort.Compare)
	return slices.Compact(ready)
}

func unspecified(v4 bool) netip.Addr {
	if v4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func family(v4 bool) string {
	if v4 {
		return "/4"
	}
	return "/6"
}
