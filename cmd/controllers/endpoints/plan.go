package endpoints

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/endpointslice"
	"k8s.io/endpointslice/util"

	"github.com/orlop-io/orlop/cmd/controllers/podset"
)

// Subsets groups the addresses of svc's pods by the ports they serve. Equal pods give an
// equal result in whatever order they come.
func Subsets(svc *corev1.Service, pods []*corev1.Pod) []corev1.EndpointSubset {
	type group struct {
		ports           []corev1.EndpointPort
		ready, notReady []corev1.EndpointAddress
	}
	groups := map[string]*group{}
	headless := svc.Spec.ClusterIP == corev1.ClusterIPNone
	for _, pod := range pods {
		if !util.ShouldPodBeInEndpoints(pod, svc.Spec.PublishNotReadyAddresses) {
			continue
		}
		ip := address(svc, pod)
		if ip == "" {
			continue
		}
		ports := portsOf(svc, pod)
		if len(ports) == 0 && !(headless && len(svc.Spec.Ports) == 0) {
			continue
		}
		id := fmt.Sprint(describe(ports))
		g := groups[id]
		if g == nil {
			g = &group{ports: ports}
			groups[id] = g
		}
		a := corev1.EndpointAddress{IP: ip, NodeName: &pod.Spec.NodeName, TargetRef: &corev1.ObjectReference{
			Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
		}}
		if util.ShouldSetHostname(pod, svc) {
			a.Hostname = pod.Spec.Hostname
		}
		if svc.Spec.PublishNotReadyAddresses || podset.Ready(pod) {
			g.ready = append(g.ready, a)
		} else {
			g.notReady = append(g.notReady, a)
		}
	}
	ids := make([]string, 0, len(groups))
	for id := range groups {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	var subsets []corev1.EndpointSubset
	for _, id := range ids {
		g := groups[id]
		slices.SortFunc(g.ready, byIP)
		slices.SortFunc(g.notReady, byIP)
		subsets = append(subsets, corev1.EndpointSubset{Addresses: g.ready, NotReadyAddresses: g.notReady, Ports: g.ports})
	}
	return subsets
}

// capacity is how many addresses one object may have: each write of it goes to every watcher, whole.
const capacity = 1000

// Fit leaves as many addresses as one object may have, ready ones first and of each subset its share, and tells whether some
// had to go. Who wants all of them reads the EndpointSlices.
func Fit(subsets []corev1.EndpointSubset) (fitting []corev1.EndpointSubset, truncated bool) {
	ready, notReady := 0, 0
	for _, s := range subsets {
		ready, notReady = ready+len(s.Addresses), notReady+len(s.NotReadyAddresses)
	}
	if ready+notReady <= capacity {
		return subsets, false
	}
	readyRoom := min(ready, capacity)
	first, second := shares{ready, readyRoom}, shares{notReady, min(notReady, capacity-readyRoom)}
	for _, s := range subsets {
		s.Addresses = s.Addresses[:first.of(len(s.Addresses))]
		s.NotReadyAddresses = s.NotReadyAddresses[:second.of(len(s.NotReadyAddresses))]
		if len(s.Addresses)+len(s.NotReadyAddresses) > 0 {
			fitting = append(fitting, s)
		}
	}
	return fitting, true
}

// shares divides room among all that are left to be asked about.
type shares struct{ left, room int }

// of is how many of n may stay.
func (s *shares) of(n int) int {
	if s.left == 0 {
		return 0
	}
	mine := (n*s.room + s.left - 1) / s.left
	s.left, s.room = s.left-n, s.room-mine
	return mine
}

func byIP(a, b corev1.EndpointAddress) int {
	return cmp.Or(cmp.Compare(a.IP, b.IP), cmp.Compare(a.TargetRef.UID, b.TargetRef.UID))
}

func portsOf(svc *corev1.Service, pod *corev1.Pod) []corev1.EndpointPort {
	var ports []corev1.EndpointPort
	for i := range svc.Spec.Ports {
		port := &svc.Spec.Ports[i]
		number, err := endpointslice.FindPort(pod, port)
		if err != nil {
			continue // the pod has no port of that name
		}
		ports = append(ports, corev1.EndpointPort{Name: port.Name, Port: int32(number), Protocol: port.Protocol, AppProtocol: port.AppProtocol})
	}
	slices.SortFunc(ports, func(a, b corev1.EndpointPort) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	return ports
}

func describe(ports []corev1.EndpointPort) string {
	s := ""
	for _, p := range ports {
		app := ""
		if p.AppProtocol != nil {
			app = *p.AppProtocol
		}
		s += fmt.Sprintf("%s/%d/%s/%s ", p.Name, p.Port, p.Protocol, app)
	}
	return s
}

// address returns the pod's address of the Service's first family, "" when it has none.
func address(svc *corev1.Service, pod *corev1.Pod) string {
	v6 := false
	if len(svc.Spec.IPFamilies) > 0 {
		v6 = svc.Spec.IPFamilies[0] == corev1.IPv6Protocol
	} else if ip, err := netip.ParseAddr(svc.Spec.ClusterIP); err == nil {
		v6 = ip.Is6()
	} else if ip, err := netip.ParseAddr(pod.Status.PodIP); err == nil {
		v6 = ip.Is6()
	}
	for _, podIP := range pod.Status.PodIPs {
		if ip, err := netip.ParseAddr(podIP.IP); err == nil && ip.Is6() == v6 {
			return podIP.IP
		}
	}
	if ip, err := netip.ParseAddr(pod.Status.PodIP); err == nil && ip.Is6() == v6 {
		return pod.Status.PodIP
	}
	return ""
}
