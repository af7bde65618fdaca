package proxy

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func addrs(list ...string) []netip.Addr { return parse(list) }

func ports(list ...string) (out []netip.AddrPort) {
	for _, s := range list {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

func TestGroups(t *testing.T) {
	base := func() (Service, []Slice) {
		return Service{
				Key: "ns/web", ClusterIPs: addrs("10.96.0.9"),
				Ports: []Port{{Name: "http", Protocol: TCP, Port: 80, NodePort: 30080}},
			}, []Slice{{
				Service: "ns/web", Ports: []SlicePort{{Name: "http", Protocol: TCP, Port: 8080}},
				Endpoints: []Endpoint{
					{Addrs: addrs("10.1.1.2"), Ready: true, Serving: true},
					{Addrs: addrs("10.1.0.2"), Ready: true, Serving: true, Local: true},
				},
			}}
	}
	vip := Frontend{Addr: netip.MustParseAddr("10.96.0.9"), Port: 80, Protocol: TCP}
	node := Frontend{Addr: netip.IPv4Unspecified(), Port: 30080, Protocol: TCP}
	all := ports("10.1.0.2:8080", "10.1.1.2:8080")
	for _, tt := range []struct {
		name   string
		mutate func(*Service, []Slice)
		want   Model
	}{
		{"ready endpoints, sorted", func(*Service, []Slice) {}, Model{
			"ns/web:80/6/4": {Frontends: []Frontend{vip, node}, Backends: all}}},
		{"affinity", func(s *Service, _ []Slice) { s.Affinity = time.Minute }, Model{
			"ns/web:80/6/4": {Frontends: []Frontend{vip, node}, Backends: all, Affinity: time.Minute}}},
		{"internal policy Local holds for the cluster IP only", func(s *Service, _ []Slice) { s.InternalLocal = true }, Model{
			"ns/web:80/6/4/local": {Frontends: []Frontend{vip}, Backends: ports("10.1.0.2:8080")},
			"ns/web:80/6/4":       {Frontends: []Frontend{node}, Backends: all}}},
		{"a terminating endpoint gets nothing while another is ready", func(_ *Service, l []Slice) {
			l[0].Endpoints[0] = Endpoint{Addrs: addrs("10.1.1.2"), Serving: true, Terminating: true}
		}, Model{"ns/web:80/6/4": {Frontends: []Frontend{vip, node}, Backends: ports("10.1.0.2:8080")}}},
		{"terminating endpoints serve when none is ready", func(_ *Service, l []Slice) {
			l[0].Endpoints = []Endpoint{{Addrs: addrs("10.1.1.2"), Serving: true, Terminating: true}, {Addrs: addrs("10.1.1.3"), Terminating: true}}
		}, Model{"ns/web:80/6/4": {Frontends: []Frontend{vip, node}, Backends: ports("10.1.1.2:8080")}}},
		{"no endpoints is still a service", func(_ *Service, l []Slice) { l[0].Endpoints = nil }, Model{
			"ns/web:80/6/4": {Frontends: []Frontend{vip, node}}}},
		{"another port's endpoints do not count", func(_ *Service, l []Slice) { l[0].Ports[0].Name = "other" }, Model{
			"ns/web:80/6/4": {Frontends: []Frontend{vip, node}}}},
		{"each family to itself", func(s *Service, l []Slice) {
			s.ClusterIPs = addrs("10.96.0.9", "fd96::9")
			l[0].Endpoints = append(l[0].Endpoints, Endpoint{Addrs: addrs("fd10::1"), Ready: true})
		}, Model{
			"ns/web:80/6/4": {Frontends: []Frontend{vip, node}, Backends: all},
			"ns/web:80/6/6": {Frontends: []Frontend{
				{Addr: netip.MustParseAddr("fd96::9"), Port: 80, Protocol: TCP}, {Addr: netip.IPv6Unspecified(), Port: 30080, Protocol: TCP},
			}, Backends: ports("[fd10::1]:8080")}}},
		{"balancer", func(s *Service, _ []Slice) { s.LoadBalancerIPs = addrs("192.0.2.9") }, Model{
			"ns/web:80/6/4": {Frontends: []Frontend{vip, {Addr: netip.MustParseAddr("192.0.2.9"), Port: 80, Protocol: TCP}, node}, Backends: all}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			svc, list := base()
			tt.mutate(&svc, list)
			if d := cmp.Diff(tt.want, groups(svc, list), cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}), cmpopts.EquateEmpty()); d != "" {
				t.Fatal(d)
			}
		})
	}
}
