package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// What a KubeProxyConfiguration says beside what flags of the agent say too.
type proxyConfiguration struct {
	nodePorts      []netip.Prefix // node ports answer at this node's addresses in these; none: at its primary ones
	primaryToo     bool           // and at its primary ones
	loopbackToo    bool           // and at 127.0.0.1 and ::1: asked for by name
	bind           netip.Addr     // this node's primary address of a family; not valid: the Node's
	hardFail       bool           // a port that is taken ends the agent
	jsonLog        bool
	accept, encode string // media types for the API; empty: the agent's own choice
	qps            float32
	burst          int
	conntrack      []setting // of the kernel's table of flows
}

// readKubeProxy reads a KubeProxyConfiguration strictly. A field that is not known, and a value that the agent cannot honour, is refused by name.
func readKubeProxy(path string) (*kubeproxy.KubeProxyConfiguration, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read --config: %w", err)
	}
	var c kubeproxy.KubeProxyConfiguration
	text, err := yaml.YAMLToJSONStrict(b)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	unknown, err := json.UnmarshalStrict(text, &c)
	if err = errors.Join(append(unknown, err)...); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if c.APIVersion != kubeproxy.GroupName+"/v1alpha1" || c.Kind != "KubeProxyConfiguration" {
		return nil, fmt.Errorf("read %s: it is %s %s, want %s/v1alpha1 KubeProxyConfiguration", path, c.APIVersion, c.Kind, kubeproxy.GroupName)
	}
	if err := unsupported(&c); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return &c, nil
}

// rule is a field that has no effect here, with the values that ask for none: the zero and upstream's defaults.
type rule struct {
	field string
	value any
	fine  []any
	why   string
}

// unsupported joins a complaint for every value that asks for what the agent does not do.
func unsupported(c *kubeproxy.KubeProxyConfiguration) error {
	rules := []rule{
		{"enableProfiling", c.EnableProfiling, nil, "the agent has no profiling handlers"},
		{"featureGates", len(c.FeatureGates), nil, "the agent has none"},
		{"iptables.localhostNodePorts", c.IPTables.LocalhostNodePorts, []any{true}, "node ports answer at 127.0.0.1 where the mode can do it (orlop-agent limits)"},
		{"iptables.masqueradeAll", c.IPTables.MasqueradeAll, nil, "only what needs it is masqueraded"},
		{"iptables.masqueradeBit", c.IPTables.MasqueradeBit, []any{int32(14)}, "no bit of the mark can be chosen"},
		{"nftables.masqueradeAll", c.NFTables.MasqueradeAll, nil, "only what needs it is masqueraded"},
		{"nftables.masqueradeBit", c.NFTables.MasqueradeBit, []any{int32(14)}, "no bit of the mark can be chosen"},
		{"ipvs.scheduler", c.IPVS.Scheduler, []any{"rr"}, "there is no ipvs mode"},
		{"ipvs.excludeCIDRs", len(c.IPVS.ExcludeCIDRs), nil, "there is no ipvs mode"},
		{"ipvs.strictARP", c.IPVS.StrictARP, nil, "there is no ipvs mode"},
		{"ipvs.tcpTimeout", c.IPVS.TCPTimeout, nil, "there is no ipvs mode"},
		{"ipvs.tcpFinTimeout", c.IPVS.TCPFinTimeout, nil, "there is no ipvs mode"},
		{"ipvs.udpTimeout", c.IPVS.UDPTimeout, nil, "there is no ipvs mode"},
		{"winkernel", c.Winkernel, nil, "the agent runs on Linux"},
		{"windowsRunAsService", c.WindowsRunAsService, nil, "the agent runs on Linux"},
		{"oomScoreAdj", c.OOMScoreAdj, []any{int32(-999)}, "the kubelet sets it, by the pod's priority"},
		{"logging.format", c.Logging.Format, []any{"text", "json"}, "want text or json"},
		{"detectLocalMode", c.DetectLocalMode, []any{kubeproxy.LocalMode("ClusterCIDR"), kubeproxy.LocalMode("NodeCIDR")}, "pods of the node are told by its ranges: want ClusterCIDR or NodeCIDR"},
		{"detectLocal.bridgeInterface", c.DetectLocal.BridgeInterface, nil, "pods of the node are told by its ranges"},
		{"detectLocal.interfaceNamePrefix", c.DetectLocal.InterfaceNamePrefix, nil, "pods of the node are told by its ranges"},
	}
	var errs []error
	for _, r := range rules {
		v := reflect.ValueOf(r.value)
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				continue
			}
			v = v.Elem()
		} else if v.IsZero() {
			continue
		}
		if !slices.ContainsFunc(r.fine, func(ok any) bool { return reflect.DeepEqual(ok, v.Interface()) }) {
			errs = append(errs, fmt.Errorf("%s: %v is not supported: %s", r.field, v.Interface(), r.why))
		}
	}
	return errors.Join(errs...)
}

// configure takes what the file says over what flags say, as kube-proxy does, and says which flags lost. What says where this pod or this node is (given
// names the flags that were given) stays: kube-proxy lets its node's name be overridden, and the kubeconfig is where the pod has it.
func (o *options) configure(c *kubeproxy.KubeProxyConfiguration, given func(flag string) bool) (lost []string, err error) {
	var errs []error
	take := func(flag string, set func()) {
		if given(flag) {
			lost = append(lost, flag)
		}
		set()
	}
	take("proxy-mode", func() { o.proxyMode = string(c.Mode) })
	take("healthz-bind-address", func() { o.healthz, err = bindAddress(c.HealthzBindAddress, "0.0.0.0", 10256) })
	errs = append(errs, named("healthzBindAddress", err))
	take("metrics-bind-address", func() { o.metrics, err = bindAddress(c.MetricsBindAddress, "127.0.0.1", 10249) })
	errs = append(errs, named("metricsBindAddress", err))
	if c.ClusterCIDR != "" {
		take("cluster-cidr", func() { o.clusterCIDRs = strings.Split(c.ClusterCIDR, ",") })
		_, err = prefixes("clusterCIDR", o.clusterCIDRs)
		errs = append(errs, err)
	}
	if !given("node-name") && c.HostnameOverride != "" {
		o.node = strings.ToLower(strings.TrimSpace(c.HostnameOverride))
	}
	if !given("kubeconfig") {
		o.kubeconfig = cmp.Or(c.ClientConnection.Kubeconfig, o.kubeconfig)
	}
	o.verbose = o.verbose || c.Logging.Verbosity >= 4
	p := &o.config
	p.jsonLog, p.hardFail = c.Logging.Format == "json", c.BindAddressHardFail
	p.accept, p.encode = c.ClientConnection.AcceptContentTypes, c.ClientConnection.ContentType
	p.qps, p.burst = c.ClientConnection.QPS, int(c.ClientConnection.Burst)
	if c.BindAddress != "" {
		p.bind, err = netip.ParseAddr(c.BindAddress)
		errs = append(errs, named("bindAddress", err))
		if p.bind.IsUnspecified() {
			p.bind = netip.Addr{}
		}
	}
	errs = append(errs, named("nodePortAddresses", p.answerAt(c.NodePortAddresses)))
	p.conntrack = conntrackSettings(c.Conntrack, runtime.NumCPU())
	return lost, errors.Join(errs...)
}

func named(field string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", field, err)
}

// bindAddress fills in what is missing, as kube-proxy does.
func bindAddress(text, host string, port int) (string, error) {
	if text == "" {
		return net.JoinHostPort(host, strconv.Itoa(port)), nil
	}
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return net.JoinHostPort(a.String(), strconv.Itoa(port)), nil
	}
	h, p, err := net.SplitHostPort(text)
	if err != nil {
		return "", err
	}
	if _, err := strconv.ParseUint(p, 10, 16); err != nil {
		return "", fmt.Errorf("%q is not a port", p)
	}
	return net.JoinHostPort(h, p), nil
}

// kube-proxy's words for addresses that node ports answer at.
const (
	primaryAddresses   = "primary" // the node's own, as its Node has them
	localhostAddresses = "localhost"
	allAddresses       = "all"
)

// answerAt reads ranges of addresses and words for some of them, in any combination.
func (p *proxyConfiguration) answerAt(list []string) error {
	p.nodePorts, p.primaryToo, p.loopbackToo = nil, false, false
	for _, text := range list {
		switch text {
		case primaryAddresses:
			p.primaryToo = true
		case localhostAddresses:
			p.loopbackToo = true
		case allAddresses:
			p.nodePorts = append(p.nodePorts, netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0))
		default:
			r, err := netip.ParsePrefix(text)
			if err != nil {
				return fmt.Errorf("%q: want ranges of addresses, %s, %s or %s", text, primaryAddresses, localhostAddresses, allAddresses)
			}
			p.nodePorts = append(p.nodePorts, r.Masked())
		}
	}
	if p.loopbackToo && !p.primaryToo && len(p.nodePorts) == 0 { // and nowhere else
		p.nodePorts = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	}
	return nil
}

// conntrackSettings are the sysctls that are asked for. What is not named stays as it is; kube-proxy would set a default of its own.
func conntrackSettings(c kubeproxy.KubeProxyConntrackConfiguration, cpus int) (out []setting) {
	const why = "conntrack of --config"
	add := func(name, value string) { out = append(out, setting{"net/netfilter/nf_conntrack_" + name, value, why}) }
	if c.MaxPerCore != nil && *c.MaxPerCore > 0 {
		least := 131072
		if c.Min != nil {
			least = int(*c.Min)
		}
		add("max", strconv.Itoa(max(int(*c.MaxPerCore)*cpus, least)))
	}
	seconds := func(name string, d time.Duration) {
		if d > 0 {
			add(name, strconv.Itoa(int(d/time.Second)))
		}
	}
	for name, d := range map[string]*metav1.Duration{"tcp_timeout_established": c.TCPEstablishedTimeout, "tcp_timeout_close_wait": c.TCPCloseWaitTimeout, "udp_timeout": &c.UDPTimeout, "udp_timeout_stream": &c.UDPStreamTimeout} {
		if d != nil {
			seconds(name, d.Duration)
		}
	}
	if c.TCPBeLiberal {
		add("tcp_be_liberal", "1")
	}
	slices.SortFunc(out, func(a, b setting) int { return cmp.Compare(a.key, b.key) })
	return out
}

// nodePortAddrs are where node ports answer from outside: the addresses of this node in the ranges that are given, or its primary ones of each family.
func (p proxyConfiguration) nodePortAddrs(inner, local []netip.Addr) (out []netip.Addr) {
	if len(p.nodePorts) == 0 || p.primaryToo {
		out = primary(inner)
		if i := slices.IndexFunc(out, func(a netip.Addr) bool { return a.Is4() == p.bind.Is4() }); p.bind.IsValid() && i >= 0 {
			out[i] = p.bind
		}
	}
	if len(p.nodePorts) == 0 {
		return out
	}
	for _, a := range local {
		if !a.IsLoopback() && slices.ContainsFunc(p.nodePorts, func(r netip.Prefix) bool { return r.Contains(a) }) {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// localAddrs are the addresses of the node's links.
func localAddrs() (out []netip.Addr) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out
}
