package proxy

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var sameAddrs = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{}), cmpopts.EquateEmpty()}

// What each field of a Service comes to.
func TestFromService(t *testing.T) {
	ingress := func(s *corev1.Service, ip string, mode *corev1.LoadBalancerIPMode) {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip, IPMode: mode})
	}
	for _, tt := range []struct {
		name   string
		change func(*corev1.Service)
		want   func(*Service) // nil: none of ours
	}{
		{"a plain one", func(*corev1.Service) {}, func(*Service) {}},
		{"headless", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "None", []string{"None"} }, nil},
		{"headless by label", func(s *corev1.Service) { s.Labels = map[string]string{corev1.IsHeadlessService: ""} }, nil},
		{"another proxy's", func(s *corev1.Service) {
			s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": ""}
		}, nil},
		{"a name for something outside", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.org"
		}, nil},
		{"without an address yet", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil }, nil},
		{"dual-stack", func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"10.96.0.9", "fd96::9"} }, func(s *Service) { s.ClusterIPs = addrs("10.96.0.9", "fd96::9") }},
		{"by an API server that knows one address", func(s *corev1.Service) { s.Spec.ClusterIPs = nil }, func(*Service) {}},
		{"a port of UDP and a node port", func(s *corev1.Service) {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53, NodePort: 30053})
		}, func(s *Service) { s.Ports = append(s.Ports, Port{"dns", UDP, 53, 30053}) }},
		{"internal policy Local", func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyLocal) }, func(s *Service) { s.InternalLocal = true }},
		{"internal policy Cluster", func(s *corev1.Service) {
			s.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyCluster)
		}, func(*Service) {}},
		{"external policy Local with its port of health", func(s *corev1.Service) {
			s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceExternalTrafficPolicyLocal, 32000
		}, func(s *Service) { s.ExternalLocal, s.HealthCheckPort = true, 32000 }},
		{"a balancer's addresses", func(s *corev1.Service) {
			ingress(s, "192.0.2.9", nil)
			ingress(s, "fd02::9", new(corev1.LoadBalancerIPModeVIP))
		}, func(s *Service) { s.LoadBalancerIPs = addrs("192.0.2.9", "fd02::9") }},
		{"a balancer that wants to be passed", func(s *corev1.Service) { ingress(s, "192.0.2.9", new(corev1.LoadBalancerIPModeProxy)) }, func(*Service) {}},
		{"a balancer with a name only", func(s *corev1.Service) {
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: "lb.example.org"}}
		}, func(*Service) {}},
		{"external addresses", func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"203.0.113.9"} }, func(s *Service) { s.ExternalIPs = addrs("203.0.113.9") }},
		{"source ranges", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"203.0.113.7/24", " fd03::/64 "} }, func(s *Service) {
			s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("fd03::/64")}
		}},
		{"source ranges by annotation", func(s *corev1.Service) {
			s.Annotations = map[string]string{corev1.AnnotationLoadBalancerSourceRangesKey: "203.0.113.0/24, 198.51.100.0/24"}
		}, func(s *Service) {
			s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("198.51.100.0/24")}
		}},
		{"a source range that cannot be read admits nobody", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"office"} }, func(s *Service) {
			s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("::/128")}
		}},
		{"affinity, for as long as the API says", func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }, func(s *Service) { s.Affinity = 3 * time.Hour }},
		{"affinity with a timeout", func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: new(int32(7))}}
		}, func(s *Service) { s.Affinity = 7 * time.Second }},
		{"publishNotReadyAddresses is said of each endpoint", func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }, func(*Service) {}},
		{"trafficDistribution is said by hints", func(s *corev1.Service) {
			s.Spec.TrafficDistribution = new(corev1.ServiceTrafficDistributionPreferSameNode)
		}, func(*Service) {}},
	} {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.9", ClusterIPs: []string{"10.96.0.9"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
		tt.change(s)
		got, ok := FromService(s)
		var want Service
		if tt.want != nil {
			want = Service{Key: "ns/web", ClusterIPs: addrs("10.96.0.9"), Ports: []Port{{Name: "http", Protocol: TCP, Port: 80}}}
			tt.want(&want)
		}
		if d := cmp.Diff(want, got, sameAddrs); d != "" || ok != (tt.want != nil) {
			t.Errorf("%s: ours %v: %s", tt.name, ok, d)
		}
	}
}

// What each field of an EndpointSlice comes to on node a. What is not said of an endpoint is as the API has it: it is ready, it serves as it is ready, and
// does not end.
func TestFromSlice(t *testing.T) {
	yes, no, own, other := true, false, "a", "b"
	ready := Endpoint{Addrs: addrs("10.1.0.2"), Ready: true, Serving: true}
	for _, tt := range []struct {
		name   string
		change func(*discoveryv1.EndpointSlice)
		want   func(*Slice) // nil: none of ours
	}{
		{"a plain one", func(*discoveryv1.EndpointSlice) {}, func(*Slice) {}},
		{"of no service", func(s *discoveryv1.EndpointSlice) { s.Labels = nil }, nil},
		{"of names", func(s *discoveryv1.EndpointSlice) { s.AddressType = discoveryv1.AddressTypeFQDN }, nil},
		{"of a headless service", func(s *discoveryv1.EndpointSlice) { s.Labels[corev1.IsHeadlessService] = "" }, nil},
		{"of another proxy's service", func(s *discoveryv1.EndpointSlice) { s.Labels["service.kubernetes.io/service-proxy-name"] = "theirs" }, nil},
		{"not ready", func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Conditions.Ready = &no }, func(s *Slice) { s.Endpoints[0].Ready, s.Endpoints[0].Serving = false, false }},
		{"not ready, and published all the same", func(s *discoveryv1.EndpointSlice) {
			s.Endpoints[0].Conditions.Ready, s.Endpoints[0].Conditions.Serving = &yes, &no
		},
			func(s *Slice) { s.Endpoints[0].Serving = false }},
		{"ends, and serves", func(s *discoveryv1.EndpointSlice) {
			s.Endpoints[0].Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}
		}, func(s *Slice) { s.Endpoints[0].Ready, s.Endpoints[0].Terminating = false, true }},
		{"of this node", func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].NodeName = &own }, func(s *Slice) { s.Endpoints[0].Local = true }},
		{"of another node", func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].NodeName = &other }, func(*Slice) {}},
		{"hints", func(s *discoveryv1.EndpointSlice) {
			s.Endpoints[0].Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "z"}}, ForNodes: []discoveryv1.ForNode{{Name: "a"}}}
		}, func(s *Slice) { s.Endpoints[0].ForZones, s.Endpoints[0].ForNodes = []string{"z"}, []string{"a"} }},
		{"a port without a number, and one of SCTP", func(s *discoveryv1.EndpointSlice) {
			s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: new("all")}, discoveryv1.EndpointPort{Name: new("sctp"), Port: new(int32(9)), Protocol: new(corev1.ProtocolSCTP)})
		}, func(*Slice) {}},
		{"when it had happened", func(s *discoveryv1.EndpointSlice) {
			s.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: "2026-01-02T03:04:05.5Z"}
		}, func(s *Slice) { s.Triggered = time.Date(2026, 1, 2, 3, 4, 5, 500_000_000, time.UTC) }},
	} {
		s := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080))}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.1.0.2"}}},
		}
		tt.change(s)
		got, ok := FromSlice(s, "a")
		var want Slice
		if tt.want != nil {
			want = Slice{Service: "ns/web", Ports: []SlicePort{{"http", TCP, 8080}}, Endpoints: []Endpoint{ready}}
			tt.want(&want)
		}
		if d := cmp.Diff(want, got, sameAddrs); d != "" || ok != (tt.want != nil) {
			t.Errorf("%s: ours %v: %s", tt.name, ok, d)
		}
	}
}

// External addresses are translated where somebody asks for it, and refused by name where nobody does.
func TestExternalIPsAreASwitch(t *testing.T) {
	for _, on := range []bool{false, true} {
		refused := 0
		p, err := New(Config{Synced: func(context.Context) error { return nil }, Log: slog.New(slog.DiscardHandler), Mode: ModeEBPF, ExternalIPs: on,
			Refused: func(_ string, why []Limit) { refused = len(why) }}, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := Service{Key: "ns/web", ClusterIPs: addrs("10.96.0.9"), ExternalIPs: addrs("203.0.113.9"), Ports: []Port{{Protocol: TCP, Port: 80}}}
		p.SetService(s.Key, s.Pack())
		change, _, _ := p.take()
		model := Model{}
		model.Apply(change)
		served := false
		for _, g := range model {
			for _, f := range g.Frontends {
				served = served || f.Addr == netip.MustParseAddr("203.0.113.9")
			}
		}
		if served != on || (refused == 0) != on {
			t.Errorf("switch %v: served %v, refused %d", on, served, refused)
		}
	}
}
