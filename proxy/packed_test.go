package proxy

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestPackedIsTheSame(t *testing.T) {
	s := Slice{Service: "default/web", Ports: []SlicePort{{"http", TCP, 8080}, {"", UDP, 53}}, Triggered: time.Unix(1, 0)}
	for i := range 32 { // all that is so or not
		e := Endpoint{Addrs: parse([]string{"10.1.0.3"}), Ready: i&1 != 0, Serving: i&2 != 0, Terminating: i&4 != 0, Local: i&8 != 0}
		if i&16 != 0 {
			e.ForNodes, e.ForZones = []string{"a", strings.Repeat("n", 300)}, []string{"zone-1"}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	s.Endpoints = append(s.Endpoints, Endpoint{}, Endpoint{Addrs: parse([]string{"fd10::3", "10.1.0.4"})}, Endpoint{ForZones: []string{"z"}})
	for _, want := range []Slice{s, {Service: "default/none"}} {
		got, ok := want.Pack().Unpack()
		if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); d != "" || !ok || want.Pack().Service() != want.Service {
			t.Error(d)
		}
		for i := range want.Pack() { // as a file may be that is torn
			if _, ok := want.Pack()[:i].Unpack(); ok {
				t.Fatalf("the first %d of %d bytes are taken", i, len(want.Pack()))
			}
		}
	}
	whole := Service{
		Key: "default/web", ClusterIPs: addrs("10.96.0.9", "fd96::9"), LoadBalancerIPs: addrs("192.0.2.9"), ExternalIPs: addrs("203.0.113.9"),
		SourceRanges: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("::/128")}, Ports: []Port{{"http", TCP, 80, 30080}, {"", UDP, 65535, 0}},
		InternalLocal: true, ExternalLocal: true, Affinity: 3 * time.Hour, HealthCheckPort: 31000,
	}
	for _, want := range []Service{whole, web, {}} {
		got, ok := want.Pack().Unpack()
		if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" || !ok {
			t.Error(d)
		}
		for i := range want.Pack() {
			if _, ok := want.Pack()[:i].Unpack(); ok {
				t.Fatalf("the first %d of %d bytes are taken", i, len(want.Pack()))
			}
		}
	}
	one := Slice{Endpoints: make([]Endpoint, 5)}
	for i := range one.Endpoints {
		one.Endpoints[i] = Endpoint{Addrs: parse([]string{"10.1.0.3"}), Ready: true}
	}
	if n := len(one.Pack()); n > 40 {
		t.Errorf("five endpoints take %d bytes", n)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(string(web.Pack()))
	f.Add(string(endpoint("10.1.0.2").Pack()))
	f.Fuzz(func(t *testing.T, b string) {
		if s, ok := PackedService(b).Unpack(); ok {
			if again, ok := s.Pack().Unpack(); !ok || again.Key != s.Key {
				t.Errorf("%+v becomes %+v", s, again)
			}
		}
		if s, ok := PackedSlice(b).Unpack(); ok {
			if again, ok := s.Pack().Unpack(); !ok || len(again.Endpoints) != len(s.Endpoints) {
				t.Errorf("%+v becomes %+v", s, again)
			}
		}
	})
}
