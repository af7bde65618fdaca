package main

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/proxy"
)

func everyMeta(name string, labels map[string]string) metav1.ObjectMeta {
	labels["app"] = "web"
	return metav1.ObjectMeta{
		Namespace: "default", Name: name, GenerateName: "web-", UID: types.UID("u-" + name), ResourceVersion: "77", Generation: 3, Labels: labels,
		Annotations:     map[string]string{corev1.AnnotationLoadBalancerSourceRangesKey: "192.0.2.0/24", "other": "long"},
		OwnerReferences: []metav1.OwnerReference{{Kind: "Service", Name: "web"}}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
	}
}

func everyService() *corev1.Service {
	local, seconds, proxyMode := corev1.ServiceInternalTrafficPolicyLocal, int32(600), corev1.LoadBalancerIPModeVIP
	return &corev1.Service{
		ObjectMeta: everyMeta("web", map[string]string{}),
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ClusterIP: "10.96.0.9", ClusterIPs: []string{"10.96.0.9", "fd96::9"}, ExternalIPs: []string{"203.0.113.9"},
			Selector: map[string]string{"app": "web"}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
			InternalTrafficPolicy: &local, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, HealthCheckNodePort: 30999,
			SessionAffinity: corev1.ServiceAffinityClientIP, SessionAffinityConfig: &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, NodePort: 30080, TargetPort: intstr.FromString("http")}, {Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53}},
		},
		Status: corev1.ServiceStatus{
			LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.50", IPMode: &proxyMode}}}, Conditions: []metav1.Condition{{Type: "x"}},
		},
	}
}

func everySlice() *discoveryv1.EndpointSlice {
	name, port, protocol, own, other, zone, yes, no := "http", int32(8080), corev1.ProtocolTCP, "a", "b", "z", true, false
	return &discoveryv1.EndpointSlice{
		ObjectMeta: everyMeta("web-1", map[string]string{discoveryv1.LabelServiceName: "web"}), AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.244.0.5"}, NodeName: &own, Zone: &zone, TargetRef: &corev1.ObjectReference{Name: "web-5d4f8c7b9-abcde"}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}},
			{Addresses: []string{"10.244.1.5"}, NodeName: &other, Conditions: discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes},
				Hints: &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "z"}}, ForNodes: []discoveryv1.ForNode{{Name: "b"}}}},
		},
	}
}

// What informers keep says the same to the model as what the API server has sent, by the same key, and once more the same.
func TestPackedSaysTheSame(t *testing.T) {
	w := &watch{node: "a"}
	keep := func(obj any, kind byte) *packed {
		t.Helper()
		wantKey, err := cache.MetaNamespaceKeyFunc(obj)
		if err != nil {
			t.Fatal(err)
		}
		p, err := w.pack(obj)
		if err != nil {
			t.Fatal(err)
		}
		again, err := w.pack(p)
		if err != nil || again != p {
			t.Errorf("packed once more: %v, %v", again, err)
		}
		if key, err := cache.MetaNamespaceKeyFunc(p); err != nil || key != wantKey || p.(*packed).keyText() != wantKey || p.(*packed).meta().ResourceVersion != "77" || p.(*packed).kind != kind {
			t.Errorf("packed it is %s, %+v, %v", key, p, err)
		}
		b, err := p.(*packed).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		back, err := unmarshalPacked(kind, b)
		if err != nil || *back != *p.(*packed) {
			t.Errorf("read back it is %+v, %v; want %+v", back, err, p)
		}
		for i := range b { // as a file may be that is torn
			if torn, err := unmarshalPacked(kind, b[:i]); err == nil && torn.content() != "" {
				t.Fatalf("the first %d of %d bytes are taken", i, len(b))
			}
		}
		return back
	}
	options := cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}
	wantService, _ := proxy.FromService(everyService())
	gotService, ok := proxy.PackedService(keep(everyService(), kindService).content()).Unpack()
	if d := cmp.Diff(wantService, gotService, options...); d != "" || !ok {
		t.Error(d)
	}
	theirs := everyService()
	theirs.Labels["service.kubernetes.io/service-proxy-name"] = "theirs"
	if keep(theirs, kindService).content() != "" {
		t.Error("packed, another proxy's Service is ours")
	}
	if m := keep(everyService(), kindService).meta(); m.Namespace != "default" || m.Name != "web" || m.UID != "u-web" || m.ResourceVersion != "77" { // what an Event speaks of
		t.Errorf("%+v", m)
	}
	wantSlice, _ := proxy.FromSlice(everySlice(), "a")
	gotSlice, ok := proxy.PackedSlice(keep(everySlice(), kindSlice).content()).Unpack()
	if d := cmp.Diff(wantSlice, gotSlice, options...); d != "" || !ok {
		t.Error(d)
	}
	p, err := w.pack(everySlice())
	if err != nil || len(p.(*packed).text) > 80 {
		t.Errorf("two endpoints take %d bytes, %v", len(p.(*packed).text), err)
	}
}
