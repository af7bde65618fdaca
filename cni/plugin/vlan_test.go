package plugin

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/cni/ipam"
	"github.com/vishvananda/netlink"
)

// hasVLANs says whether bridges of this kernel have VLANs: it then tells each bridge's own.
func hasVLANs(t *testing.T) bool {
	t.Helper()
	ns := netnstest.New(t)
	ns.Bridge("probe0")
	br, ok := ns.Link("probe0").(*netlink.Bridge)
	return ok && br.VlanDefaultPVID != nil
}

// newVLANs is a bench of a configuration of the plugin bridge, on a kernel that has VLANs; integration/vm has one where this one lacks them.
func newVLANs(t *testing.T, more string) *bench {
	b := newBench(t)
	if !hasVLANs(t) {
		t.Skip("this kernel has no VLANs on bridges (CONFIG_BRIDGE_VLAN_FILTERING)")
	}
	b.ofBridge(more)
	return b
}

// beside is another network on the same node's bridge.
func (b *bench) beside(name string, changes map[string]any) *bench {
	b.t.Helper()
	other := *b
	other.ofBridge("")
	other.conf["name"] = name
	for k, v := range changes {
		other.conf[k] = v
	}
	return &other
}

func (b *bench) addresses(name string) []string {
	b.t.Helper()
	list, err := b.node.NL.AddrList(b.node.Link(name), netlink.FAMILY_ALL)
	if err != nil {
		b.t.Fatal(err)
	}
	var out []string
	for _, a := range list {
		if a.IP.IsGlobalUnicast() {
			out = append(out, a.IPNet.String())
		}
	}
	slices.Sort(out)
	return out
}

// Containers of a VLAN have a gateway in it, on a link of the bridge, as with the plugin bridge; those of another, or of none, do not
// reach them although their addresses are of the same subnet.
func TestKernelVLANs(t *testing.T) {
	ports := map[string]any{"runtimeConfig": map[string]any{"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80}}}}
	b := newVLANs(t, `, "vlan": 7, "ipMasq": true, "capabilities": {"portMappings": true}`)
	p1, p2, p3, p4, p5 := netnstest.New(t), netnstest.New(t), netnstest.New(t), netnstest.New(t), netnstest.New(t)
	b.must("STATUS", "", "", nil)
	ip1, out := b.add("c1", p1, ports)
	ip2, _ := b.add("c2", p2, nil)
	var r result
	if err := json.Unmarshal(out, &r); err != nil || len(r.Interfaces) != 4 || r.Interfaces[3].Name != "cni0.7" || r.Interfaces[0].Name != "cni0" {
		t.Errorf("result %s: %v", out, err)
	}
	if got, want := b.addresses("cni0.7"), []string{"10.77.0.254/24", "fd77::1/64"}; !slices.Equal(got, want) || len(b.addresses("cni0")) > 0 {
		t.Errorf("cni0.7 has %v, cni0 %v", got, b.addresses("cni0"))
	}
	for _, p := range []*netnstest.NS{p1, p2} {
		serve(t, p, "[::]:80")
	}
	serve(t, b.node, "[::]:81")
	b.settled("cni0.7")
	wantAnswer(t, p2, "", ip1.String()+":80", ip2.String())
	wantAnswer(t, p2, "", "[fd77::2]:80", "fd77::3")
	wantAnswer(t, b.node, "", ip1.String()+":80", "10.77.0.254")
	wantAnswer(t, p1, "", "10.77.0.254:81", ip1.String())
	wantAnswer(t, b.node, "", "127.0.0.1:8080", "10.77.0.254")
	wantAnswer(t, p2, "", "10.77.0.254:8080", "10.77.0.254")

	inNone := b.beside("none", map[string]any{"isGateway": false})
	inEight := b.beside("eight", map[string]any{"isGateway": false, "vlan": 8})
	inNone.must("ADD", "c3", p3.Path(), map[string]any{"args": map[string]any{"cni": map[string]any{"ips": []string{"10.77.0.30"}}}})
	inEight.must("ADD", "c4", p4.Path(), map[string]any{"args": map[string]any{"cni": map[string]any{"ips": []string{"10.77.0.31"}}}})
	for name, p := range map[string]*netnstest.NS{"no VLAN": p3, "VLAN 8": p4} {
		if got, err := ask(p, "", ip1.String()+":80"); err == nil {
			t.Errorf("a container in %s reaches one in VLAN 7: %s", name, got)
		}
	}

	trunk := b.beside("trunk", map[string]any{"isGateway": false, "vlanTrunk": []map[string]any{{"minID": 6, "maxID": 7}}, "preserveDefaultVlan": false})
	trunk.must("ADD", "c5", p5.Path(), map[string]any{"args": map[string]any{"cni": map[string]any{"ips": []string{"10.77.0.32"}}}})
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "tagged", p5.Link("eth0").Attrs().Index
	p5.Must(p5.NL.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: 7}))
	p5.Addrs("tagged", "10.77.0.33/32")
	p5.Must(p5.NL.LinkSetUp(p5.Link("tagged")))
	if _, err := ask(p5, "", ip1.String()+":80"); err == nil {
		t.Error("a trunk's frames without a tag reach VLAN 7")
	}
	p5.Must(p5.NL.RouteAdd(&netlink.Route{LinkIndex: p5.Link("tagged").Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: &net.IPNet{IP: ip1, Mask: net.CIDRMask(32, 32)}}))
	wantAnswer(t, p5, "10.77.0.33", ip1.String()+":80", "10.77.0.33")
	if got := b.vlansOf(hostName(ipam.Attachment{ContainerID: "c5", IfName: "eth0"})); got != "6 7" {
		t.Errorf("the trunk's port carries %s", got)
	}

	prev := map[string]any{"prevResult": json.RawMessage(out), "runtimeConfig": ports["runtimeConfig"]}
	b.must("CHECK", "c1", p1.Path(), prev)
	gateway, err := netlink.ParseAddr("10.77.0.254/24")
	b.node.Must(err)
	b.node.Must(b.node.NL.AddrDel(b.node.Link("cni0.7"), gateway))
	if _, err := b.run("CHECK", "c1", p1.Path(), prev); err == nil || !strings.Contains(err.Error(), "cni0.7 lacks address 10.77.0.254/24") {
		t.Errorf("CHECK: %v", err)
	}
	b.must("DEL", "c2", p2.Path(), nil)
	b.add("c2", netnstest.New(t), nil) // mends it
	b.must("CHECK", "c1", p1.Path(), prev)
	for id, n := range map[string]*bench{"c1": b, "c2": b, "c3": inNone, "c4": inEight, "c5": trunk} {
		n.must("DEL", id, "", nil)
	}
	b.wantNothing("DEL")
	b.node.Must(b.node.NL.LinkDel(b.node.Link("cni0")))
	if _, err := b.node.NL.LinkByName("cni0.7"); !isNotFound(err) {
		t.Errorf("cni0.7 stays when its bridge goes: %v", err)
	}
}

// vlansOf lists the VLANs of a port.
func (b *bench) vlansOf(port string) string {
	b.t.Helper()
	all, err := b.node.NL.BridgeVlanList()
	b.node.Must(err)
	var ids []uint16
	for _, v := range all[int32(b.node.Link(port).Attrs().Index)] {
		ids = append(ids, v.Vid)
	}
	slices.Sort(ids)
	return strings.Trim(fmt.Sprint(ids), "[]")
}

// VLAN 1 is where the bridge itself is, and a link of the name that is something else is not taken.
func TestKernelVLANOfTheBridge(t *testing.T) {
	b := newVLANs(t, `, "vlan": 1`)
	p1 := netnstest.New(t)
	ip, _ := b.add("c1", p1, nil)
	serve(t, b.node, ":81")
	wantAnswer(t, p1, "", "10.77.0.254:81", ip.String())
	if got := b.addresses("cni0"); !slices.Contains(got, "10.77.0.254/24") {
		t.Errorf("cni0 has %v", got)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "cni0.9"
	b.node.Must(b.node.NL.LinkAdd(&netlink.Dummy{LinkAttrs: attrs}))
	nine := b.beside("nine", map[string]any{"vlan": 9})
	if _, err := nine.run("ADD", "c2", netnstest.New(t).Path(), nil); err == nil || !strings.Contains(err.Error(), "cni0.9 is there already, and is a dummy") {
		t.Errorf("got %v", err)
	}
	if n := nine.links(); n != 1 {
		t.Errorf("%d links after a refused ADD beside one", n)
	}
}
