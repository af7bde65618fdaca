package slicemirror

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// perSlice is the most endpoints that one slice may have.
const perSlice = 1000

// Mirrored tells whether endpoints are somebody's own words about svc.
func Mirrored(svc *corev1.Service, endpoints *corev1.Endpoints) bool {
	if endpoints.DeletionTimestamp != nil || endpoints.Labels[discoveryv1.LabelSkipMirror] == "true" {
		return false
	}
	_, election := endpoints.Annotations["control-plane.alpha.kubernetes.io/leader"]
	return !election && len(svc.Spec.Selector) == 0
}

// Slices returns the slices that say what endpoints says, by name. A name depends on ports
// and family only, so that addresses come and go within a slice.
func Slices(endpoints *corev1.Endpoints) map[string]*discoveryv1.EndpointSlice {
	result := map[string]*discoveryv1.EndpointSlice{}
	add := func(a corev1.EndpointAddress, subset *corev1.EndpointSubset, ready bool) {
		ip, err := netip.ParseAddr(a.IP)
		if err != nil {
			return
		}
		family := discoveryv1.AddressTypeIPv4
		if ip.Is6() {
			family = discoveryv1.AddressTypeIPv6
		}
		ports := portsOf(subset.Ports)
		sum := fnv.New32a()
		fmt.Fprint(sum, family, describe(ports), endpoints.Name[min(len(endpoints.Name), 50):]) // what the name has no room for
		name := fmt.Sprintf("%.50s-%08x", endpoints.Name, sum.Sum32())
		slice := result[name]
		if slice == nil {
			slice = &discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: endpoints.Namespace, Name: name,
					Labels:          labelsOf(endpoints),
					Annotations:     annotationsOf(endpoints),
					OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(endpoints, corev1.SchemeGroupVersion.WithKind("Endpoints"))},
				},
				AddressType: family, Ports: ports,
			}
			result[name] = slice
		}
		if len(slice.Endpoints) >= perSlice {
			return
		}
		e := discoveryv1.Endpoint{Addresses: []string{a.IP}, NodeName: a.NodeName, TargetRef: a.TargetRef, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
		if a.Hostname != "" {
			e.Hostname = &a.Hostname
		}
		slice.Endpoints = append(slice.Endpoints, e)
	}
	for i := range endpoints.Subsets {
		subset := &endpoints.Subsets[i]
		for _, a := range subset.Addresses {
			add(a, subset, true)
		}
		for _, a := range subset.NotReadyAddresses {
			add(a, subset, false)
		}
	}
	for _, s := range result {
		slices.SortFunc(s.Endpoints, func(a, b discoveryv1.Endpoint) int { return cmp.Compare(a.Addresses[0], b.Addresses[0]) })
	}
	return result
}

// labelsOf are those of endpoints, and what is a slice's own.
func labelsOf(endpoints *corev1.Endpoints) map[string]string {
	own := map[string]string{}
	maps.Copy(own, endpoints.Labels)
	own[discoveryv1.LabelServiceName], own[discoveryv1.LabelManagedBy] = endpoints.Name, managedBy
	return own
}

// annotationsOf are those of endpoints, but for what is about that object alone.
func annotationsOf(endpoints *corev1.Endpoints) map[string]string {
	own := map[string]string{}
	maps.Copy(own, endpoints.Annotations)
	delete(own, corev1.LastAppliedConfigAnnotation)
	delete(own, corev1.EndpointsLastChangeTriggerTime)
	return own
}

func portsOf(in []corev1.EndpointPort) []discoveryv1.EndpointPort {
	out := make([]discoveryv1.EndpointPort, 0, len(in))
	for i := range in {
		p := in[i]
		out = append(out, discoveryv1.EndpointPort{Name: &p.Name, Port: &p.Port, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
	}
	return out
}

func describe(ports []discoveryv1.EndpointPort) string {
	s := ""
	for _, p := range ports {
		s += fmt.Sprintf("%s/%d/%s ", *p.Name, *p.Port, *p.Protocol)
	}
	return s
}
