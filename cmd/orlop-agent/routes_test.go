package main

import (
	"bytes"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/orlop-io/orlop/cni/routes"
)

// "orlop-agent routes" tells what is wanted, what is there and why, of nodes that an agent serves and of what somebody changed when it had ended.
func TestKernelRoutesAreTold(t *testing.T) {
	ns, _, dir, _ := hosted(t)
	o := options{}.in(dir)
	client := fake.NewClientset(
		node("a", "10.244.0.0/24", "192.0.2.1"), node("b", "10.244.1.0/24", "192.0.2.2"), node("far", "10.244.2.0/24", "198.51.100.3"), node("new", "", "192.0.2.4"))
	told := func() string {
		t.Helper()
		var out bytes.Buffer
		if err := ns.Do(func() error { return explainRoutesOf(t.Context(), o, client, &out) }); err != nil {
			t.Fatal(err)
		}
		return regexp.MustCompile(` {2,}`).ReplaceAllString(regexp.MustCompile(`6e(:[0-9a-f]{2}){5}`).ReplaceAllString(out.String(), "MAC"), " | ")
	}
	want := func(when string, lines ...string) {
		t.Helper()
		got := told()
		for _, l := range lines {
			if !strings.Contains(got, l+"\n") {
				t.Errorf("%s: no line %q in\n%s", when, l, got)
			}
		}
	}
	want("before the agent",
		"PODS | NODE | HOW | WANTED | THERE | WHY",
		"10.244.1.0/24 | b | direct | via 192.0.2.2 | - | 192.0.2.2 is on a link of this node; put route to 10.244.1.0/24 via 192.0.2.2: wanted",
		"10.244.2.0/24 | far | overlay | via 198.51.100.3 over orlop-vx from 192.0.2.1 | - | the router 192.0.2.254 lies before 198.51.100.3; "+
			"put route to 10.244.2.0/24 via 198.51.100.3 over orlop-vx from 192.0.2.1: wanted",
		"- | new | - | - | - | it has no pods' range yet",
		"put link orlop-vx vxlan 1 udp 4789 from 192.0.2.1 address MAC mtu 1450: wanted",
		`found: net.ipv4.ip_forward is "0", not 1: packets of pods are forwarded, so the agent does not run here or somebody has changed it since`)

	agent := startAgent(t, ns, dir) // it knows a and b
	waitFor(t, "route to the other node's pods", func() bool { return routesTo(t, ns, "10.244.1.0/24") == 1 })
	waitFor(t, "forwarding", func() bool { return !strings.Contains(told(), "found: ") })
	want("while it serves", "10.244.1.0/24 | b | direct | via 192.0.2.2 | as wanted | 192.0.2.2 is on a link of this node")

	_ = agent.Process.Kill()
	_ = agent.Wait()
	_, gone, _ := net.ParseCIDR("10.244.9.0/24")
	if err := ns.NL.RouteAdd(&netlink.Route{Dst: gone, Gw: net.IPv4(192, 0, 2, 9), Protocol: routes.Protocol, Priority: 79}); err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0) }); err != nil {
		t.Fatal(err)
	}
	want("when it has ended",
		"10.244.9.0/24 | - | - | - | via 192.0.2.9 | drop route to 10.244.9.0/24 via 192.0.2.9: no node needs it",
		`found: net.ipv4.ip_forward is "0", not 1: packets of pods are forwarded, so the agent does not run here or somebody has changed it since`)

	o.node = "nobody"
	err := ns.Do(func() error { return explainRoutesOf(t.Context(), o, client, &bytes.Buffer{}) })
	if d := cmp.Diff("there is no node nobody: give the name of this one", err.Error()); d != "" {
		t.Error(d)
	}
}
