package proxy

import "slices"

// The modes that services are translated in.
const (
	ModeEBPF      = "ebpf"
	ModeNftables  = "nftables"
	ModeIptables  = "iptables"
	ModeUserspace = "userspace"
)

// Modes are all modes, the better before the worse.
func Modes() []string { return []string{ModeEBPF, ModeNftables, ModeIptables, ModeUserspace} }

// Feature is something that not every mode can do.
type Feature string

// The features that a mode may lack.
const (
	SCTP              Feature = "SCTP"
	ExternalLocal     Feature = "externalTrafficPolicy Local"
	LoopbackNodePorts Feature = "node ports at 127.0.0.1 and ::1"
	ClientAddresses   Feature = "clients' addresses"
	LastingAffinity   Feature = "affinity over a restart"
	ManyClients       Feature = "affinity of many clients"
	Restart           Feature = "services without the agent"
	ClusterOnly       Feature = "cluster addresses for the cluster only"
	ExternalIPs       Feature = "spec.externalIPs"
	RefusalCounts     Feature = "failures of a Service without endpoints"
	PacketCounts      Feature = "packets and bytes of each Service"
	ConnectedUDP      Feature = "connected sockets of UDP follow endpoints"
	LateAnswers       Feature = "answers under way when their endpoint goes"
)

// Limit is something that modes cannot do.
type Limit struct {
	Feature Feature
	Modes   []string
	// Instead is what happens to what asks for it.
	Instead string
	// Where, if not empty, says on which nodes only the modes cannot do it.
	Where string
	// refuse, where a Service asks for it, takes from the service what is not translated, and tells whether that was anything. It is nil where no Service
	// asks for it.
	refuse func(*Service) bool
}

// Refuses tells whether there are Services that are refused for it, by an event.
func (l Limit) Refuses() bool { return l.refuse != nil }

// Limits is all that modes cannot do.
func Limits() []Limit {
	return []Limit{
		{SCTP, Modes(), "refused: the Service's ports of SCTP are not translated", "", refuseSCTP},
		{ExternalIPs, Modes(), "refused: they are not translated, because whoever may write a Service could take any address over (CVE-2020-8554)", "without `--external-ips`", refuseExternalIPs},
		{ExternalLocal, []string{ModeUserspace},
			"refused: the Service's node ports, balancer's and external addresses are not served, its cluster addresses are: endpoints would see this node as the client", "", refuseExternalLocal},
		{ClientAddresses, []string{ModeUserspace}, "endpoints see the node as the client", "", nil},
		{LoopbackNodePorts, []string{ModeNftables, ModeIptables}, "the connection is refused: ask at the node's address", "", nil},
		{LastingAffinity, []string{ModeUserspace}, "the agent's restart forgets which client goes where", "", nil},
		{ManyClients, []string{ModeIptables}, "an endpoint knows as many clients as the kernel module xt_recent is told (ip_list_tot, 100), and forgets the one that came first", "", nil},
		{Restart, []string{ModeUserspace}, "while the agent is not there, as in its upgrade, Services are not there, and its end ends their connections", "", nil},
		{Feature: ConnectedUDP, Modes: []string{ModeEBPF}, Where: "where the agent cannot end sockets, as it says",
			Instead: "a socket that has connected stays with its endpoint when that goes, until it connects again"},
		{Feature: LateAnswers, Modes: []string{ModeNftables, ModeIptables, ModeUserspace},
			Instead: "an answer of UDP comes from the endpoint's own address, so that a socket that has connected never has it (by userspace it does not come): ask again, and another endpoint answers"},
		{Feature: RefusalCounts, Modes: []string{ModeUserspace}, Instead: "they are not counted: nobody listens, and the kernel refuses"},
		{Feature: PacketCounts, Modes: []string{ModeNftables}, Where: "without `--count-packets`", Instead: "they are not counted: a request over TCP would cost 5 % more"},
		{Feature: PacketCounts, Modes: []string{ModeIptables, ModeUserspace}, Instead: "they are not counted: `iptables` would ask each packet for each Service, `userspace` sees no packets"},
		{ClusterOnly, []string{ModeIptables, ModeUserspace}, "who routes cluster addresses to a node is answered, too, as by kube-proxy", "", nil},
	}
}

// Lacks is what a mode cannot do on any node.
func Lacks(mode string) map[Feature]bool {
	out := map[Feature]bool{}
	for _, l := range Limits() {
		if l.Where == "" && slices.Contains(l.Modes, mode) {
			out[l.Feature] = true
		}
	}
	return out
}

// limit takes from a service what a mode cannot do, and returns why. What is allowed is no limit.
func (s Service) limit(mode string, allowed ...Feature) (_ Service, refused []Limit) {
	s.Ports = slices.Clone(s.Ports)
	for _, l := range Limits() {
		if slices.Contains(allowed, l.Feature) {
			continue
		}
		every := len(l.Modes) == len(Modes())
		if l.refuse != nil && (every || slices.Contains(l.Modes, mode)) && l.refuse(&s) {
			refused = append(refused, l)
		}
	}
	return s, refused
}

func refuseSCTP(s *Service) bool {
	n := len(s.Ports)
	s.Ports = slices.DeleteFunc(s.Ports, func(p Port) bool { return p.Protocol == sctp })
	return len(s.Ports) < n
}

func refuseExternalIPs(s *Service) bool {
	n := len(s.ExternalIPs)
	s.ExternalIPs = nil
	return n > 0
}

func refuseExternalLocal(s *Service) (any bool) {
	if !s.ExternalLocal {
		return false
	}
	any = len(s.LoadBalancerIPs)+len(s.ExternalIPs) > 0
	for i := range s.Ports {
		any = any || s.Ports[i].NodePort != 0
		s.Ports[i].NodePort = 0
	}
	s.LoadBalancerIPs, s.ExternalIPs, s.HealthCheckPort = nil, nil, 0
	return any
}
