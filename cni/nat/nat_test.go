package nat

import (
	"net/netip"
	"testing"

	"github.com/google/nftables"
)

func TestElementsComeBack(t *testing.T) {
	for _, p := range []HostPort{
		{Protocol: TCP, Port: 80, Pod: netip.MustParseAddrPort("10.1.0.2:8080")},
		{HostIP: netip.MustParseAddr("192.0.2.1"), Protocol: UDP, Port: 53, Pod: netip.MustParseAddrPort("10.1.0.2:5353")},
		{Protocol: SCTP, Port: 65535, Pod: netip.MustParseAddrPort("[fd00::2]:1")},
		{HostIP: netip.MustParseAddr("fd01::1"), Protocol: TCP, Port: 1, Pod: netip.MustParseAddrPort("[fd00::2]:65535")},
	} {
		f := familyOf(p.Pod.Addr())
		set, e := f.element(&nftables.Table{}, p)
		if got := f.hostPort(e, set.Name == exactName); got != p {
			t.Errorf("%+v came back as %+v", p, got)
		}
		if uint32(len(e.Key)) != set.KeyType.Bytes || uint32(len(e.Val)) != set.DataType.Bytes {
			t.Errorf("%+v: key of %d and value of %d bytes, the set has %d and %d", p, len(e.Key), len(e.Val), set.KeyType.Bytes, set.DataType.Bytes)
		}
	}
}

func TestMarkerSaysWhatTheRulesDependOn(t *testing.T) {
	base := func() Config {
		return Config{Bridge: "br0", Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}, Direct: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}
	}
	first := markerOf(base(), ipv4)
	if first != markerOf(base(), ipv4) || first == markerOf(base(), ipv6) {
		t.Error("equal configurations differ, or families do not")
	}
	for name, change := range map[string]func(*Config){
		"bridge":     func(c *Config) { c.Bridge = "br1" },
		"subnets":    func(c *Config) { c.Subnets = c.Direct },
		"masquerade": func(c *Config) { c.Masquerade = true },
		"direct":     func(c *Config) { c.Direct = nil },
	} {
		c := base()
		change(&c)
		if markerOf(c, ipv4) == first {
			t.Errorf("a change of %s changes no rule", name)
		}
	}
}
