package routes

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestExplain(t *testing.T) {
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	desired := Table{p("10.1.0.0/24"): a("192.0.2.1"), p("10.2.0.0/24"): a("192.0.2.2"), p("10.3.0.0/24"): a("192.0.2.3")}
	actual := Table{p("10.1.0.0/24"): a("192.0.2.1"), p("10.2.0.0/24"): a("192.0.2.9"), p("10.4.0.0/24"): a("192.0.2.4")}
	var got []string
	for _, l := range Explain(desired, actual) {
		got = append(got, fmt.Sprintf("%s %s %s %s", l.Dst, l.Wanted, l.There, l.Why))
	}
	want := `10.1.0.0/24 192.0.2.1 192.0.2.1 as wanted
10.2.0.0/24 192.0.2.2 192.0.2.9 route 10.2.0.0/24 via 192.0.2.2: node has these pods
10.3.0.0/24 192.0.2.3 invalid IP route 10.3.0.0/24 via 192.0.2.3: node has these pods
10.4.0.0/24 invalid IP 192.0.2.4 delete route to 10.4.0.0/24: no node has these pods`
	if s := strings.Join(got, "\n"); s != want {
		t.Errorf("got\n%s", s)
	}
}
