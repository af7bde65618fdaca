package plugin

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/orlop-io/orlop/cni/ipam"
	"github.com/orlop-io/orlop/cni/nat"
)

func TestParseRefuses(t *testing.T) {
	const base = `"name":"n","podCIDRs":["10.0.0.0/24"]`
	const bridge = `"name":"n","ipam":{"type":"host-local","subnet":"10.0.0.0/24"`
	for _, tt := range []struct {
		name, conf string
		code       uint
		want       string
	}{
		{"no JSON", `{`, 6, "decode"},
		{"not an object", `[]`, 6, "decode"},
		{"no range", `{"name":"n"}`, 7, "podCIDRs is empty"},
		{"two ranges of a family", `{"name":"n","podCIDRs":["10.0.0.0/24","10.0.1.0/24"]}`, 7, "second range"},
		{"range too small", `{"name":"n","podCIDRs":["10.0.0.0/31"]}`, 7, "no address for a container"},
		{"range and ipam", `{"name":"n","podCIDRs":["10.0.0.0/24"],"ipam":{}}`, 7, "without ipam"},
		{"name with a slash", `{"name":"../n","podCIDRs":["10.0.0.0/24"]}`, 7, "not a file name"},
		{"long name", `{"name":"` + strings.Repeat("n", 250) + `","podCIDRs":["10.0.0.0/24"]}`, 7, "longer than 249"},
		{"long bridge name", `{` + base + `,"bridge":"abcdefghijklmnop"}`, 7, "not an interface name"},
		{"bridge name that the kernel completes", `{` + base + `,"bridge":"br%d"}`, 7, "not an interface name"},
		{"bridge name with a colon", `{` + base + `,"bridge":"a:b"}`, 7, "not an interface name"},
		{"bridge name with a tab", `{` + base + `,"bridge":"a\tb"}`, 7, "not an interface name"},
		{"bridge name of a folder", `{` + base + `,"bridge":".."}`, 7, "not an interface name"},
		{"netfilter", `{` + base + `,"bridgeNetfilter":"on"}`, 7, "neither"},
		{"unknown field", `{` + base + `,"isGateWay":true}`, 2, "unsupported field isGateWay with value true; allowed are args, bridge, "},
		{"unknown field of ipam", `{` + bridge + `,"rangestart":"10.0.0.3"}}`, 2, "unsupported field ipam.rangestart"},
		{"unknown field of a range", `{"name":"n","ipam":{"type":"host-local","ranges":[[{"subnet":"10.0.0.0/24","end":"10.0.0.9"}]]}}`, 2, "unsupported field ipam.ranges[0][0].end"},
		{"unknown field of a trunk", `{` + base + `,"vlanTrunk":[{"id":1},{"min":2}]}`, 2, "unsupported field vlanTrunk[1].min"},
		{"unknown capability", `{` + base + `,"runtimeConfig":{"infinibandGUID":"x"}}`, 2, "unsupported field runtimeConfig.infinibandGUID"},
		{"declared capability", `{` + base + `,"capabilities":{"cgroupPath":true}}`, 7, "capabilities.cgroupPath: allowed are aliases"},
		{"wrong type", `{` + base + `,"mtu":"1500"}`, 7, "mtu: string, where a whole number is wanted"},
		{"wrong type in ipam", `{` + bridge + `,"dataDir":7}}`, 7, "ipam.dataDir: number, where a string is wanted"},
		{"mtu", `{` + base + `,"mtu":70000}`, 7, "mtu 70000 is not between"},
		{"mtu that no link takes", `{` + base + `,"mtu":67}`, 7, "mtu 67 is not between 68"},
		{"routeMTU that no link takes", `{` + base + `,"routeMTU":67}`, 7, "routeMTU 67 is not between 68"},
		{"routeMTU", `{` + base + `,"routeMTU":-1}`, 7, "routeMTU -1 is not between"},
		{"mtu for IPv6", `{"name":"n","podCIDRs":["fd00::/64"],"mtu":1000}`, 7, "IPv6 needs"},
		{"iptables", `{` + base + `,"ipMasqBackend":"iptables"}`, 7, `allowed is "nftables"`},
		{"hairpin and promiscuous", `{` + base + `,"hairpinMode":true,"promiscMode":true}`, 7, "exclude each other"},
		{"no container interface", `{` + bridge + `},"disableContainerInterface":true}`, 7, "no place for the addresses"},
		{"vlan", `{` + bridge + `},"vlan":5000}`, 7, "vlan 5000"},
		{"vlan and gateway", `{` + bridge + `},"vlan":4094,"isGateway":true,"bridge":"br-backend0"}`, 7, "link br-backend0.4094, whose name is longer"},
		{"trunk", `{` + base + `,"vlanTrunk":[{"id":1,"minID":2,"maxID":3}]}`, 7, "vlanTrunk[0]"},
		{"sysctl", `{` + base + `,"sysctl":{"kernel.panic":"1"}}`, 7, "kernel.panic"},
		{"overlap", `{"name":"n","ipam":{"type":"host-local","ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"10.0.0.128/25"}]]}}`, 7, "overlap"},
		{"mixed set", `{"name":"n","ipam":{"type":"host-local","ranges":[[{"subnet":"10.0.0.0/24"},{"subnet":"fd00::/64"}]]}}`, 7, "mixes families"},
		{"ipam without type", `{"name":"n","ipam":{"subnet":"10.0.0.0/24"}}`, 7, "ipam.type is missing"},
		{"slow", `{` + base + `,"runtimeConfig":{"bandwidth":{"ingressRate":1}}}`, 7, "ingressRate 1 is in bits"},
		{"burst without rate", `{` + base + `,"runtimeConfig":{"bandwidth":{"egressBurst":1}}}`, 7, "egressBurst without egressRate"},
		{"aliases", `{` + base + `,"runtimeConfig":{"aliases":7}}`, 7, "runtimeConfig.aliases"},
		{"route without a destination", `{` + bridge + `,"routes":[{"gw":"10.0.0.9"}]}}`, 7, "ipam.routes[0].dst is missing"},
		{"ranges of the runtime overlap", `{` + base + `,"runtimeConfig":{"ipRanges":[[{"subnet":"10.0.0.128/25"}]]}}`, 7, "overlap"},
		{"stateDir", `{` + base + `,"stateDir":"leases"}`, 7, "stateDir leases is not an absolute path"},
		{"dataDir", `{` + bridge + `,"dataDir":"leases"}}`, 7, "ipam.dataDir leases is not an absolute path"},
		{"prevResult", `{"cniVersion":"1.0.0",` + base + `,"prevResult":{"ips":7}}`, 6, "prevResult"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.conf))
			e, ok := errors.AsType[*types.Error](err)
			if !ok || e.Code != tt.code || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want code %d and %q", err, tt.code, tt.want)
			}
		})
	}
}

// containerd gives the structs of its CNI library, which have no names for JSON.
func TestContainerdsNames(t *testing.T) {
	got, err := Parse([]byte(`{"name":"n","podCIDRs":["10.0.0.0/24"],"runtimeConfig":{
		"portMappings":[{"HostPort":54323,"ContainerPort":8080,"Protocol":"tcp","HostIP":"127.0.0.1"}],
		"bandwidth":{"IngressRate":8000,"IngressBurst":80000,"EgressRate":0,"EgressBurst":0},
		"dns":{"Servers":["192.0.2.53"],"Searches":["example"],"Options":["ndots:5"]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	want, err := Parse([]byte(`{"name":"n","podCIDRs":["10.0.0.0/24"],"runtimeConfig":{
		"portMappings":[{"hostPort":54323,"containerPort":8080,"protocol":"tcp","hostIP":"127.0.0.1"}],
		"bandwidth":{"ingressRate":8000,"ingressBurst":80000,"egressRate":0,"egressBurst":0},
		"dns":{"servers":["192.0.2.53"],"searches":["example"],"options":["ndots:5"]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if a, b := fmt.Sprintf("%+v", got.RuntimeConfig), fmt.Sprintf("%+v", want.RuntimeConfig); a != b {
		t.Errorf("got %s, want %s", a, b)
	}
}

func TestWhatIsLeftOutMeansWhatItMeansToBridge(t *testing.T) {
	native, err := Parse([]byte(`{"name":"n","podCIDRs":["10.0.0.0/24"]}`))
	if err != nil {
		t.Fatal(err)
	}
	bridge, err := Parse([]byte(`{"name":"n","ipam":{"type":"host-local","subnet":"10.0.0.0/24"},"cni.dev/attachments":[],"cni.dev/new":1}`))
	if err != nil {
		t.Fatal(err)
	}
	of := func(c *Config) string {
		return fmt.Sprint(c.Bridge, c.gateway(), c.defaultGateway(), c.hairpin(), c.replacesAddress(), c.StateDir)
	}
	if got := of(native); got != "orlop0true true true true/var/lib/cni/orlop" {
		t.Error(got)
	}
	if got := of(bridge); got != "cni0false false false false/var/lib/cni/networks" {
		t.Error(got)
	}
}

// Those of the runtime come before those of the configuration, as with host-local: the first address is the one that Kubernetes shows.
func TestRangesOfTheRuntime(t *testing.T) {
	const more = `"runtimeConfig":{"ipRanges":[[{"subnet":"10.9.0.0/24"}]]}`
	for conf, want := range map[string]string{
		`{"name":"n","podCIDRs":["10.0.0.0/24","fd00::/64"],` + more + `}`:              "10.9.0.0/24 10.0.0.0/24 fd00::/64",
		`{"name":"n","ipam":{"type":"host-local","subnet":"10.0.0.0/24"},` + more + `}`: "10.9.0.0/24 10.0.0.0/24",
		`{"name":"n","ipam":{"type":"host-local"},` + more + `}`:                        "10.9.0.0/24",
	} {
		c, err := Parse([]byte(conf))
		if err != nil {
			t.Fatal(err)
		}
		var sets, cidrs []string
		for _, s := range c.sets {
			sets = append(sets, s[0].Subnet.String())
		}
		for _, p := range c.PodCIDRs {
			cidrs = append(cidrs, p.String())
		}
		if a, b := strings.Join(sets, " "), strings.Join(cidrs, " "); a != want || b != want {
			t.Errorf("%s: sets of %s, rules for %s; want %s", conf, a, b, want)
		}
	}
}

func TestWishes(t *testing.T) {
	c, err := Parse([]byte(`{"name":"n","podCIDRs":["10.0.0.0/24"],"args":{"cni":{"ips":["10.0.0.5"],"mac":"02:00:00:00:00:01","labels":[]}},
		"runtimeConfig":{"ips":["10.0.0.6/24"],"mac":"02:00:00:00:00:02"}}`))
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.wishOf("IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;IP=10.0.0.7;MAC=02:00:00:00:00:03")
	if got := fmt.Sprint(w.ips, w.mac, w.pod); err != nil || got != "[10.0.0.5 10.0.0.6 10.0.0.7] 02:00:00:00:00:02a/b" {
		t.Errorf("%s, %v", got, err)
	}
	for _, args := range []string{"IP=x", "MAC=00:00:00:00:00:00", "MAC=01:00:00:00:00:00;", "MAC=1"} {
		c := &Config{}
		if _, err := c.wishOf(args); err == nil {
			t.Errorf("%s was accepted", args)
		}
	}
}

func TestShapes(t *testing.T) {
	for _, tt := range []struct{ rate, burst, wantRate, wantBurst uint64 }{
		{0, 0, 0, 0},
		{8_000_000, 0, 1_000_000, 100_000},
		{8_000_000, math.MaxInt32, 1_000_000, 100_000},    // what Kubernetes' runtimes send
		{80_000, 80, 10_000, 64 << 10},                    // less than one segment
		{80_000, 800_000_000, 10_000, 2_000_000 + 64<<10}, // more than the kernel counts
	} {
		if got := shapeOf(tt.rate, tt.burst); got != (shape{tt.wantRate, tt.wantBurst}) {
			t.Errorf("%d, %d: got %v", tt.rate, tt.burst, got)
		}
	}
}

func TestSysctlPath(t *testing.T) {
	for key, want := range map[string]string{
		"net.ipv4.conf.IFNAME.arp_notify": "/proc/sys/net/ipv4/conf/eth0.5/arp_notify",
		"net/ipv4/conf/IFNAME/arp_notify": "/proc/sys/net/ipv4/conf/eth0.5/arp_notify",
		"net.ipv4.conf.br0/7.arp_notify":  "/proc/sys/net/ipv4/conf/br0.7/arp_notify",
	} {
		if got := sysctlPath(key, "eth0.5"); got != want {
			t.Errorf("%s: got %s", key, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.0.0","name":"n","podCIDRs":["10.0.0.0/24"],"runtimeConfig":{"portMappings":[{"hostPort":1}]}}`))
	f.Add([]byte(`{"name":"n","ipam":{"type":"host-local","ranges":[[{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.9"}]],"routes":[{"dst":"0.0.0.0/0"}],"reserved":["10.0.0.1/30"]},"vlanTrunk":[{"minID":1,"maxID":9}],"args":{"cni":{"mac":"x"}}}`))
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"n","ipam":{"type":"dhcp"},"prevResult":{"cniVersion":"1.1.0","ips":[]},"runtimeConfig":{"bandwidth":{"egressRate":9000},"aliases":["a"]}}`))
	f.Add([]byte(`{"name":"n","podCIDRs":[7],"sysctl":{"net.x":1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse(b)
		if e, ok := errors.AsType[*types.Error](err); err != nil && (!ok || e.Msg == "" || e.Code == 0) {
			t.Fatalf("not an error of the specification: %v", err)
		}
		if err == nil {
			_, _ = c.hostPorts([]netip.Addr{netip.MustParseAddr("10.0.0.2")})
			_, _ = c.wishOf(string(b))
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
