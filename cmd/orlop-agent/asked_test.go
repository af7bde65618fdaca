package main

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/orlop-io/orlop/proxy"
)

// asked is a report of two services: one with an endpoint in use and one passed over, in the kernel; one with sources, refused in part.
func asked() report {
	at := netip.MustParseAddrPort
	return report{Mode: "ebpf", Services: []service{{
		Explained: proxy.Explained{Service: "ns/web", Groups: []proxy.Decision{{
			Port: "ns/web:http", Policy: "any endpoint of the cluster",
			Addresses: []proxy.Address{{At: at("10.96.0.9:80"), Protocol: "TCP", From: "inside"}, {At: at("0.0.0.0:30080"), Protocol: "TCP", From: "everywhere"}},
			Endpoints: []proxy.EndpointChoice{{At: at("10.1.0.2:8080"), Local: true, Used: true, Why: "ready"}, {At: at("10.1.1.3:8080"), Why: "not ready"}},
		}}},
		Kernel: []inKernel{
			{At: at("10.96.0.9:80"), Protocol: "TCP", From: "inside", There: true, Backends: []netip.AddrPort{at("10.1.0.2:8080")}},
			{At: at("0.0.0.0:30080"), Protocol: "TCP", From: "inside", There: true, Backends: []netip.AddrPort{at("10.1.0.2:8080")}},
			{At: at("0.0.0.0:30080"), Protocol: "TCP", From: "outside", There: true, Backends: []netip.AddrPort{at("10.1.0.2:8080")}},
		},
	}, {
		Explained: proxy.Explained{Service: "ns/lb", Refused: []proxy.Refusal{{What: "externalIPs", Why: "off"}}, Groups: []proxy.Decision{{
			Port: "ns/lb", Policy: "any endpoint of the cluster", Sources: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")},
			Addresses: []proxy.Address{{At: at("198.51.100.7:80"), Protocol: "TCP", From: "outside"}},
		}}},
	}}}
}

func TestServicesAreListed(t *testing.T) {
	rep := asked()
	rep.Services[0].Kernel[2].Backends = nil
	var b strings.Builder
	if err := listServices(&b, rep); err != nil {
		t.Fatal(err)
	}
	want := `SERVICE       ADDRESSES                              FROM      ENDPOINTS   HERE   AFFINITY   IN FORCE
ns/web:http   10.96.0.9:80/TCP,node port 30080/TCP   inside    1 of 2      1      -          the kernel sends 0.0.0.0:30080 from outside to none
ns/lb         198.51.100.7:80/TCP                    outside   0 of 0      0      -          as ebpf
ns/lb         -                                      -         -           -      -          refused: externalIPs
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
	text, err := json.Marshal(rep)
	var back report
	if err == nil {
		err = json.Unmarshal(text, &back)
	}
	if err != nil || back.Services[0].wrong() != rep.Services[0].wrong() {
		t.Errorf("over the socket: %v, %q", err, back.Services[0].wrong())
	}
}

func TestServiceIsShown(t *testing.T) {
	var b strings.Builder
	if err := showService(&b, asked().Services[0]); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"node port 30080/TCP, asked from everywhere", "10.1.0.2:8080   used: yes   here", "10.1.1.3:8080   used: no    elsewhere   not ready"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestWhy(t *testing.T) {
	node := place{own: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("10.1.0.1")}, pods: []netip.Prefix{netip.MustParsePrefix("10.1.0.1/24")}}
	for _, tt := range []struct{ from, asked, want string }{
		{"10.1.0.5", "10.96.0.9:80", "from inside is ns/web:http, translated by ebpf"}, // a pod of this node's bridge
		{"192.0.2.9", "192.0.2.1:30080", "node port 30080/TCP from outside is ns/web:http"},
		{"192.0.2.9", "10.96.0.9:80", "is no service's here"},
		{"outside", "192.0.2.9:30080", "is no service's here"}, // not this node's address
		{"203.0.113.5", "198.51.100.7:80", "no endpoint can be used"},
		{"203.0.114.5", "198.51.100.7:80", "is in none of loadBalancerSourceRanges"},
		{"pod", "10.96.0.9:80", "want an address, inside or outside"},
		{"inside", "10.96.0.9", "want ADDRESS:PORT"},
	} {
		var b strings.Builder
		q, err := questionOf(tt.from, tt.asked, node)
		if err == nil {
			err = q.print(&b, asked())
		}
		if err != nil {
			b.WriteString(err.Error())
		}
		if !strings.Contains(b.String(), tt.want) {
			t.Errorf("why %s %s says, without %q:\n%s", tt.from, tt.asked, tt.want, b.String())
		}
	}
}
