package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/orlop-io/orlop/cni/ipam"
	"github.com/orlop-io/orlop/cni/jsonparts"
)

// addressing is where a container's addresses come from.
type addressing struct {
	hasIPAM  bool   // the configuration has ipam, so what is left out means what it means to the plugin bridge
	delegate string // another plugin gives addresses; then sets is empty
	sets     []ipam.Set
	reserved []netip.Prefix
	routes   []*types.Route
	resolvs  string // file of ipam.resolvConf
	pending  error  // the pod CIDRs are not known yet
}

// ipamConfig is ipam of type host-local or orlop-cni. Keys are host-local's, but reserved.
type ipamConfig struct {
	Type string
	ipRange
	Ranges     [][]ipRange
	Routes     []*types.Route
	DataDir    string
	ResolvConf string
	// Reserved are addresses that a container gets only by asking for them.
	Reserved []string
}

type ipRange struct{ Subnet, RangeStart, RangeEnd, Gateway string }

func (c *ipamConfig) fields() fields {
	routes := list(func(path string, raw []byte) error {
		// The library's form of a route reads more than it says; its names are checked here.
		var ignored json.RawMessage
		names := fields{{"dst", &ignored}, {"gw", &ignored}, {"mtu", &ignored}, {"advmss", &ignored}, {"priority", &ignored}, {"table", &ignored}, {"scope", &ignored}}
		if err := object(path, raw, names); err != nil {
			return err
		}
		route := &types.Route{}
		c.Routes = append(c.Routes, route)
		if err := into(route)(path, raw); err != nil || len(route.Dst.IP) > 0 {
			return err
		}
		return wrong("%s.dst is missing", path)
	})
	return append(c.ipRange.fields(), fields{
		{"type", &c.Type}, {"ranges", ranges(&c.Ranges)}, {"dataDir", &c.DataDir}, {"resolvConf", &c.ResolvConf}, {"reserved", &c.Reserved}, {"routes", routes},
	}...)
}

func (r *ipRange) fields() fields {
	return fields{{"subnet", &r.Subnet}, {"rangeStart", &r.RangeStart}, {"rangeEnd", &r.RangeEnd}, {"gateway", &r.Gateway}}
}

// ranges reads a list of sets.
func ranges(out *[][]ipRange) reader {
	return list(func(path string, raw []byte) error {
		var set []ipRange
		if err := objects(&set, (*ipRange).fields)(path, raw); err != nil {
			return err
		}
		*out = append(*out, set)
		return nil
	})
}

// address works out where addresses come from, and completes PodCIDRs and StateDir.
func (c *Config) address() error {
	c.hasIPAM = len(c.IPAM) > 0 && string(c.IPAM) != "null"
	var err error
	if c.hasIPAM {
		err = c.addressByIPAM()
	} else {
		err = c.addressByCIDRs()
	}
	if c.StateDir == "" {
		c.StateDir = "/var/lib/cni/orlop"
	}
	if err == nil {
		return nil
	}
	if e := (*types.Error)(nil); errors.As(err, &e) {
		return e
	}
	return types.NewError(types.ErrInvalidNetworkConfig, "network configuration is not valid", err.Error())
}

func (c *Config) addressByCIDRs() error {
	if len(c.PodCIDRs) > 0 && c.PodCIDRsFile != "" {
		return errors.New("podCIDRs and podCIDRsFile exclude each other")
	}
	if c.PodCIDRsFile != "" {
		c.PodCIDRs, c.pending = readCIDRs(c.PodCIDRsFile)
		if c.pending != nil {
			return nil
		}
	}
	if len(c.PodCIDRs) == 0 {
		return errors.New("podCIDRs is empty, and there is neither podCIDRsFile nor ipam")
	}
	families := map[bool]netip.Prefix{}
	for i, p := range c.PodCIDRs {
		if other, ok := families[p.Addr().Is4()]; ok {
			return fmt.Errorf("podCIDRs has a second range of the family of %s: %s; several of one family are ipam.ranges", other, p)
		}
		families[p.Addr().Is4()] = p
		set, err := ipam.Set{ipam.RangeOf(p)}.Normal()
		if err != nil {
			return fmt.Errorf("podCIDRs[%d]: %w", i, err)
		}
		c.sets = append(c.sets, set)
	}
	return c.takeRuntimes()
}

// takeRuntimes puts the runtime's ranges before the configuration's, as host-local does.
func (c *Config) takeRuntimes() error {
	var sets []ipam.Set
	var cidrs []netip.Prefix
	for i, list := range c.RuntimeConfig.IPRanges {
		set, err := setOf(list)
		if err != nil {
			return fmt.Errorf("runtimeConfig.ipRanges[%d]: %w", i, err)
		}
		sets = append(sets, set)
		for _, r := range set {
			cidrs = append(cidrs, r.Subnet)
		}
	}
	if len(sets) > 0 {
		c.sets, c.PodCIDRs = append(sets, c.sets...), append(cidrs, c.PodCIDRs...)
	}
	if err := ipam.Disjoint(c.sets); err != nil {
		return fmt.Errorf("ranges: %w", err)
	}
	return nil
}

// readCIDRs reads what the agent wrote.
func readCIDRs(path string) ([]netip.Prefix, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("this node has no pod CIDR yet: %s is not there", path)
	}
	var file struct {
		PodCIDRs []netip.Prefix `json:"podCIDRs"`
	}
	if m, ok := jsonparts.Members(b); err == nil && !(ok && len(m) == 1 && m[0].Name == "podCIDRs" && plainPrefixes(&file.PodCIDRs, m[0].Value)) {
		err = json.Unmarshal(b, &file)
	}
	if err == nil && len(file.PodCIDRs) == 0 {
		err = errors.New("it names none")
	}
	if err != nil {
		return nil, fmt.Errorf("read this node's pod CIDRs from %s: %w", path, err)
	}
	return file.PodCIDRs, nil
}

func (c *Config) addressByIPAM() error {
	if len(c.PodCIDRs) > 0 || c.PodCIDRsFile != "" {
		return errors.New("podCIDRs and podCIDRsFile are for configurations without ipam")
	}
	kind, err := typeOf(c.IPAM)
	if err != nil {
		return errors.New("ipam is not an object with a type that is a string")
	}
	switch kind {
	case "host-local", "orlop-cni":
	case "":
		if s := strings.ReplaceAll(string(c.IPAM), " ", ""); s != "{}" {
			return errors.New(`ipam.type is missing; "host-local" and "orlop-cni" are served by this plugin`)
		}
		return nil // a link without addresses
	default:
		if strings.ContainsAny(kind, "/\x00") {
			return fmt.Errorf("ipam.type %q is not a file name", kind)
		}
		c.delegate = kind
		return nil
	}
	var conf ipamConfig
	if err := object("ipam", c.IPAM, conf.fields()); err != nil {
		return err
	}
	return c.take(conf)
}

func typeOf(raw []byte) (string, error) {
	members, _ := jsonparts.Members(raw)
	members = slices.DeleteFunc(members, func(m jsonparts.Member) bool { return !strings.EqualFold(m.Name, "type") })
	if len(members) == 1 && members[0].Name == "type" {
		if text, ok := jsonparts.Text(members[0].Value); ok {
			return text, nil
		}
	}
	var kind struct {
		Type string `json:"type"`
	}
	err := json.Unmarshal(raw, &kind)
	return kind.Type, err
}

// take turns ipam into sets.
func (c *Config) take(conf ipamConfig) error {
	lists := append([][]ipRange{}, conf.Ranges...)
	if conf.Subnet != "" {
		lists = append([][]ipRange{{conf.ipRange}}, lists...)
	} else if conf.ipRange != (ipRange{}) {
		return errors.New("ipam has rangeStart, rangeEnd or gateway without subnet")
	}
	if len(lists) == 0 && len(c.RuntimeConfig.IPRanges) == 0 {
		return errors.New("ipam has neither subnet nor ranges")
	}
	for i, list := range lists {
		set, err := setOf(list)
		if err != nil {
			return fmt.Errorf("ipam.ranges[%d]: %w", i, err)
		}
		c.sets = append(c.sets, set)
		for _, r := range set {
			c.PodCIDRs = append(c.PodCIDRs, r.Subnet)
		}
	}
	if err := c.takeRuntimes(); err != nil {
		return err
	}
	for i, s := range conf.Reserved {
		p, err := prefixOrAddr(s)
		if err != nil {
			return fmt.Errorf("ipam.reserved[%d]: %w", i, err)
		}
		c.reserved = append(c.reserved, p)
	}
	c.routes = conf.Routes
	if conf.DataDir != "" && !filepath.IsAbs(conf.DataDir) {
		return fmt.Errorf("ipam.dataDir %s is not an absolute path", conf.DataDir)
	}
	if c.StateDir == "" {
		c.StateDir = conf.DataDir
	}
	if c.StateDir == "" && conf.Type == "host-local" {
		c.StateDir = "/var/lib/cni/networks" // host-local's: what it gave stays taken
	}
	c.resolvs = conf.ResolvConf
	return nil
}

func setOf(list []ipRange) (ipam.Set, error) {
	var set ipam.Set
	for _, r := range list {
		subnet, err := netip.ParsePrefix(r.Subnet)
		if err != nil {
			return nil, fmt.Errorf("subnet: %w", err)
		}
		out := ipam.Range{Subnet: subnet}
		for _, f := range []struct {
			name, text string
			field      *netip.Addr
		}{{"rangeStart", r.RangeStart, &out.Start}, {"rangeEnd", r.RangeEnd, &out.End}, {"gateway", r.Gateway, &out.Gateway}} {
			if f.text == "" {
				continue
			}
			if *f.field, err = netip.ParseAddr(f.text); err != nil {
				return nil, fmt.Errorf("%s: %w", f.name, err)
			}
		}
		set = append(set, out)
	}
	return set.Normal()
}

func prefixOrAddr(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a subnet", s)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// readDNS reads ipam.resolvConf, for ADD: it may be gone when DEL comes.
func (c *Config) readDNS() (types.DNS, error) {
	if c.resolvs == "" {
		return types.DNS{}, nil
	}
	b, err := os.ReadFile(c.resolvs)
	if err != nil {
		return types.DNS{}, fmt.Errorf("ipam.resolvConf: %w", err)
	}
	var dns types.DNS
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			dns.Nameservers = append(dns.Nameservers, f[1])
		case "domain":
			dns.Domain = f[1]
		case "search":
			dns.Search = append(dns.Search, f[1:]...)
		case "options":
			dns.Options = append(dns.Options, f[1:]...)
		}
	}
	return dns, nil
}

// wish is what a container asks for, by CNI_ARGS, args.cni or a capability.
type wish struct {
	ips []netip.Addr
	mac net.HardwareAddr
	pod string // namespace and name, where a Kubernetes runtime says them
}

func (c *Config) wishOf(cniArgs string) (wish, error) {
	var w wish
	args := map[string]string{}
	for pair := range strings.SplitSeq(cniArgs, ";") {
		if k, v, ok := strings.Cut(pair, "="); ok {
			args[k] = v
		}
	}
	if args["K8S_POD_NAME"] != "" {
		w.pod = strings.TrimPrefix(args["K8S_POD_NAMESPACE"]+"/"+args["K8S_POD_NAME"], "/")
	}
	var byArgs struct {
		CNI requested `json:"cni"`
	}
	if len(c.Args) > 0 {
		if err := json.Unmarshal(c.Args, &byArgs); err != nil {
			return w, fmt.Errorf("args.cni: %w", err)
		}
	}
	texts := append(append([]string{}, byArgs.CNI.IPs...), c.RuntimeConfig.IPs...)
	if args["IP"] != "" {
		texts = append(texts, strings.Split(args["IP"], ",")...)
	}
	for _, s := range texts {
		host, _, _ := strings.Cut(s, "/")
		a, err := netip.ParseAddr(host)
		if err != nil {
			return w, fmt.Errorf("requested address %q: %w", s, err)
		}
		w.ips = append(w.ips, a.Unmap())
	}
	for _, s := range []string{args["MAC"], byArgs.CNI.MAC, c.RuntimeConfig.MAC} { // the last one counts
		if s == "" {
			continue
		}
		mac, err := net.ParseMAC(s)
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00" {
			return w, fmt.Errorf("requested hardware address %q is not one that an interface can have", s)
		}
		w.mac = mac
	}
	return w, nil
}
