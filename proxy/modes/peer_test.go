package modes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/bpf/netnstest"
)

// kubeProxyNft is what kube-proxy has for no Service in its mode nftables.
const kubeProxyNft = `add table ip kube-proxy
add chain ip kube-proxy mark-for-masquerade
add rule ip kube-proxy mark-for-masquerade mark set mark or 0x4000
add chain ip kube-proxy masquerading
add rule ip kube-proxy masquerading mark and 0x4000 == 0 return
add rule ip kube-proxy masquerading mark set mark xor 0x4000
add rule ip kube-proxy masquerading masquerade fully-random
add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add chain ip kube-proxy services
add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100 ; }
add rule ip kube-proxy nat-prerouting jump services
add chain ip kube-proxy nat-output { type nat hook output priority -100 ; }
add rule ip kube-proxy nat-output jump services
add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority 100 ; }
add rule ip kube-proxy nat-postrouting jump masquerading
`

// kubeProxyService is what it has for a Service, as text.
func kubeProxyService(out *strings.Builder, i, n int, proto string) {
	id, ip := fmt.Sprintf("%010d-%s", i, proto), clusterIP(i)
	fmt.Fprintf(out, "add chain ip kube-proxy service-%s\nadd chain ip kube-proxy endpoint-%s-a\nadd chain ip kube-proxy endpoint-%s-b\n", id, id, id)
	for j, e := range ends(i, n) {
		fmt.Fprintf(out, "add rule ip kube-proxy endpoint-%s-%c ip saddr %s jump mark-for-masquerade\nadd rule ip kube-proxy endpoint-%s-%c meta l4proto %s dnat to %s\n", id, 'a'+j, e.Addr(), id, 'a'+j, proto, e)
	}
	fmt.Fprintf(out, "add rule ip kube-proxy service-%s ip daddr %s %s dport 80 ip saddr != 10.10.0.0/16 jump mark-for-masquerade\n", id, ip, proto)
	fmt.Fprintf(out, "add rule ip kube-proxy service-%s numgen random mod 2 vmap { 0 : goto endpoint-%s-a, 1 : goto endpoint-%s-b }\n", id, id, id)
	fmt.Fprintf(out, "add element ip kube-proxy service-ips { %s . %s . 80 : goto service-%s }\n", ip, proto, id)
}

// loadKubeProxyNft is that for n Services, and by UDP for the last, without the program nft, which takes more than five minutes for 50,000.
func loadKubeProxyNft(n int) error {
	if err := restore(kubeProxyNft, "nft", "-f", "-"); err != nil {
		return err
	}
	// What is sent at once, and the answers to it, are more than a socket takes by itself; and each time the kernel looks at the whole table.
	conn, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error { return errors.Join(c.SetWriteBuffer(64<<20), c.SetReadBuffer(64<<20)) }))
	if err != nil {
		return err
	}
	tab := &nftables.Table{Name: "kube-proxy", Family: nftables.TableFamilyIPv4}
	services, err := conn.GetSetByName(tab, "service-ips")
	if err != nil {
		return fmt.Errorf("find kube-proxy's map of services: %w", err)
	}
	services.Table, services.Concatenation, services.IsMap, services.DataType = tab, true, true, nftables.TypeVerdict
	services.KeyType = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	p := peer{conn, tab, services}
	for i := range n {
		if err := p.service(i, n, "tcp", unix.IPPROTO_TCP); err != nil {
			return err
		}
		if i%2000 == 1999 {
			if err := conn.Flush(); err != nil {
				return fmt.Errorf("load kube-proxy's rules: %w", err)
			}
		}
	}
	if err := p.service(n-1, n, "udp", unix.IPPROTO_UDP); err != nil {
		return err
	}
	return conn.Flush()
}

// peer queues kube-proxy's chains and rules.
type peer struct {
	conn     *nftables.Conn
	tab      *nftables.Table
	services *nftables.Set
}

func (p peer) service(i, n int, proto string, number byte) error {
	id := fmt.Sprintf("%010d-%s", i, proto)
	chain := func(name string) *nftables.Chain { return p.conn.AddChain(&nftables.Chain{Table: p.tab, Name: name}) }
	rule := func(c *nftables.Chain, parts ...expr.Any) {
		p.conn.AddRule(&nftables.Rule{Table: p.tab, Chain: c, Exprs: parts})
	}
	header := func(base expr.PayloadBase, offset, size uint32) expr.Any {
		return &expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: size}
	}
	is := func(data ...byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }
	l4, mark := &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Verdict{Kind: expr.VerdictJump, Chain: "mark-for-masquerade"}
	const saddr, daddr, dport = 12, 16, 2
	svc := chain("service-" + id)
	var choice []nftables.SetElement
	for j, e := range ends(i, n) {
		c := chain(fmt.Sprintf("endpoint-%s-%c", id, 'a'+j))
		rule(c, header(expr.PayloadBaseNetworkHeader, saddr, 4), is(e.Addr().AsSlice()...), mark)
		rule(c, l4, is(number), &expr.Immediate{Register: 1, Data: e.Addr().AsSlice()}, &expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, e.Port())},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2, Specified: true})
		choice = append(choice, nftables.SetElement{Key: binary.NativeEndian.AppendUint32(nil, uint32(j)), VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: c.Name}})
	}
	rule(svc, header(expr.PayloadBaseNetworkHeader, daddr, 4), is(clusterIP(i).AsSlice()...), l4, is(number), header(expr.PayloadBaseTransportHeader, dport, 2), is(0, 80),
		header(expr.PayloadBaseNetworkHeader, saddr, 2), &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{10, 10}}, mark)
	either := &nftables.Set{Table: p.tab, Anonymous: true, Constant: true, IsMap: true, KeyType: nftables.TypeInteger, DataType: nftables.TypeVerdict}
	if err := p.conn.AddSet(either, choice); err != nil {
		return err
	}
	rule(svc, &expr.Numgen{Register: 1, Type: unix.NFT_NG_RANDOM, Modulus: 2}, &expr.Lookup{SourceRegister: 1, IsDestRegSet: true, SetName: either.Name, SetID: either.ID})
	key := append(clusterIP(i).AsSlice(), number, 0, 0, 0, 0, 80, 0, 0)
	return p.conn.SetAddElements(p.services, []nftables.SetElement{{Key: key, VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: svc.Name}}})
}

// The peer is measured by the rules that nft itself would load.
func TestKernelPeerIsWhatNftLoads(t *testing.T) {
	var listed [2]string
	var text strings.Builder
	text.WriteString(kubeProxyNft)
	for i := range 3 {
		kubeProxyService(&text, i, 3, "tcp")
	}
	kubeProxyService(&text, 2, 3, "udp")
	for i, load := range []func() error{func() error { return restore(text.String(), "nft", "-f", "-") }, func() error { return loadKubeProxyNft(3) }} {
		ns := netnstest.New(t)
		ns.Must(ns.Do(load))
		ns.Must(ns.Do(func() error {
			out, err := exec.Command("nft", "list", "table", "ip", "kube-proxy").CombinedOutput()
			listed[i] = strings.ReplaceAll(string(out), " 16777216 :", " 1 :") // the library does not say that a set's keys are of the processor's byte order
			return err
		}))
	}
	lines := func(s string) []string { return slices.Sorted(strings.Lines(s)) } // chains stand as they were made
	if d := gocmp.Diff(lines(listed[0]), lines(listed[1])); d != "" || !strings.Contains(listed[0], "endpoint-0000000002-udp-b") {
		t.Errorf("want less got:\n%s", d)
	}
}
