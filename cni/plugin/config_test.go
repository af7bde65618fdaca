package plugin

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/orlop-io/orlop/cni/ipam"
	"github.com/orlop-io/orlop/cni/nat"
)

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct{ name, conf, want string }{
		{"no JSON", `{`, "decode"},
		{"no range", `{"name":"n"}`, "podCIDRs is empty"},
		{"two ranges of a family", `{"name":"n","podCIDRs":["10.0.0.0/24","10.0.1.0/24"]}`, "second range"},
		{"range too small", `{"name":"n","podCIDRs":["10.0.0.0/31"]}`, "no address for a container"},
		{"name with a slash", `{"name":"../n","podCIDRs":["10.0.0.0/24"]}`, "not a file name"},
		{"long bridge name", `{"name":"n","bridge":"abcdefghijklmnop","podCIDRs":["10.0.0.0/24"]}`, "not an interface name"},
		{"bandwidth", `{"name":"n","podCIDRs":["10.0.0.0/24"],"runtimeConfig":{"bandwidth":{"ingressRate":1}}}`, "ingressRate 1 is in bits"},
		{"netfilter", `{"name":"n","podCIDRs":["10.0.0.0/24"],"bridgeNetfilter":"on"}`, "neither"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.conf))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.0.0","name":"n","podCIDRs":["10.0.0.0/24"],"runtimeConfig":{"portMappings":[{"hostPort":1}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := Parse(b); err == nil {
			_, _ = c.hostPorts([]netip.Addr{netip.MustParseAddr("10.0.0.2")})
		}
	})
}

func TestHostPorts(t *testing.T) {
	pod4, pod6 := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")
	host := netip.MustParseAddr("192.0.2.1")
	for _, tt := range []struct {
		name string
		m    portMapping
		want []nat.HostPort
	}{
		{"both families", portMapping{HostPort: 80, ContainerPort: 8080, Protocol: "TCP"}, []nat.HostPort{
			{Protocol: nat.TCP, Port: 80, Pod: netip.AddrPortFrom(pod4, 8080)}, {Protocol: nat.TCP, Port: 80, Pod: netip.AddrPortFrom(pod6, 8080)}}},
		{"one address", portMapping{HostPort: 53, ContainerPort: 53, Protocol: "udp", HostIP: "192.0.2.1"}, []nat.HostPort{
			{HostIP: host, Protocol: nat.UDP, Port: 53, Pod: netip.AddrPortFrom(pod4, 53)}}},
		{"every address of a family", portMapping{HostPort: 53, ContainerPort: 53, HostIP: "0.0.0.0"}, []nat.HostPort{
			{Protocol: nat.TCP, Port: 53, Pod: netip.AddrPortFrom(pod4, 53)}}},
		{"only exposed", portMapping{ContainerPort: 53}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &Config{}
			c.RuntimeConfig.PortMappings = []portMapping{tt.m}
			got, err := c.hostPorts([]netip.Addr{pod4, pod6})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); d != "" {
				t.Fatal(d)
			}
		})
	}
}

func TestHostNameFitsAndDiffers(t *testing.T) {
	a, b := hostName(ipam.Attachment{ContainerID: "c", IfName: "eth0"}), hostName(ipam.Attachment{ContainerID: "c", IfName: "eth1"})
	if len(a) != 15 || a == b || !strings.HasPrefix(a, hostPrefix) {
		t.Fatalf("got %s and %s", a, b)
	}
}
