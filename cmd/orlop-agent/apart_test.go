package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/bpf/packetlb"
	"github.com/orlop-io/orlop/bpf/podnet"
)

// optingOut is a pod of node a that opts out.
func optingOut(name string, addrs ...string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Labels: map[string]string{"orlop.io/socket-services": "off"}},
		Spec:       corev1.PodSpec{NodeName: "a"},
	}
	for _, s := range addrs {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: s})
	}
	return p
}

func TestPlacesOfPodsThatOptOut(t *testing.T) {
	link := func(peer int, addrs ...string) (l podnet.Link) {
		l.Peer = peer
		for _, s := range addrs {
			l.Addrs = append(l.Addrs, netip.MustParseAddr(s))
		}
		return l
	}
	host := optingOut("host", "192.0.2.1")
	host.Spec.HostNetwork = true
	found := []podnet.Namespace{
		{Cookie: 11, Links: []podnet.Link{link(5, "10.244.0.5", "fd44::5")}},
		{Cookie: 12, Links: []podnet.Link{link(6, "10.244.0.6")}},
		{Cookie: 13, Links: []podnet.Link{link(0, "10.244.0.7")}}, // no pair
		{Cookie: 14, Links: []podnet.Link{link(8, "10.244.0.8")}}, // whose other end has no programs
		{Cookie: 15, Links: []podnet.Link{link(9, "172.16.0.9"), link(5, "10.244.0.9")}},
	}
	on := []packetlb.Device{{Index: 2, Name: "eth0"}, {Index: 5, Name: "orl5", Pod: true}, {Index: 6, Name: "orl6", Pod: true}}
	const unseen = "its packets pass no link of the node at which they could be translated"
	for _, tt := range []struct {
		name  string
		pods  []*corev1.Pod
		netns []uint64
		why   string
	}{
		{"by its first address", []*corev1.Pod{optingOut("p", "10.244.0.5", "fd44::5")}, []uint64{11}, ""},
		{"by its second", []*corev1.Pod{optingOut("p", "10.244.0.99", "fd44::5")}, []uint64{11}, ""},
		{"by a second link", []*corev1.Pod{optingOut("p", "10.244.0.9")}, []uint64{15}, ""},
		{"without an address yet", []*corev1.Pod{optingOut("p")}, nil, notYet},
		{"not there yet", []*corev1.Pod{optingOut("p", "10.244.0.99")}, nil, notYet},
		{"of the node's network", []*corev1.Pod{host}, nil, "it has the node's network, whose sockets are always translated"},
		{"without a pair", []*corev1.Pod{optingOut("p", "10.244.0.7")}, nil, unseen},
		{"of a link without programs", []*corev1.Pod{optingOut("p", "10.244.0.8")}, nil, unseen},
		{"two", []*corev1.Pod{optingOut("q", "10.244.0.6"), optingOut("p", "10.244.0.5")}, []uint64{11, 12}, ""},
	} {
		var asks []asking
		for _, p := range tt.pods {
			ask := asking{pod: p}
			for _, ip := range p.Status.PodIPs {
				ask.addrs = append(ask.addrs, netip.MustParseAddr(ip.IP))
			}
			asks = append(asks, ask)
		}
		netns, states := placesOf(asks, found, on)
		if !slices.Equal(netns, tt.netns) || states[tt.pods[0].UID] != tt.why {
			t.Errorf("%s: %v %v, want %v %q", tt.name, netns, states, tt.netns, tt.why)
		}
	}
}

func TestSocketFlags(t *testing.T) {
	for _, tt := range []struct {
		sockets string
		labels  []string
		want    string
	}{
		{socketsAll, []string{optOut, "security.istio.io/tlsMode=istio,!legacy"}, ""},
		{socketsNode, nil, ""},
		{"none", nil, "--sockets=none is not supported"},
		{socketsAll, []string{"a b"}, "read --socket-opt-out"},
		{socketsAll, []string{""}, "give --sockets=node"},
	} {
		err := options{sockets: tt.sockets, socketOptOut: tt.labels}.checkSockets()
		if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %q: %v", tt.sockets, tt.labels, err)
		}
	}
}

// A pod that opts out is found by its address, and its services work all the while, also while the agent is killed and there is none.
func TestKernelPodOptsOut(t *testing.T) {
	t.Setenv("ORLOP_TEST_MODE", modeEBPF)
	ns, _, dir, cgroup := hosted(t)
	ns.Forward()
	ns.Bridge("orlop0", "10.244.0.1/24")
	if err := os.MkdirAll(filepath.Join(dir, "netns"), 0o755); err != nil {
		t.Fatal(err)
	}
	var pods []*netnstest.NS
	for i, addr := range []string{"10.244.0.5", "10.244.0.6"} {
		pod := netnstest.New(t)
		ns.Join([]string{"orl5", "orl6"}[i], "orlop0", pod, "eth0")
		pod.Addrs("eth0", addr+"/24")
		pod.Route("default", "10.244.0.1")
		if err := os.Symlink(pod.Path(), filepath.Join(dir, "netns", "cni-"+addr)); err != nil {
			t.Fatal(err)
		}
		pod.Meet("192.0.2.1:8080")
		pods = append(pods, pod)
	}
	bySocket := func(pod *netnstest.NS) bool {
		before := get(t, ns, "127.0.0.1:10249", "/metrics")
		asks(t, pod, cgroup, "http://10.96.0.9/", modeEBPF)
		return calls(before) != calls(get(t, ns, "127.0.0.1:10249", "/metrics"))
	}
	for _, step := range []struct {
		name, optsOut string
		sockets       bool
	}{{"it opts out", "10.244.0.5", false}, {"after a restart", "10.244.0.5", false}, {"it is gone", "", true}} {
		t.Setenv("ORLOP_TEST_OPT_OUT", step.optsOut)
		agent := startAgent(t, ns, dir)
		waitFor(t, "healthy agent", func() bool { return healthy(ns) })
		waitFor(t, "pod that is apart, or not", func() bool { return bySocket(pods[0]) == step.sockets })
		if !bySocket(pods[1]) {
			t.Errorf("%s: another pod's sockets are not translated", step.name)
		}
		if text := `orlop_proxy_opted_out_pods{apart="yes"} 1`; !step.sockets && !strings.Contains(get(t, ns, "127.0.0.1:10249", "/metrics"), text+"\n") {
			t.Errorf("%s: no metric %s", step.name, text)
		}
		_ = agent.Process.Kill()
		_ = agent.Wait()
		for _, pod := range pods {
			asks(t, pod, cgroup, "http://10.96.0.9/", "ebpf without an agent")
		}
	}
}

// calls is the metric of translated calls.
func calls(metrics string) string {
	_, after, _ := strings.Cut(metrics, `orlop_proxy_socket_calls_total{reason="translated"} `)
	n, _, _ := strings.Cut(after, "\n")
	return n
}
