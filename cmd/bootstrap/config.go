package bootstrap

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"
)

// Config is what `orlop init` makes a control plane from.
type Config struct {
	NodeName        string
	Address         netip.Addr // of the API server, as other nodes see it
	Port            uint16
	Endpoint        string // host or host:port shared by all control planes; "" means Address:Port
	PodCIDR         netip.Prefix
	ServiceCIDR     netip.Prefix
	Domain          string
	ExtraSANs       []string
	ImageRepository string
	Version         string // tag of the images
	CRISocket       string
	Token           string
	TokenTTL        time.Duration // 0 means the token never expires
	Untainted       bool          // the node also runs ordinary pods
	CNI, Proxy      string        // who brings pods' network and translates services: "orlop" or "none", somebody else; empty is "orlop"
	ProxyMode       string        // how the agent translates services; empty is the best that each node can do
}

// EndpointHost is the host part of Endpoint, or "".
func (c Config) EndpointHost() string {
	host, _, err := net.SplitHostPort(c.Endpoint)
	if err != nil {
		return c.Endpoint
	}
	return host
}

// server is the URL that every client but this node's own controllers uses.
func (c Config) server() string {
	switch _, _, err := net.SplitHostPort(c.Endpoint); {
	case c.Endpoint == "":
		return c.localServer()
	case err != nil:
		return "https://" + net.JoinHostPort(c.Endpoint, strconv.Itoa(int(c.Port)))
	default:
		return "https://" + c.Endpoint
	}
}

func (c Config) localServer() string {
	return "https://" + netip.AddrPortFrom(c.Address, c.Port).String()
}

// dnsAddress is the tenth address of the service range.
func (c Config) dnsAddress() netip.Addr {
	a := c.ServiceCIDR.Masked().Addr()
	for range 10 {
		a = a.Next()
	}
	return a
}

// Validate joins all that is wrong with c, each with the flag that sets it.
func (c Config) Validate() error {
	var errs []error
	bad := func(flag, format string, args ...any) {
		errs = append(errs, fmt.Errorf("--%s: %s", flag, fmt.Sprintf(format, args...)))
	}
	for _, msg := range utilvalidation.IsDNS1123Subdomain(c.NodeName) {
		bad("node-name", "%q: %s", c.NodeName, msg)
	}
	if !c.Address.IsValid() || c.Address.IsLoopback() || c.Address.IsUnspecified() {
		bad("apiserver-advertise-address", "%s: want an address that other nodes can reach", c.Address)
	}
	if c.Port == 0 {
		bad("apiserver-bind-port", "0 is not a port")
	}
	for flag, cidr := range map[string]netip.Prefix{"pod-network-cidr": c.PodCIDR, "service-cidr": c.ServiceCIDR} {
		switch {
		case !cidr.IsValid():
			bad(flag, "want an address range such as 10.244.0.0/16")
		case !cidr.Addr().Is4():
			bad(flag, "%s: only IPv4 ranges are built yet", cidr)
		case cidr != cidr.Masked():
			bad(flag, "%s has host bits set, did you mean %s?", cidr, cidr.Masked())
		}
	}
	if c.PodCIDR.IsValid() && c.PodCIDR.Bits() > 24 {
		bad("pod-network-cidr", "%s holds no /24 for a node", c.PodCIDR)
	}
	if c.ServiceCIDR.IsValid() && (c.ServiceCIDR.Bits() > 24 || c.ServiceCIDR.Bits() < 12) {
		bad("service-cidr", "%s: want between /12 and /24", c.ServiceCIDR)
	}
	if c.PodCIDR.IsValid() && c.ServiceCIDR.IsValid() && c.PodCIDR.Overlaps(c.ServiceCIDR) {
		bad("service-cidr", "%s overlaps the pod network %s", c.ServiceCIDR, c.PodCIDR)
	}
	for _, msg := range utilvalidation.IsDNS1123Subdomain(c.Domain) {
		bad("service-dns-domain", "%q: %s", c.Domain, msg)
	}
	if c.Token != "" && !bootstraputil.IsValidBootstrapToken(c.Token) {
		bad("token", "want the form [a-z0-9]{6}.[a-z0-9]{16}")
	}
	if c.TokenTTL < 0 {
		bad("token-ttl", "%s is negative; 0 means that the token never expires", c.TokenTTL)
	}
	for flag, who := range map[string]string{"cni": c.CNI, "proxy": c.Proxy} {
		if who != "" && who != ours && who != none {
			bad(flag, "%q: want %s or %s", who, ours, none)
		}
	}
	switch {
	case c.ProxyMode == "":
	case c.Proxy == none:
		bad("proxy-mode", "%s: with --proxy=none services are translated by somebody else", c.ProxyMode)
	case !slices.Contains(proxyModes(), c.ProxyMode):
		bad("proxy-mode", "%q: want one of %s; without it each node takes the first of them that it can do", c.ProxyMode, strings.Join(proxyModes(), ", "))
	}
	return errors.Join(errs...)
}

// ours and none are who may bring a part of the nodes' network.
const ours, none = "orlop", "none"

// proxyModes are the node agent's.
func proxyModes() []string { return []string{"ebpf", "nftables", "iptables", "userspace"} }

// agentManifests are the files of the node agent with the parts that are not left to somebody else.
func (c Config) agentManifests() []string {
	switch {
	case c.CNI == none && c.Proxy == none:
		return nil
	case c.CNI == none:
		return []string{"install/proxy-only.yaml"}
	case c.Proxy == none:
		return []string{"install/cni-only.yaml"}
	default:
		return []string{"install/orlop-agent.yaml"}
	}
}

// defaultNodeName is the host's name as Kubernetes takes it.
func defaultNodeName() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return strings.ToLower(strings.TrimSpace(name))
}

// defaultAddress is the address of the interface that the default route leaves
// by, else the first global IPv4 address. Nothing is sent.
func defaultAddress() netip.Addr {
	// Connecting a UDP socket only looks up the route (192.0.2.0/24 is for
	// documentation, RFC 5737).
	if conn, err := net.Dial("udp4", "192.0.2.1:9"); err == nil {
		defer conn.Close()
		if a, ok := conn.LocalAddr().(*net.UDPAddr); ok {
			return a.AddrPort().Addr()
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}
