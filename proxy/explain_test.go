package proxy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestExplain(t *testing.T) {
	svc := Service{
		Key: "ns/web", ClusterIPs: addrs("10.96.0.9"), LoadBalancerIPs: addrs("203.0.113.1"), Affinity: time.Minute, ExternalLocal: true,
		Ports: []Port{{Name: "http", Protocol: TCP, Port: 80, NodePort: 30080}},
	}
	list := []Slice{{Service: "ns/web", Ports: []SlicePort{{Name: "http", Protocol: TCP, Port: 8080}}, Endpoints: []Endpoint{
		{Addrs: addrs("10.1.0.2"), Ready: true, Serving: true, Local: true, ForZones: []string{"z1"}},
		{Addrs: addrs("10.1.1.3"), Ready: true, Serving: true, ForZones: []string{"z2"}},
		{Addrs: addrs("10.1.1.4"), Serving: true, Terminating: true},
		{Addrs: addrs("10.1.1.5")},
	}}}
	e := explain(svc, list, Place{Node: "a", Zone: "z1"})
	var b strings.Builder
	for _, g := range e.Groups {
		fmt.Fprintln(&b, g.Port, g.Policy, g.Affinity)
		for _, a := range g.Addresses {
			fmt.Fprintln(&b, " ", a.At, a.Protocol, a.From)
		}
		for _, c := range g.Endpoints {
			fmt.Fprintln(&b, "   ", c.At, c.Used, c.Why)
		}
	}
	want := `ns/web:http endpoints that hints give to this place 1m0s
  10.96.0.9:80 TCP inside
  203.0.113.1:80 TCP inside
  0.0.0.0:30080 TCP inside
    10.1.0.2:8080 true ready, and hints give it to this zone
    10.1.1.3:8080 false ready, but hints give it to others
    10.1.1.4:8080 false ends: there are ready ones
    10.1.1.5:8080 false not ready
ns/web:http externalTrafficPolicy Local: endpoints of this node, clients keep their address 1m0s
  203.0.113.1:80 TCP outside
    10.1.0.2:8080 true ready, and hints give it to this zone
    10.1.1.3:8080 false on another node
    10.1.1.4:8080 false on another node
    10.1.1.5:8080 false on another node
ns/web:http externalTrafficPolicy Local: endpoints of this node, clients keep their address 1m0s
  0.0.0.0:30080 TCP outside
    10.1.0.2:8080 true ready, and hints give it to this zone
    10.1.1.3:8080 false on another node
    10.1.1.4:8080 false on another node
    10.1.1.5:8080 false on another node
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
}
