package services

import (
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
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

// external says whether traffic can come to a Service from outside of the cluster.
func external(s *corev1.ServiceSpec) bool {
	return s.Type == corev1.ServiceTypeNodePort || s.Type == corev1.ServiceTypeLoadBalancer ||
		s.Type == corev1.ServiceTypeClusterIP && len(s.ExternalIPs) > 0
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
			s.ClusterIPs = slices.Clone(old.ClusterIPs)
		}
	}
	if s.Type != corev1.ServiceTypeExternalName && old.Type != corev1.ServiceTypeExternalName {
		if len(s.IPFamilies) == 0 {
			s.IPFamilies = slices.Clone(old.IPFamilies) // it may grow
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
	if s.ClusterIP == old.ClusterIP || !slices.Equal(s.ClusterIPs, old.ClusterIPs) {
		return
	}
	s.ClusterIPs = nil
	if s.ClusterIP != "" {
		s.ClusterIPs = []string{s.ClusterIP}
	}
}

// dropUnneeded clears what a change of type leaves behind, unless the client changed it itself: then validation tells
// it that the two do not go together.
func dropUnneeded(s, old *corev1.ServiceSpec) {
	if old.Type != corev1.ServiceTypeExternalName && s.Type == corev1.ServiceTypeExternalName {
		if s.ClusterIP == old.ClusterIP && slices.Equal(s.ClusterIPs, old.ClusterIPs) {
			s.ClusterIP, s.ClusterIPs = "", nil
		}
		if slices.Equal(s.IPFamilies, old.IPFamilies) {
			s.IPFamilies = nil
		}
		if policyOf(s) == policyOf(old) {
			s.IPFamilyPolicy = nil
		}
		if reflect.DeepEqual(s.InternalTrafficPolicy, old.InternalTrafficPolicy) {
			s.InternalTrafficPolicy = nil
		}
	}
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
	if external(old) && !external(s) && s.ExternalTrafficPolicy == old.ExternalTrafficPolicy {
		s.ExternalTrafficPolicy = ""
	}
	if old.Type == corev1.ServiceTypeLoadBalancer && s.Type != corev1.ServiceTypeLoadBalancer {
		if reflect.DeepEqual(s.AllocateLoadBalancerNodePorts, old.AllocateLoadBalancerNodePorts) {
			s.AllocateLoadBalancerNodePorts = nil
		}
		if reflect.DeepEqual(s.LoadBalancerClass, old.LoadBalancerClass) {
			s.LoadBalancerClass = nil
		}
	}
}

// keepNodePorts copies node ports to the ports of the same protocol and number.
func keepNodePorts(ports, old []corev1.ServicePort) {
	type key struct {
		protocol corev1.Protocol
		port     int32
	}
	was, used := map[key]int32{}, map[key]bool{}
	for _, p := range old {
		was[key{p.Protocol, p.Port}] = p.NodePort
	}
	for _, p := range ports {
		used[key{p.Protocol, p.NodePort}] = true
	}
	for i := range ports {
		p := &ports[i]
		have := was[key{p.Protocol, p.Port}]
		// TCP and UDP may share a node port; two ports of one protocol may not.
		if taken := (key{p.Protocol, have}); p.NodePort == 0 && have != 0 && !used[taken] {
			p.NodePort = have
			used[taken] = true
		}
	}
}
