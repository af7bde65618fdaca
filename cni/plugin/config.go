package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// Config is the plugin's part of a network configuration: what stands in the conflist, and what the runtime adds. Most keys are those of
// the plugins bridge and host-local, and mean the same.
type Config struct {
	CNIVersion   string
	Name         string
	Type         string
	Capabilities map[string]bool
	IPAM         json.RawMessage
	DNS          types.DNS
	RawPrev      json.RawMessage
	// Args are for all plugins: what is not this one's is left alone.
	Args             json.RawMessage
	ValidAttachments []types.GCAttachment
	attachmentsTold  bool // by GC's caller; none is something else than no list

	// Bridge is the node's bridge for this network; made when missing. Empty: "cni0" beside ipam, as with the plugin bridge, else "orlop0".
	Bridge string
	// IsGateway gives the bridge the gateway's address of each range in use, and turns on forwarding.
	IsGateway *bool
	// IsDefaultGateway adds default routes to the container, via the bridge; it includes IsGateway. Nil: true without ipam.
	IsDefaultGateway *bool
	// ForceAddress false refuses a bridge that has an address of another network; nil and true replace the address.
	ForceAddress *bool
	// IPMasq gives containers' packets to the outside the node's address.
	IPMasq        bool
	IPMasqBackend string
	// MTU of both ends of the link, in bytes; 0: that of the link with the node's default route.
	MTU int
	// RouteMTU is that of the default routes that IsDefaultGateway adds, in bytes; 0: the link's. Where some packets go over a tunnel, containers need not
	// find out, and among themselves still send as much as the link takes.
	RouteMTU int
	// HairpinMode lets the bridge send a frame back where it came from. Nil: as the node's netfilter needs it, see BridgeNetfilter.
	HairpinMode *bool
	PromiscMode bool
	// VLAN the container's port is in, untagged; 0: none.
	VLAN                int
	VLANTrunk           []trunk
	PreserveDefaultVLAN *bool
	// MacSpoofChk drops frames from the container with another source address than its own.
	MacSpoofChk               bool
	DisableContainerInterface bool
	// PortIsolation keeps frames from other isolated ports of the bridge.
	PortIsolation bool
	// EnableDAD leaves IPv6's duplicate address detection on, and with it a wait of 1 to 2 s before an address works.
	EnableDAD bool

	// PodCIDRs are the addresses of this node's containers: one range of a family, each container gets one address of each.
	PodCIDRs []netip.Prefix
	// PodCIDRsFile is where the agent writes them, for a node that does not know them yet: {"podCIDRs": [...]}.
	PodCIDRsFile string
	// DirectCIDRs are destinations to which containers keep their own address although IPMasq is set: all pods of the cluster.
	DirectCIDRs []netip.Prefix
	// BridgeNetfilter "off" keeps bridged packets out of netfilter in the node's network namespace; when empty the setting is
	// left alone and ports of the bridge reflect, as a netfilter service proxy needs it.
	BridgeNetfilter string
	// StateDir is where leases are kept; empty: ipam.dataDir, or "/var/lib/cni/orlop".
	StateDir string
	// Sysctl is set in the container's namespace, below net. only; IFNAME in a key stands for the interface.
	Sysctl map[string]string

	RuntimeConfig runtimeConfig // what the runtime adds, by capability

	prev types.Result // decoded RawPrev; nil without
	addressing
}

var capabilities = []string{"aliases", "bandwidth", "dns", "ipRanges", "ips", "mac", "portMappings"}

type portMapping struct {
	HostPort      int
	ContainerPort int
	Protocol      string
	HostIP        string
}

type runtimeConfig struct {
	PortMappings []portMapping
	Bandwidth    bandwidth
	IPs          []string
	MAC          string
	Aliases      json.RawMessage
	DNS          types.DNS // CRI has options beside the specification's servers and searches
	IPRanges     [][]ipRange
}

// trunk is a VLAN, or a span of them, that the container's port carries tagged.
type trunk struct {
	ID    *int
	MinID *int
	MaxID *int
}

// requested is what a user asks for by args.cni.
type requested struct {
	IPs []string `json:"ips"`
	MAC string   `json:"mac"`
}

func (c *Config) fields() fields {
	return fields{
		{"cniVersion", &c.CNIVersion}, {"name", &c.Name}, {"type", &c.Type}, {"capabilities", &c.Capabilities}, {"ipam", &c.IPAM},
		{"prevResult", &c.RawPrev}, {"args", &c.Args}, {"cni.dev/valid-attachments", reader(c.readAttachments)},
		{"cni.dev/attachments", reader(c.readAttachments)}, // its name in version 1.1.0; the specification's library gives both
		{"dns", part(func() fields {
			return fields{{"nameservers", &c.DNS.Nameservers}, {"domain", &c.DNS.Domain}, {"search", &c.DNS.Search}, {"options", &c.DNS.Options}}
		})},
		{"bridge", &c.Bridge}, {"isGateway", &c.IsGateway}, {"isDefaultGateway", &c.IsDefaultGateway}, {"forceAddress", &c.ForceAddress},
		{"ipMasq", &c.IPMasq}, {"ipMasqBackend", &c.IPMasqBackend}, {"mtu", &c.MTU}, {"routeMTU", &c.RouteMTU}, {"hairpinMode", &c.HairpinMode}, {"promiscMode", &c.PromiscMode},
		{"vlan", &c.VLAN}, {"vlanTrunk", objects(&c.VLANTrunk, (*trunk).fields)}, {"preserveDefaultVlan", &c.PreserveDefaultVLAN},
		{"macspoofchk", &c.MacSpoofChk}, {"disableContainerInterface", &c.DisableContainerInterface}, {"portIsolation", &c.PortIsolation},
		{"enabledad", &c.EnableDAD}, {"podCIDRs", &c.PodCIDRs}, {"podCIDRsFile", &c.PodCIDRsFile}, {"directCIDRs", &c.DirectCIDRs},
		{"bridgeNetfilter", &c.BridgeNetfilter}, {"stateDir", &c.StateDir}, {"sysctl", &c.Sysctl}, {"runtimeConfig", part(c.RuntimeConfig.fields)},
	}
}

func (c *Config) readAttachments(path string, raw []byte) error {
	var list []types.GCAttachment
	err := into(&list)(path, raw)
	c.ValidAttachments, c.attachmentsTold = append(c.ValidAttachments, list...), true
	return err
}

func (r *runtimeConfig) fields() fields {
	return fields{
		{"portMappings", objects(&r.PortMappings, (*portMapping).fields)}, {"bandwidth", part(r.Bandwidth.fields)},
		{"ips", &r.IPs}, {"mac", &r.MAC}, {"aliases", &r.Aliases},
		{"dns", part(func() fields {
			return fields{{"servers", &r.DNS.Nameservers}, {"searches", &r.DNS.Search}, {"options", &r.DNS.Options}}
		})},
		{"ipRanges", ranges(&r.IPRanges)},
	}
}

func (m *portMapping) fields() fields {
	return fields{{"hostPort", &m.HostPort}, {"containerPort", &m.ContainerPort}, {"protocol", &m.Protocol}, {"hostIP", &m.HostIP}}
}

func (t *trunk) fields() fields {
	return fields{{"id", &t.ID}, {"minID", &t.MinID}, {"maxID", &t.MaxID}}
}

func (b *bandwidth) fields() fields {
	return fields{{"ingressRate", &b.IngressRate}, {"ingressBurst", &b.IngressBurst}, {"egressRate", &b.EgressRate}, {"egressBurst", &b.EgressBurst}}
}

// Parse reads a configuration and refuses what the plugin cannot do. Its errors carry the specification's codes.
func Parse(stdin []byte) (*Config, error) {
	c := &Config{}
	if err := object("", stdin, c.fields()); err != nil {
		return nil, err
	}
	if len(c.RawPrev) > 0 && string(c.RawPrev) != "null" {
		prev := &types.PluginConf{CNIVersion: c.CNIVersion}
		if err := json.Unmarshal(c.RawPrev, &prev.RawPrevResult); err != nil {
			return nil, types.NewError(types.ErrDecodingFailure, "decode prevResult", err.Error())
		}
		if len(prev.RawPrevResult) > 0 {
			if err := version.ParsePrevResult(prev); err != nil {
				return nil, types.NewError(types.ErrDecodingFailure, "decode prevResult", err.Error())
			}
			c.prev = prev.PrevResult
		}
	}
	if err := c.address(); err != nil {
		return nil, err
	}
	if c.Bridge == "" {
		c.Bridge = "orlop0"
		if c.hasIPAM {
			c.Bridge = "cni0"
		}
	}
	if err := c.validate(); err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "network configuration is not valid", err.Error())
	}
	return c, nil
}

func (c *Config) validate() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Name == "" || c.Name == "." || c.Name == ".." || c.Name == "lock" || strings.ContainsAny(c.Name, "/\x00") {
		wrong("name %q is not a file name", c.Name)
	}
	if len(c.Name) > 249 { // NFT_NAME_MAXLEN, and what package nat puts before it
		wrong("name %s... is longer than 249 characters", c.Name[:40])
	}
	if validInterface(c.Bridge) != nil || strings.Contains(c.Bridge, "\x00") {
		wrong("bridge %q is not an interface name: at most 15 characters without blanks and any of /:%%", c.Bridge)
	}
	for _, f := range []struct {
		name string
		mtu  int
	}{{"mtu", c.MTU}, {"routeMTU", c.RouteMTU}} {
		if f.mtu != 0 && (f.mtu < 68 || f.mtu > 65535) { // RFC 791
			wrong("%s %d is not between 68 and 65535", f.name, f.mtu)
		}
	}
	if !filepath.IsAbs(c.StateDir) {
		wrong("stateDir %s is not an absolute path", c.StateDir)
	}
	if c.MTU > 0 && c.MTU < 1280 && slices.ContainsFunc(c.PodCIDRs, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		wrong("mtu %d is less than the 1280 that IPv6 needs", c.MTU)
	}
	switch c.IPMasqBackend {
	case "", "nftables":
	default:
		wrong(`ipMasqBackend %q: allowed is "nftables"`, c.IPMasqBackend)
	}
	if c.BridgeNetfilter != "" && c.BridgeNetfilter != "off" {
		wrong(`bridgeNetfilter %q is neither "off" nor empty`, c.BridgeNetfilter)
	}
	if c.PromiscMode && c.HairpinMode != nil && *c.HairpinMode {
		wrong("hairpinMode and promiscMode exclude each other")
	}
	if c.DisableContainerInterface && (len(c.sets) > 0 || c.delegate != "") {
		wrong("disableContainerInterface leaves no place for the addresses of ipam: remove one of them")
	}
	for name := range c.Capabilities {
		if !slices.Contains(capabilities, name) {
			wrong("capabilities.%s: allowed are %s", name, strings.Join(capabilities, ", "))
		}
	}
	for key := range c.Sysctl {
		if !strings.HasPrefix(key, "net.") && !strings.HasPrefix(key, "net/") || strings.Contains(key, "..") {
			wrong("sysctl %q: only those below net. belong to a network namespace", key)
		}
	}
	errs = append(errs, c.validateVLAN(), c.RuntimeConfig.Bandwidth.validate())
	_, err := c.aliases()
	return errors.Join(append(errs, err)...)
}

func (c *Config) validateVLAN() error {
	var errs []error
	if c.VLAN < 0 || c.VLAN > 4094 {
		errs = append(errs, fmt.Errorf("vlan %d is not between 0 and 4094", c.VLAN))
	}
	if name := c.gatewayLink(); name != c.Bridge && validInterface(name) != nil {
		errs = append(errs, fmt.Errorf("vlan %d with isGateway makes a link %s, whose name is longer than 15 characters: give the bridge a shorter one", c.VLAN, name))
	}
	if _, err := vlans(c.VLANTrunk); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// vlans lists the ids of trunks.
func vlans(trunks []trunk) ([]uint16, error) {
	var out []uint16
	for i, t := range trunks {
		low, high := t.MinID, t.MaxID
		if t.ID != nil && low == nil && high == nil {
			low, high = t.ID, t.ID
		}
		if low == nil || high == nil || t.ID != nil && t.ID != low {
			return nil, fmt.Errorf("vlanTrunk[%d]: either id, or minID and maxID", i)
		}
		if *low < 1 || *high > 4094 || *high < *low {
			return nil, fmt.Errorf("vlanTrunk[%d]: %d to %d is not between 1 and 4094", i, *low, *high)
		}
		for id := *low; id <= *high; id++ {
			out = append(out, uint16(id))
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// aliases are further names of the container: a list, or one per network, of which this network's counts.
func (c *Config) aliases() ([]string, error) {
	raw := c.RuntimeConfig.Aliases
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var list []string
	if json.Unmarshal(raw, &list) == nil {
		return list, nil
	}
	var byNetwork map[string][]string
	if err := json.Unmarshal(raw, &byNetwork); err != nil {
		return nil, errors.New("runtimeConfig.aliases is neither a list of names nor an object with one for each network")
	}
	return byNetwork[c.Name], nil
}

// gateway says whether the bridge has the ranges' gateway addresses.
func (c *Config) gateway() bool {
	return c.IsGateway != nil && *c.IsGateway || c.defaultGateway()
}

func (c *Config) defaultGateway() bool {
	if c.IsDefaultGateway == nil {
		return !c.hasIPAM
	}
	return *c.IsDefaultGateway
}

// varied says that containers of the network may have addresses of subnets that the configuration does not tell.
func (c *Config) varied() bool {
	return c.delegate != "" || len(c.RuntimeConfig.IPRanges) > 0 || c.Capabilities["ipRanges"]
}

func (c *Config) hairpin() bool {
	if c.HairpinMode != nil {
		return *c.HairpinMode
	}
	// A host port that leads a container to itself, over a bridge that netfilter sees, goes back where it came from.
	return c.BridgeNetfilter != "off" && !c.PromiscMode && (!c.hasIPAM || len(c.RuntimeConfig.PortMappings) > 0)
}
