package services

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func headless(s *corev1.ServiceSpec) bool {
	return s.ClusterIP == corev1.ClusterIPNone || (len(s.ClusterIPs) > 0 && s.ClusterIPs[0] == corev1.ClusterIPNone)
}

func needsClusterIP(s *corev1.ServiceSpec) bool {
	return s.Type != corev1.ServiceTypeExternalName && !headless(s)
}

func needsNodePorts(s *corev1.ServiceSpec) bool {
	switch s.Type {
	case corev1.ServiceTypeNodePort:
		return true
	case corev1.ServiceTypeLoadBalancer:
		return s.AllocateLoadBalancerNodePorts == nil || *s.AllocateLoadBalancerNodePorts
	}
	return false
}

func needsHealthCheck(s *corev1.ServiceSpec) bool {
	return s.Type == corev1.ServiceTypeLoadBalancer && s.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// setFamilies makes the addresses and families of a Service agree with each other and with the one family of the
// cluster.
func setFamilies(s *corev1.ServiceSpec, v6 bool) field.ErrorList {
	if s.Type == corev1.ServiceTypeExternalName {
		s.ClusterIP, s.ClusterIPs, s.IPFamilies, s.IPFamilyPolicy = "", nil, nil, nil
		return nil
	}
	if s.ClusterIP != "" && len(s.ClusterIPs) == 0 {
		s.ClusterIPs = []string{s.ClusterIP}
	}
	at := field.NewPath("spec")
	if s.IPFamilyPolicy != nil && *s.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack {
		return field.ErrorList{field.Invalid(at.Child("ipFamilyPolicy"), *s.IPFamilyPolicy, "Cluster is not configured for dual-stack services")}
	}
	family, other := corev1.IPv4Protocol, corev1.IPv6Protocol
	if v6 {
		family, other = other, family
	}
	for i, f := range s.IPFamilies {
		if f == other {
			return field.ErrorList{field.Invalid(at.Child("ipFamilies").Index(i), f, "not configured on this cluster")}
		}
	}
	if len(s.IPFamilies) == 0 {
		s.IPFamilies = []corev1.IPFamily{family}
	}
	if s.IPFamilyPolicy == nil {
		single := corev1.IPFamilyPolicySingleStack
		s.IPFamilyPolicy = &single
	}
	return nil
}

// keepAllocated gives an update that leaves allocated fields out what the Service has. Clients that replace an object
// by one they wrote themselves would lose its address otherwise.
func keepAllocated(s, old *corev1.ServiceSpec) {
	syncClusterIPs(s, old)
	if needsClusterIP(s) && needsClusterIP(old) {
		if s.ClusterIP == "" {
			s.ClusterIP = old.ClusterIP
		}
		if len(s.ClusterIPs) == 0 && s.ClusterIP == old.ClusterIP {
			s.ClusterIPs = old.ClusterIPs
		}
	}
	if s.Type != corev1.ServiceTypeExternalName && old.Type != corev1.ServiceTypeExternalName {
		if len(s.IPFamilies) == 0 {
			s.IPFamilies = old.IPFamilies
		}
		if s.IPFamilyPolicy == nil {
			s.IPFamilyPolicy = old.IPFamilyPolicy
		}
	}
	if needsNodePorts(s) && needsNodePorts(old) {
		keepNodePorts(s.Ports, old.Ports)
	}
	if needsHealthCheck(s) && needsHealthCheck(old) && s.HealthCheckNodePort == 0 {
		s.HealthCheckNodePort = old.HealthCheckNodePort
	}
	dropUnneeded(s, old)
}

// syncClusterIPs follows a client that knows only the older of the two fields.
func syncClusterIPs(s, old *corev1.ServiceSpec) {
	same := len(s.ClusterIPs) == len(old.ClusterIPs)
	for i := range s.ClusterIPs {
		same = same && s.ClusterIPs[i] == old.ClusterIPs[i]
	}
	if s.ClusterIP == old.ClusterIP || !same {
		return
	}
	s.ClusterIPs = nil
	if s.ClusterIP != "" {
		s.ClusterIPs = []string{s.ClusterIP}
	}
}

// dropUnneeded clears what a change of type leaves behind, unless the client changed it itself.
func dropUnneeded(s, old *corev1.ServiceSpec) {
	if needsNodePorts(old) && !needsNodePorts(s) && s.Type != corev1.ServiceTypeLoadBalancer {
		had := map[int32]bool{}
		for _, p := range old.Ports {
			had[p.NodePort] = true
		}
		for i := range s.Ports {
			if had[s.Ports[i].NodePort] {
				s.Ports[i].NodePort = 0
			}
		}
	}
	if needsHealthCheck(old) && !needsHealthCheck(s) && s.HealthCheckNodePort == old.HealthCheckNodePort {
		s.HealthCheckNodePort = 0
	}
}

// keepNodePorts copies node ports to the ports of the same protocol and number.
func keepNodePorts(ports, old []corev1.ServicePort) {
	type key struct {
		protocol corev1.Protocol
		port     int32
	}
	was, used := map[key]int32{}, map[int32]bool{}
	for _, p := range old {
		was[key{p.Protocol, p.Port}] = p.NodePort
	}
	for _, p := range ports {
		used[p.NodePort] = true
	}
	for i := range ports {
		p := &ports[i]
		if have := was[key{p.Protocol, p.Port}]; p.NodePort == 0 && !used[have] {
			p.NodePort = have
			used[have] = true
		}
	}
}

// explicitFirst orders the indexes of ports so that those that name a node port come before those that will be given
// one, and the given can never be a named one.
func explicitFirst(ports []corev1.ServicePort) []int {
	var named, open []int
	for i := range ports {
		if ports[i].NodePort != 0 {
			named = append(named, i)
		} else {
			open = append(open, i)
		}
	}
	return append(named, open...)
}

// sharePort gives port i the node port of another with the same number and another protocol, as DNS servers want it.
func sharePort(ports []corev1.ServicePort, i int) {
	if ports[i].NodePort != 0 {
		return
	}
	for j := range ports {
		if j != i && ports[j].Port == ports[i].Port && ports[j].Protocol != ports[i].Protocol && ports[j].NodePort != 0 {
			ports[i].NodePort = ports[j].NodePort
			return
		}
	}
}
