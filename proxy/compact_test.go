package proxy

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestCompactIsTheSame(t *testing.T) {
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
		if d := cmp.Diff(want, compactOf(want).slice(), cmpopts.EquateComparable(netip.Addr{})); d != "" {
			t.Error(d)
		}
	}
	one := Slice{Endpoints: make([]Endpoint, 5)}
	for i := range one.Endpoints {
		one.Endpoints[i] = Endpoint{Addrs: parse([]string{"10.1.0.3"}), Ready: true}
	}
	if n := len(compactOf(one).ends); n > 40 {
		t.Errorf("five endpoints take %d bytes", n)
	}
}
