package plugin

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/orlop-io/orlop/cni/nat"
)

var protocols = map[string]nat.Protocol{"tcp": nat.TCP, "": nat.TCP, "udp": nat.UDP, "sctp": nat.SCTP}

// hostPorts says what the runtime's port mappings lead to, for a container with these addresses.
func (c *Config) hostPorts(pod []netip.Addr) ([]nat.HostPort, error) {
	var out []nat.HostPort
	for _, m := range c.RuntimeConfig.PortMappings {
		if m.HostPort == 0 {
			continue // the runtime lists ports that are only exposed, too
		}
		if m.HostPort < 0 || m.HostPort > 65535 || m.ContainerPort < 1 || m.ContainerPort > 65535 {
			return nil, fmt.Errorf("port mapping %d to %d is not between ports 1 and 65535", m.HostPort, m.ContainerPort)
		}
		proto, ok := protocols[strings.ToLower(m.Protocol)]
		if !ok {
			return nil, fmt.Errorf("port mapping %d: protocol %q is not tcp, udp or sctp", m.HostPort, m.Protocol)
		}
		host, err := hostIP(m)
		if err != nil {
			return nil, err
		}
		led := false
		for _, a := range pod {
			if host.IsValid() && host.Is4() != a.Is4() {
				continue
			}
			led = true
			p := nat.HostPort{HostIP: host, Protocol: proto, Port: uint16(m.HostPort), Pod: netip.AddrPortFrom(a, uint16(m.ContainerPort))}
			if host.IsUnspecified() {
				p.HostIP = netip.Addr{}
			}
			out = append(out, p)
		}
		if !led && host.IsValid() && !host.IsUnspecified() {
			return nil, fmt.Errorf("port mapping %d: the container has no address of the family of hostIP %s", m.HostPort, host)
		}
	}
	return out, nil
}

func hostIP(m portMapping) (netip.Addr, error) {
	if m.HostIP == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(m.HostIP)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("port mapping %d: hostIP: %w", m.HostPort, err)
	}
	if a == netip.IPv6Loopback() {
		return netip.Addr{}, fmt.Errorf("port mapping %d: hostIP ::1 cannot lead anywhere: IPv6 has no route_localnet; 127.0.0.1 can", m.HostPort)
	}
	return a.Unmap(), nil
}
