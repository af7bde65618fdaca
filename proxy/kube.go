package proxy

import (
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// FromService takes from a Service what the model needs; ok is false when no proxy of ours has to do with it: it is headless,
// a name for something outside, or another proxy's by its label.
func FromService(s *corev1.Service) (_ Service, ok bool) {
	if s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.ClusterIP == corev1.ClusterIPNone || s.Spec.ClusterIP == "" {
		return Service{}, false
	}
	if notOurs(s.Labels) {
		return Service{}, false
	}
	ips := s.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{s.Spec.ClusterIP}
	}
	out := Service{
		Key:           s.Namespace + "/" + s.Name,
		ClusterIPs:    parse(ips),
		InternalLocal: s.Spec.InternalTrafficPolicy != nil && *s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
	}
	out.ExternalLocal = s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	out.ExternalIPs = parse(s.Spec.ExternalIPs)
	out.SourceRanges = sourceRanges(s)
	out.HealthCheckPort = uint16(s.Spec.HealthCheckNodePort)
	for _, in := range s.Status.LoadBalancer.Ingress {
		if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
			out.LoadBalancerIPs = append(out.LoadBalancerIPs, parse([]string{in.IP})...)
		}
	}
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		out.Affinity = 3 * time.Hour // the API's default
		if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			out.Affinity = time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
		}
	}
	for _, p := range s.Spec.Ports {
		if proto, known := protocolOf(p.Protocol); known || proto == sctp {
			out.Ports = append(out.Ports, Port{Name: p.Name, Protocol: proto, Port: uint16(p.Port), NodePort: uint16(p.NodePort)})
		}
	}
	return out, true
}

// notOurs tells by the labels of a Service, or of a slice, which has its Service's, that it is another proxy's, or headless whatever address it has.
func notOurs(labels map[string]string) bool {
	_, other := labels["service.kubernetes.io/service-proxy-name"]
	_, headless := labels[corev1.IsHeadlessService]
	return other || headless
}

// sourceRanges are those of the spec, or of the annotation that was there before it. A range that cannot be read admits nobody, rather than
// everybody.
func sourceRanges(s *corev1.Service) []netip.Prefix {
	list := s.Spec.LoadBalancerSourceRanges
	if text := strings.TrimSpace(s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]); len(list) == 0 && text != "" {
		list = strings.Split(text, ",")
	}
	var out []netip.Prefix
	for _, text := range list {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			p = netip.PrefixFrom(netip.IPv6Unspecified(), 128)
		}
		out = append(out, p.Masked())
	}
	return out
}

// FromSlice takes from an EndpointSlice what the model of a node needs; ok is false when it belongs to no service.
func FromSlice(s *discoveryv1.EndpointSlice, node string) (_ Slice, ok bool) {
	name := s.Labels[discoveryv1.LabelServiceName]
	if name == "" || s.AddressType == discoveryv1.AddressTypeFQDN || notOurs(s.Labels) {
		return Slice{}, false
	}
	out := Slice{Service: s.Namespace + "/" + name}
	if at, err := time.Parse(time.RFC3339Nano, s.Annotations[corev1.EndpointsLastChangeTriggerTime]); err == nil {
		out.Triggered = at
	}
	for _, p := range s.Ports {
		proto := corev1.ProtocolTCP
		if p.Protocol != nil {
			proto = *p.Protocol
		}
		number, known := protocolOf(proto)
		if !known || p.Port == nil {
			continue
		}
		sp := SlicePort{Protocol: number, Port: uint16(*p.Port)}
		if p.Name != nil {
			sp.Name = *p.Name
		}
		out.Ports = append(out.Ports, sp)
	}
	for _, e := range s.Endpoints {
		c := e.Conditions
		ready := c.Ready == nil || *c.Ready
		end := Endpoint{
			Addrs:       parse(e.Addresses),
			Ready:       ready,
			Serving:     c.Serving == nil && ready || c.Serving != nil && *c.Serving,
			Terminating: c.Terminating != nil && *c.Terminating,
			Local:       e.NodeName != nil && *e.NodeName == node,
		}
		if e.Hints != nil {
			for _, n := range e.Hints.ForNodes {
				end.ForNodes = append(end.ForNodes, n.Name)
			}
			for _, z := range e.Hints.ForZones {
				end.ForZones = append(end.ForZones, z.Name)
			}
		}
		out.Endpoints = append(out.Endpoints, end)
	}
	return out, true
}

func protocolOf(p corev1.Protocol) (Protocol, bool) {
	switch p {
	case corev1.ProtocolTCP, "":
		return TCP, true
	case corev1.ProtocolUDP:
		return UDP, true
	case corev1.ProtocolSCTP:
		return sctp, false
	default:
		return 0, false
	}
}

// parse leaves out what is no address; the API server validates them.
func parse(list []string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}
