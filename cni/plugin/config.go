package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/orlop-io/orlop/cni/nat"
)

// Config is the plugin's part of a network configuration: what stands in the conflist, and what the runtime adds.
type Config struct {
	types.PluginConf

	// Bridge is the node's bridge for this network; "orlop0" when empty. It is made when missing, and gets the first
	// address of each of PodCIDRs.
	Bridge string `json:"bridge,omitempty"`
	// MTU of both ends of a pod's link, in bytes; 0 leaves the kernel's 1500.
	MTU int `json:"mtu,omitempty"`
	// PodCIDRs are the addresses of this node's pods: one range of a family, each pod gets one address of each.
	PodCIDRs []netip.Prefix `json:"podCIDRs"`
	// IPMasq gives pods' packets to the outside the node's address.
	IPMasq bool `json:"ipMasq,omitempty"`
	// DirectCIDRs are destinations to which pods keep their own address although IPMasq is set: all pods of the cluster.
	DirectCIDRs []netip.Prefix `json:"directCIDRs,omitempty"`
	// BridgeNetfilter "off" keeps bridged packets out of netfilter in the node's network namespace; when empty the setting is
	// left alone and ports of the bridge reflect, as a netfilter service proxy needs it.
	BridgeNetfilter string `json:"bridgeNetfilter,omitempty"`
	// StateDir is where leases are kept; "/var/lib/cni/orlop" when empty.
	StateDir string `json:"stateDir,omitempty"`

	RuntimeConfig struct {
		PortMappings []portMapping   `json:"portMappings,omitempty"`
		Bandwidth    json.RawMessage `json:"bandwidth,omitempty"`
	} `json:"runtimeConfig,omitzero"`
}

type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// Parse reads a configuration and refuses what the plugin cannot do. Its errors carry the specification's codes.
func Parse(stdin []byte) (*Config, error) {
	c := &Config{}
	if err := json.Unmarshal(stdin, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "decode network configuration", err.Error())
	}
	if c.Bridge == "" {
		c.Bridge = "orlop0"
	}
	if c.StateDir == "" {
		c.StateDir = "/var/lib/cni/orlop"
	}
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "decode prevResult", err.Error())
	}
	if err := c.validate(); err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "network configuration is not valid", err.Error())
	}
	return c, nil
}

func (c *Config) validate() error {
	var errs []error
	if c.Name == "" || strings.ContainsAny(c.Name, "/\x00") {
		errs = append(errs, fmt.Errorf("name %q is not a file name", c.Name))
	}
	if len(c.Bridge) > 15 || strings.ContainsAny(c.Bridge, "/ ") {
		errs = append(errs, fmt.Errorf("bridge %q is not an interface name", c.Bridge))
	}
	if c.MTU < 0 || c.MTU > 65535 {
		errs = append(errs, fmt.Errorf("mtu %d is not between 0 and 65535", c.MTU))
	}
	if len(c.PodCIDRs) == 0 {
		errs = append(errs, errors.New("podCIDRs is empty"))
	}
	for i, p := range c.PodCIDRs {
		if slices.ContainsFunc(c.PodCIDRs[:i], func(q netip.Prefix) bool { return q.Addr().Is4() == p.Addr().Is4() }) {
			errs = append(errs, fmt.Errorf("podCIDRs has a second range of the family of %s", p))
		}
		if p.Addr().BitLen()-p.Bits() < 2 {
			errs = append(errs, fmt.Errorf("podCIDRs: %s has no address for a pod", p))
		}
	}
	if c.BridgeNetfilter != "" && c.BridgeNetfilter != "off" {
		errs = append(errs, fmt.Errorf(`bridgeNetfilter %q is neither "off" nor empty`, c.BridgeNetfilter))
	}
	if b := string(c.RuntimeConfig.Bandwidth); b != "" && b != "{}" && b != "null" {
		errs = append(errs, errors.New("runtimeConfig.bandwidth: bandwidth limits are not implemented; remove the capability from the configuration"))
	}
	return errors.Join(errs...)
}

// hostPorts says what the runtime's port mappings lead to, for a pod with these addresses.
func (c *Config) hostPorts(pod []netip.Addr) ([]nat.HostPort, error) {
	var out []nat.HostPort
	for _, m := range c.RuntimeConfig.PortMappings {
		if m.HostPort == 0 {
			continue // the runtime lists ports that are only exposed, too
		}
		if m.HostPort < 0 || m.HostPort > 65535 || m.ContainerPort < 1 || m.ContainerPort > 65535 {
			return nil, fmt.Errorf("port mapping %d to %d is not between ports 1 and 65535", m.HostPort, m.ContainerPort)
		}
		proto, ok := map[string]nat.Protocol{"tcp": nat.TCP, "": nat.TCP, "udp": nat.UDP, "sctp": nat.SCTP}[strings.ToLower(m.Protocol)]
		if !ok {
			return nil, fmt.Errorf("port mapping %d: protocol %q is not tcp, udp or sctp", m.HostPort, m.Protocol)
		}
		var host netip.Addr
		if m.HostIP != "" {
			a, err := netip.ParseAddr(m.HostIP)
			if err != nil {
				return nil, fmt.Errorf("port mapping %d: %w", m.HostPort, err)
			}
			host = a.Unmap()
		}
		for _, a := range pod {
			p := nat.HostPort{HostIP: host, Protocol: proto, Port: uint16(m.HostPort), Pod: netip.AddrPortFrom(a, uint16(m.ContainerPort))}
			if host.IsValid() && host.Is4() != a.Is4() {
				continue
			}
			if host.IsUnspecified() {
				p.HostIP = netip.Addr{}
			}
			out = append(out, p)
		}
	}
	return out, nil
}
