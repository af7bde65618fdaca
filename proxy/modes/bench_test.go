package modes

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/bpf/socklb"
	"github.com/orlop-io/orlop/proxy"
	"github.com/orlop-io/orlop/proxy/ebpf"
	"github.com/orlop-io/orlop/proxy/iptables"
	"github.com/orlop-io/orlop/proxy/nft"
	"github.com/orlop-io/orlop/proxy/proxytest"
)

// place is a node of its own with a client and a server on its bridge, and one way of translating.
type place struct {
	way                  string
	client, node, server *netnstest.NS
	cgroup               string // of the client
	took                 time.Duration
	why                  string // it is not measured
}

// The ways, besides our modes: nothing at all, a mode that counts packets, and what kube-proxy writes.
const (
	direct       = "direct"
	counting     = "nftables, --count-packets"
	kubeNft      = "kube-proxy's nftables"
	kubeIptables = "kube-proxy's iptables"
)

const (
	connectRounds = 9
	loadLimit     = 5 * time.Minute // what takes longer to load is not measured
	server        = "10.10.0.2"
)

// BenchmarkKernelConnect is what a pod waits for that asks a cluster address, by each way and by how many Services there are. The Service that is asked
// is the last of them. Client and server share a processor, so that a time is what a transaction costs; ways and kinds take turns in each round, and
// the median of medians counts, beside the direct one of its round. ORLOP_BENCH_SERVICES chooses other numbers than 1, 1,000, 10,000 and 50,000.
func BenchmarkKernelConnect(b *testing.B) {
	if b.N > 1 {
		b.Skip("one run has all rounds: -benchtime 1x")
	}
	for _, text := range strings.Split(cmp.Or(os.Getenv("ORLOP_BENCH_SERVICES"), "1,1000,10000,50000"), ",") {
		n, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(text, func(b *testing.B) { connects(b, n) })
	}
}

func connects(b *testing.B, n int) {
	ways := []string{direct, proxy.ModeEBPF, proxy.ModeNftables, counting, kubeNft, proxy.ModeIptables, kubeIptables}
	var places []*place
	for _, way := range ways {
		places = append(places, newPlace(b, way, n))
	}
	kinds := []string{"connect", "request", "datagram", "new datagram"}
	times, ratios := map[string][]float64{}, map[string][]float64{}
	for range connectRounds {
		for _, kind := range kinds {
			round := map[string]float64{}
			order := slices.Clone(places)
			rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			for _, p := range order {
				if p.why == "" {
					round[p.way] = p.measure(b, kind, n)
				}
			}
			for way, t := range round {
				times[kind+way] = append(times[kind+way], t)
				ratios[kind+way] = append(ratios[kind+way], t/round[direct])
			}
		}
	}
	var table strings.Builder
	fmt.Fprintf(&table, "\n| %d Services | s to load | %s |\n|---|---|%s\n", n, strings.Join(kinds, " | "), strings.Repeat("---|", len(kinds)))
	for _, p := range places {
		fmt.Fprintf(&table, "| %s | %.2f |", p.way, p.took.Seconds())
		for _, kind := range kinds {
			if t, r := times[kind+p.way], ratios[kind+p.way]; p.why == "" {
				fmt.Fprintf(&table, " %.1f µs, %.2fx (%.2f-%.2f) |", middle(t), middle(r), slices.Min(r), slices.Max(r))
			} else {
				fmt.Fprintf(&table, " %s |", p.why)
			}
		}
		table.WriteString("\n")
	}
	b.Log(table.String())
}

func middle(list []float64) float64 { return slices.Sorted(slices.Values(list))[len(list)/2] }

// newPlace makes the node, and has the way translate n Services on it.
func newPlace(b *testing.B, way string, n int) *place {
	b.Helper()
	p := &place{way: way, client: netnstest.New(b), node: netnstest.New(b), server: netnstest.New(b)}
	p.node.Forward()
	p.node.Bridge("br0", "10.10.0.254/24")
	for i, ns := range []*netnstest.NS{p.client, p.server} {
		p.node.Join(fmt.Sprint("pod", i), "br0", ns, "eth0")
		ns.Addrs("eth0", fmt.Sprintf("10.10.0.%d/24", i+1))
		ns.Route("default", "10.10.0.254")
	}
	_ = p.node.Do(func() error { return os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("1"), 0o644) }) // not in every kernel
	proxytest.ServeBytes(p.server, server+":7070")
	info, err := os.ReadFile("/proc/self/mountinfo")
	p.node.Must(err)
	root, err := socklb.CgroupRoot(string(info))
	p.node.Must(err)
	p.cgroup = filepath.Join(root, fmt.Sprintf("orlop-bench-%d-%s", os.Getpid(), strings.NewReplacer(" ", "", "'", "", ",", "").Replace(way)))
	p.node.Must(os.Mkdir(p.cgroup, 0o755))
	b.Cleanup(func() { _ = os.Remove(p.cgroup) })
	began := time.Now()
	err = p.node.Do(func() error { return p.load(b, n) })
	if p.took = time.Since(began); err != nil && p.took >= loadLimit {
		p.why = "not loaded in " + loadLimit.String()
		return p
	}
	p.node.Must(err)
	return p
}

// load has the way translate; the calling thread is the node's.
func (p *place) load(b *testing.B, n int) error {
	node := proxy.Node{Inside: []netip.Prefix{netip.MustParsePrefix("10.10.0.0/24")}, NodePorts: []netip.Addr{netip.MustParseAddr("10.10.0.254")}}
	switch p.way {
	case proxy.ModeEBPF:
		cookie, err := socklb.NetnsCookie()
		if err != nil {
			return err
		}
		lb, err := socklb.Open(socklb.Config{PinDir: filepath.Join(netnstest.BPFFS(b), "orlop"), Cgroup: p.cgroup, NodeNetns: cookie})
		if err != nil {
			return err
		}
		b.Cleanup(func() { lb.Close() })
		return ebpf.New(lb, proxy.Inside).Set(manyServices(n))
	case proxy.ModeNftables, counting:
		t := nft.New(proxy.Everywhere)
		if p.way == counting {
			t.CountPackets()
		}
		t.SetNode(node)
		return t.Set(manyServices(n))
	case proxy.ModeIptables:
		if out, err := exec.Command("iptables-legacy", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY").CombinedOutput(); err != nil { // a kubelet's choice
			return fmt.Errorf("%w: %s", err, out)
		}
		t, err := iptables.Open(iptables.Config{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			return err
		}
		t.SetNode(node)
		return t.Set(manyServices(n))
	case kubeNft:
		return loadKubeProxyNft(n)
	case kubeIptables:
		return restore(kubeProxyIptables(n), "iptables-legacy-restore")
	}
	return nil
}

func restore(text string, program ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), loadLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program[0], program[1:]...)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %.500s", program[0], err, out)
	}
	return nil
}

// clusterIP is that of number i.
func clusterIP(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 100 + byte(i>>16), byte(i >> 8), byte(i)})
}

// ends are the endpoints of number i of n; both of the last one's are the server.
func ends(i, n int) [2]netip.AddrPort {
	if i == n-1 {
		at := netip.MustParseAddrPort(server + ":7070")
		return [2]netip.AddrPort{at, at}
	}
	a := netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)})
	return [2]netip.AddrPort{netip.AddrPortFrom(a, 7070), netip.AddrPortFrom(a, 7071)}
}

// manyServices are n Services of two endpoints; the last is asked, by UDP too, and has one.
func manyServices(n int) proxy.Model {
	m := proxy.Model{}
	for i := range n {
		e := ends(i, n)
		g := &proxy.Group{Port: fmt.Sprintf("default/s%d:http", i), Frontends: []proxy.Frontend{{Addr: clusterIP(i), Port: 80, Protocol: proxy.TCP, Scope: proxy.Inside}}, Backends: e[:]}
		if i == n-1 {
			g.Backends, g.Here = e[:1], []netip.Addr{e[0].Addr()}
			u := *g
			u.Frontends = []proxy.Frontend{{Addr: clusterIP(i), Port: 80, Protocol: proxy.UDP, Scope: proxy.Inside}}
			m["last/UDP"] = &u
		}
		m[strconv.Itoa(i)] = g
	}
	return m
}

// want is what a client in a process of its own measures.
type want struct {
	Kind, Addr string
}

const wantVariable = "ORLOP_BENCH_CLIENT"

// measure has a client in the pod, and in its cgroup, do one kind for a while, and returns its median in µs.
func (p *place) measure(b *testing.B, kind string, n int) float64 {
	b.Helper()
	at := netip.AddrPortFrom(clusterIP(n-1), 80)
	if p.way == direct {
		at = netip.MustParseAddrPort(server + ":7070")
	}
	text, err := json.Marshal(want{kind, at.String()})
	p.client.Must(err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{wantVariable + "=" + string(text)}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	p.client.Must(p.client.StartIn(p.cgroup, cmd))
	if err := cmd.Wait(); err != nil {
		b.Fatalf("%s by %s, %d Services: %v\n%s", kind, p.way, n, err, said.String())
	}
	t, err := strconv.ParseFloat(strings.TrimSpace(out.String()), 64)
	p.client.Must(err)
	return t
}

// benchClient is that process.
func benchClient(text string) int {
	var w want
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	at := netip.MustParseAddrPort(w.Addr)
	to, run := &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}, proxytest.Transactions()[w.Kind]
	var all []float64
	err := proxytest.OnLast(func() {
		run(to, time.Now().Add(20*time.Millisecond))
		for _, d := range run(to, time.Now().Add(200*time.Millisecond)) {
			all = append(all, float64(d)/1000)
		}
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(middle(all))
	return 0
}

// kubeProxyIptables is written as kube-proxy writes it in its mode iptables.
func kubeProxyIptables(n int) string {
	var head, body strings.Builder
	head.WriteString("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n")
	body.WriteString("-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n" +
		"-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n-A KUBE-POSTROUTING -j MASQUERADE --random-fully\n")
	write := func(i int, proto string) {
		id, ip := fmt.Sprintf("%s%010d", strings.ToUpper(proto), i), clusterIP(i)
		fmt.Fprintf(&head, ":KUBE-SVC-%s - [0:0]\n:KUBE-SEP-%sA - [0:0]\n:KUBE-SEP-%sB - [0:0]\n", id, id, id)
		fmt.Fprintf(&body, "-A KUBE-SERVICES -d %s/32 -p %s -m comment --comment \"default/s%d:http cluster IP\" -m %s --dport 80 -j KUBE-SVC-%s\n", ip, proto, i, proto, id)
		fmt.Fprintf(&body, "-A KUBE-SVC-%s ! -s 10.10.0.0/16 -d %s/32 -p %s -m %s --dport 80 -j KUBE-MARK-MASQ\n", id, ip, proto, proto)
		fmt.Fprintf(&body, "-A KUBE-SVC-%s -m statistic --mode random --probability 0.5 -j KUBE-SEP-%sA\n-A KUBE-SVC-%s -j KUBE-SEP-%sB\n", id, id, id, id)
		for j, e := range ends(i, n) {
			fmt.Fprintf(&body, "-A KUBE-SEP-%s%c -s %s/32 -j KUBE-MARK-MASQ\n-A KUBE-SEP-%s%c -p %s -m %s -j DNAT --to-destination %s\n", id, 'A'+j, e.Addr(), id, 'A'+j, proto, proto, e)
		}
	}
	for i := range n {
		write(i, "tcp")
	}
	write(n-1, "udp")
	return head.String() + body.String() + "COMMIT\n"
}
