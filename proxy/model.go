package proxy

import (
	"maps"
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

	sctp Protocol = 132 // no backend has it: a Service that does is refused
)

// Service is what the model needs to know of a Service.
type Service struct {
	Key        string // namespace/name
	ClusterIPs []netip.Addr
	// LoadBalancerIPs are reached from here as the service itself, without the way over the balancer.
	LoadBalancerIPs []netip.Addr
	ExternalIPs     []netip.Addr
	SourceRanges    []netip.Prefix // who may ask the LoadBalancerIPs from outside; none: everybody
	Ports           []Port
	InternalLocal   bool          // clients of the cluster IPs get endpoints of their own node only
	ExternalLocal   bool          // clients outside the cluster get endpoints of the node they ask, and are seen by their own address
	Affinity        time.Duration // a client stays with its endpoint; 0 not at all
	HealthCheckPort uint16        // where a balancer asks whether this node has endpoints; 0 nowhere
}

// HealthCheck is what a balancer learns of a service at its healthCheckNodePort.
type HealthCheck struct {
	Service   string // namespace/name
	Port      uint16
	Endpoints int // that are on this node, and ready: one that ends is to be drained
}

// healthCheck is that of a service; ok is false where none is asked for.
func healthCheck(svc Service, list []Slice) (_ HealthCheck, ok bool) {
	if svc.HealthCheckPort == 0 || !svc.ExternalLocal {
		return HealthCheck{}, false
	}
	here := map[netip.Addr]bool{}
	for _, s := range list {
		for _, e := range s.Endpoints {
			if e.Local && e.Ready && len(e.Addrs) > 0 {
				here[e.Addrs[0]] = true
			}
		}
	}
	return HealthCheck{svc.Key, svc.HealthCheckPort, len(here)}, true
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
	Triggered time.Time // when what it tells had happened; zero: it does not say
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
	Local       bool     // on this node
	ForNodes    []string // nodes that should prefer it; none: nothing is said
	ForZones    []string // zones that should prefer it; none: nothing is said
}

// Place is where a node is, as hints of endpoints speak of it.
type Place struct {
	Node string
	Zone string // "" not known
}

// Scope is from where an address is asked for.
type Scope uint8

// Inside is by sockets of this node and of its pods, Outside by packets that come to the node from elsewhere.
const (
	Inside Scope = 1 << iota
	Outside
	Everywhere = Inside | Outside
)

// Frontend is an address that clients ask for. An unspecified address is every address of the nodes in its family: a node port.
type Frontend struct {
	Addr     netip.Addr
	Port     uint16
	Protocol Protocol
	Scope    Scope
}

// Node is what backends that translate packets need to know of the node.
type Node struct {
	Inside    []netip.Prefix // addresses of this node's own pods
	NodePorts []netip.Addr   // this node's addresses that node ports are asked at
}

// Equal tells whether two nodes are the same.
func (n Node) Equal(o Node) bool {
	return slices.Equal(n.Inside, o.Inside) && slices.Equal(n.NodePorts, o.NodePorts)
}

// Clone returns a copy that shares nothing.
func (n Node) Clone() Node { return Node{slices.Clone(n.Inside), slices.Clone(n.NodePorts)} }

// Group is frontends that lead to the same backends. It is not changed once made.
type Group struct {
	// Port is the port of a service that this is of, as kube-proxy writes it: namespace/name:port, or namespace/name of a port without a name.
	Port      string
	Frontends []Frontend
	Backends  []netip.AddrPort // sorted; none: connections are refused
	// Leaving are endpoints that get no new connections and keep those that they have: of TCP all others that the service has, as while they
	// end, of UDP those that are ready. Sorted.
	Leaving  []netip.AddrPort
	Here     []netip.Addr // those of the backends' addresses that are on this node, sorted
	Affinity time.Duration
	Sources  []netip.Prefix // who may ask from outside; none: everybody
	// KeepSource says that backends see the address of a client outside. With no backends its packets are dropped and not
	// refused: a balancer then tries the next node.
	KeepSource bool
}

// Model is everything a node translates, by a name that a group keeps when its endpoints change.
type Model map[string]*Group

// groups is what one service adds to the model of a node. Whatever the external traffic policy, the cluster's own
// traffic to node ports and balancer addresses may go to every endpoint, as it never leaves the cluster.
func groups(svc Service, list []Slice, at Place) Model {
	out := Model{}
	for _, port := range svc.Ports {
		for _, v4 := range []bool{true, false} {
			cluster := frontends(svc.ClusterIPs, v4, port, Inside)
			balanced := frontends(svc.LoadBalancerIPs, v4, port, Everywhere)
			outer := frontends(svc.ExternalIPs, v4, port, Everywhere)
			if port.NodePort != 0 && len(cluster) > 0 {
				outer = append(outer, Frontend{Addr: unspecified(v4), Port: port.NodePort, Protocol: port.Protocol, Scope: Everywhere})
			}
			if len(cluster)+len(balanced)+len(outer) == 0 {
				continue
			}
			name := groupName(svc, port, v4)
			all := endpoints(list, port, v4)
			local, whole := all.local().group(svc.Affinity), all.near(at).group(svc.Affinity)
			local.Leaving, whole.Leaving = all.leaving(port.Protocol, local.Backends), all.leaving(port.Protocol, whole.Backends)
			local.Port, whole.Port = svc.Key+suffix(port.Name), svc.Key+suffix(port.Name)
			if svc.InternalLocal {
				out.add(name+"/local", local, cluster)
				cluster = nil
			}
			if svc.ExternalLocal {
				local.KeepSource = true
				out.add(name+"/outside", local, scoped(outer, Outside))
				out.add(name+"/balancer", local.only(svc.SourceRanges), scoped(balanced, Outside))
				outer, balanced = scoped(outer, Inside), scoped(balanced, Inside)
			} else if len(svc.SourceRanges) > 0 {
				out.add(name+"/balancer", whole.only(svc.SourceRanges), scoped(balanced, Outside))
				balanced = scoped(balanced, Inside)
			}
			out.add(name, whole, slices.Concat(cluster, balanced, outer))
		}
	}
	return out
}

// groupNames are all that the groups of a service may have, whatever its endpoints are.
func groupNames(svc Service) []string { return slices.Collect(maps.Keys(groups(svc, nil, Place{}))) }

// groupName is what the names of the groups of a port begin with.
func groupName(svc Service, port Port, v4 bool) string {
	return svc.Key + ":" + strconv.Itoa(int(port.Port)) + "/" + strconv.Itoa(int(port.Protocol)) + family(v4)
}

func (m Model) add(name string, g Group, fs []Frontend) {
	if len(fs) > 0 {
		g.Frontends = fs
		m[name] = &g
	}
}

func (g Group) only(sources []netip.Prefix) Group {
	g.Sources = sources
	return g
}

func frontends(addrs []netip.Addr, v4 bool, port Port, scope Scope) []Frontend {
	var out []Frontend
	for _, a := range addrs {
		if a.Is4() == v4 {
			out = append(out, Frontend{Addr: a, Port: port.Port, Protocol: port.Protocol, Scope: scope})
		}
	}
	return out
}

func scoped(list []Frontend, scope Scope) []Frontend {
	out := slices.Clone(list)
	for i := range out {
		out[i].Scope = scope
	}
	return out
}

// candidate is an endpoint with its address in one family, for one port.
type candidate struct {
	at netip.AddrPort
	*Endpoint
}

type candidates []candidate

func endpoints(list []Slice, port Port, v4 bool) (out candidates) {
	for _, s := range list {
		i := slices.IndexFunc(s.Ports, func(p SlicePort) bool { return p.Name == port.Name && p.Protocol == port.Protocol })
		if i < 0 {
			continue
		}
		for j := range s.Endpoints {
			for _, a := range s.Endpoints[j].Addrs {
				if a.Is4() == v4 {
					out = append(out, candidate{netip.AddrPortFrom(a, s.Ports[i].Port), &s.Endpoints[j]})
				}
			}
		}
	}
	return out
}

func (cs candidates) which(wanted func(*Endpoint) bool) (out candidates) {
	for _, c := range cs {
		if wanted(c.Endpoint) {
			out = append(out, c)
		}
	}
	return out
}

func (cs candidates) all(holds func(*Endpoint) bool) bool {
	return !slices.ContainsFunc(cs, func(c candidate) bool { return !holds(c.Endpoint) })
}

// local are the usable ones of this node.
func (cs candidates) local() candidates {
	return cs.which(func(e *Endpoint) bool { return e.Local }).usable()
}

func (cs candidates) ready() candidates { return cs.which(func(e *Endpoint) bool { return e.Ready }) }

// usable are the ready endpoints, or, when there is none, those that still serve while they end (KEP-1669).
func (cs candidates) usable() candidates {
	if ready := cs.ready(); len(ready) > 0 {
		return ready
	}
	return cs.which(func(e *Endpoint) bool { return e.Serving && e.Terminating })
}

// near are the usable endpoints that hints give to this place (KEP-2433, KEP-3015): those for the node, or else those for its
// zone. Hints count only where every endpoint has them and one is for this place, so that a client always finds one.
func (cs candidates) near(at Place) candidates {
	ready := cs.ready()
	if ready.all(func(e *Endpoint) bool { return len(e.ForNodes) > 0 }) {
		if here := ready.which(func(e *Endpoint) bool { return slices.Contains(e.ForNodes, at.Node) }); len(here) > 0 {
			return here
		}
	}
	if at.Zone != "" && ready.all(func(e *Endpoint) bool { return len(e.ForZones) > 0 }) {
		if here := ready.which(func(e *Endpoint) bool { return slices.Contains(e.ForZones, at.Zone) }); len(here) > 0 {
			return here
		}
	}
	return cs.usable()
}

func (cs candidates) group(affinity time.Duration) Group {
	g := Group{Affinity: affinity}
	if len(cs) > 0 {
		g.Backends = make([]netip.AddrPort, 0, len(cs))
	}
	for _, c := range cs {
		g.Backends = append(g.Backends, c.at)
		if c.Local {
			g.Here = append(g.Here, c.at.Addr())
		}
	}
	slices.SortFunc(g.Backends, netip.AddrPort.Compare)
	g.Backends = slices.Compact(g.Backends)
	slices.SortFunc(g.Here, netip.Addr.Compare)
	g.Here = slices.Compact(g.Here)
	return g
}

// leaving are those beside the backends that keep what they have. A flow of datagrams would stay with an endpoint for as long as its client goes on, so
// there they are those only that may have been left for being far.
func (cs candidates) leaving(p Protocol, backends []netip.AddrPort) (out []netip.AddrPort) {
	for _, c := range cs {
		if _, used := slices.BinarySearchFunc(backends, c.at, netip.AddrPort.Compare); !used && (p == TCP || c.Ready) {
			out = append(out, c.at)
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return slices.Compact(out)
}

func suffix(port string) string {
	if port == "" {
		return ""
	}
	return ":" + port
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
