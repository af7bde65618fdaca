package plugin

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const noVLANs = "vlan, vlanTrunk: the kernel has no VLANs on bridges (CONFIG_BRIDGE_VLAN_FILTERING)"

// ownVLAN is where a bridge puts frames without a tag, those of its own address among them.
const ownVLAN = 1

func (c *Config) vlans() bool { return c.VLAN > 0 || len(c.VLANTrunk) > 0 }

// gatewayLink names the link that has the gateways' addresses: the bridge or, for containers in a VLAN that is not the bridge's own, its
// link in there, which is called as the plugin bridge calls it.
func (c *Config) gatewayLink() string {
	if !c.gateway() || c.VLAN <= ownVLAN {
		return c.Bridge
	}
	return fmt.Sprintf("%s.%d", c.Bridge, c.VLAN)
}

func (n *namespace) filterVLANs(bridge *link) error {
	err := n.sock.tell(nil, vlanFiltering(bridge.index))
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%s: %w", noVLANs, err)
	}
	if err != nil {
		return fmt.Errorf("make bridge %s heed VLANs (vlan_filtering): %w", bridge.name, err)
	}
	return nil
}

// setVLANs gives a port of the bridge its VLANs.
func setVLANs(lib *netlink.Handle, l *link, conf *Config) error {
	trunks, err := vlans(conf.VLANTrunk)
	if err != nil {
		return err
	}
	port := l.device()
	if conf.PreserveDefaultVLAN != nil && !*conf.PreserveDefaultVLAN {
		if err := lib.BridgeVlanDel(port, ownVLAN, true, true, false, true); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("preserveDefaultVlan: %w", err)
		}
	}
	if conf.VLAN > 0 {
		if err := lib.BridgeVlanAdd(port, uint16(conf.VLAN), true, true, false, true); err != nil {
			return fmt.Errorf("vlan: %w", err)
		}
	}
	for _, id := range trunks {
		if err := lib.BridgeVlanAdd(port, id, false, false, false, true); err != nil {
			return fmt.Errorf("vlanTrunk: %w", err)
		}
	}
	return nil
}

// ensureVLANLink makes the bridge's link in the containers' VLAN. It goes with the bridge.
func (n *namespace) ensureVLANLink(bridge *link, conf *Config) (*link, error) {
	lib, err := n.lib()
	if err != nil {
		return nil, err
	}
	name := conf.gatewayLink()
	there, err := lib.LinkByName(name)
	if isNotFound(err) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = name, bridge.index
		err = lib.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: conf.VLAN, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q})
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil, fmt.Errorf("the kernel has no VLAN links (CONFIG_VLAN_8021Q): %w", err)
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, err
		}
		conf.skipDAD(name)
		there, err = lib.LinkByName(name)
	}
	if err != nil {
		return nil, err
	}
	switch l := there.(type) {
	case *netlink.Vlan:
		if l.ParentIndex != bridge.index || l.VlanId != conf.VLAN {
			return nil, fmt.Errorf("%s is there already, in VLAN %d of another link", name, l.VlanId)
		}
		if err := lib.BridgeVlanAdd(bridge.device(), uint16(conf.VLAN), false, false, true, false); err != nil {
			return nil, fmt.Errorf("let VLAN %d through to bridge %s: %w", conf.VLAN, bridge.name, err)
		}
	case *netlink.Veth: // what the plugin bridge makes, one end in the VLAN; it serves as well
		if port, err := lib.LinkByIndex(l.ParentIndex); err != nil || port.Attrs().MasterIndex != bridge.index {
			return nil, fmt.Errorf("%s is there already, and does not lead to the bridge", name)
		}
	default:
		return nil, fmt.Errorf("%s is there already, and is a %s", name, there.Type())
	}
	return n.must(name)
}
