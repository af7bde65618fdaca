package proxy

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Explained is a service as this node translates it, for people.
type Explained struct {
	Service string     `json:"service"` // namespace/name
	Groups  []Decision `json:"groups"`
	Refused []Refusal  `json:"refused,omitempty"`
}

// Refusal is what of a service is not translated, and what to do instead.
type Refusal struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// Decision is which endpoints the clients of some addresses get, and why those.
type Decision struct {
	Port      string           `json:"port"` // namespace/name:port
	Addresses []Address        `json:"addresses"`
	Policy    string           `json:"policy"`
	Affinity  string           `json:"affinity,omitempty"` // how long a client stays with its endpoint
	Sources   []netip.Prefix   `json:"sources,omitempty"`  // who may ask from outside; none: everybody
	Endpoints []EndpointChoice `json:"endpoints"`
}

// Address is one that clients ask for. An unspecified one is every node's: a node port.
type Address struct {
	At       netip.AddrPort `json:"at"`
	Protocol string         `json:"protocol"`
	From     string         `json:"from"` // inside, outside or everywhere
}

// EndpointChoice is an endpoint that could answer.
type EndpointChoice struct {
	At    netip.AddrPort `json:"at"`
	Local bool           `json:"local"` // on this node
	Used  bool           `json:"used"`
	Why   string         `json:"why"`
}

// Explain says of each service that wanted accepts what this node does with it, in their order. It computes anew, from what is known now.
func (p *Proxy) Explain(wanted func(service string) bool) (out []Explained) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(p.records)) {
		r := p.records[key]
		if r.now == "" || !wanted(key) {
			continue
		}
		svc, _ := r.now.Unpack() // it is whole
		svc, why := svc.limit(p.cfg.Mode, p.cfg.allowed()...)
		e := explain(svc, r.list(), p.place)
		for _, l := range why {
			e.Refused = append(e.Refused, Refusal{string(l.Feature), l.Instead})
		}
		out = append(out, e)
	}
	return out
}

// explain is groups with the reasons.
func explain(svc Service, list []Slice, at Place) Explained {
	e := Explained{Service: svc.Key}
	model := groups(svc, list, at)
	for _, port := range svc.Ports {
		for _, v4 := range []bool{true, false} {
			all := endpoints(list, port, v4)
			for _, name := range slices.Sorted(maps.Keys(model)) {
				if g := model[name]; strings.HasPrefix(name, groupName(svc, port, v4)) {
					e.Groups = append(e.Groups, all.decision(svc, name, g, at))
				}
			}
		}
	}
	return e
}

func (cs candidates) decision(svc Service, name string, g *Group, at Place) Decision {
	d := Decision{Port: g.Port, Sources: g.Sources, Policy: "any endpoint of the cluster"}
	local := strings.HasSuffix(name, "/local") || g.KeepSource
	switch {
	case strings.HasSuffix(name, "/local"):
		d.Policy = "internalTrafficPolicy Local: endpoints of this node"
	case g.KeepSource:
		d.Policy = "externalTrafficPolicy Local: endpoints of this node, clients keep their address"
	case len(g.Backends) < len(cs.ready()):
		d.Policy = "endpoints that hints give to this place"
	}
	if g.Affinity > 0 {
		d.Affinity = g.Affinity.String()
	}
	for _, f := range g.Frontends {
		d.Addresses = append(d.Addresses, Address{netip.AddrPortFrom(f.Addr, f.Port), f.Protocol.String(), f.Scope.String()})
	}
	for _, c := range cs {
		_, used := slices.BinarySearchFunc(g.Backends, c.at, netip.AddrPort.Compare)
		d.Endpoints = append(d.Endpoints, EndpointChoice{c.at, c.Local, used, c.why(used, local, at)})
	}
	slices.SortFunc(d.Endpoints, func(a, b EndpointChoice) int { return a.At.Compare(b.At) })
	return d
}

// why says what of the endpoint decided.
func (c candidate) why(used, local bool, at Place) string {
	switch {
	case used && c.Ready && slices.Contains(c.ForNodes, at.Node):
		return "ready, and hints give it to this node"
	case used && c.Ready && at.Zone != "" && slices.Contains(c.ForZones, at.Zone):
		return "ready, and hints give it to this zone"
	case used && c.Ready:
		return "ready"
	case used:
		return "ends, and still serves: there is no ready one"
	case local && !c.Local:
		return "on another node"
	case c.Ready:
		return "ready, but hints give it to others"
	case c.Terminating && c.Serving:
		return "ends: there are ready ones"
	case c.Terminating:
		return "ends, and serves no more"
	default:
		return "not ready"
	}
}

// String is the protocol's name.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	default:
		return "SCTP"
	}
}

// String says from where.
func (s Scope) String() string {
	switch s {
	case Inside:
		return "inside"
	case Outside:
		return "outside"
	default:
		return "everywhere"
	}
}

// Used are the endpoints that clients get, sorted.
func (d Decision) Used() (out []netip.AddrPort) {
	for _, c := range d.Endpoints {
		if c.Used {
			out = append(out, c.At)
		}
	}
	return slices.Compact(out) // they are in order
}
