package proxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/orlop-io/orlop/integration/proxyfield"
)

const (
	services  = 20
	endpoints = 20 // of each; between a quarter and three quarters of them are ready
	firstNode = 31000
)

// world is the Services, who asks them, and who changes them.
type world struct {
	t *testing.T
	f *proxyfield.Field

	changing sync.Mutex   // held while endpoints must stay as they are
	asking   sync.RWMutex // held while nobody may ask
	ready    [services][]bool
	gone     [services][endpoints]atomic.Int64 // when an endpoint last ceased to be ready, ns since 1970
	flipped  atomic.Int64
	boots    atomic.Int64
	gap      gap
	count    counter
	stop     context.CancelFunc // of who changes and who asks
	done     sync.WaitGroup
}

func vip(s int) string { return fmt.Sprintf("10.96.1.%d", s+1) }

// endpoint is number e of a service; every other one is another node's.
func endpoint(s, e int) netip.Addr { return proxyfield.Endpoint(s<<8|e+1, e%2 == 0) }

// serviceOf is the service of an endpoint.
func serviceOf(a netip.Addr) (s, e int) {
	b := a.As4()
	return int(b[2]), int(b[3]) - 1
}

func (w *world) make(ctx context.Context) {
	for s := range services {
		w.ready[s] = make([]bool, endpoints)
		for e := range w.ready[s] {
			w.ready[s][e] = e < endpoints/2
		}
		name := fmt.Sprint("s", s)
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIP: vip(s)}}
		for _, p := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP} {
			svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{
				Name: strings.ToLower(string(p)), Protocol: p, Port: 80, NodePort: int32(firstNode + s), TargetPort: intstr.FromInt32(proxyfield.Port),
			})
		}
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: "stays", Protocol: corev1.ProtocolTCP, Port: 81, NodePort: int32(firstStaying + s), TargetPort: intstr.FromInt32(proxyfield.PortStays)})
		_, err := w.f.Client.CoreV1().Services("default").Create(ctx, svc, metav1.CreateOptions{})
		if err == nil {
			_, err = w.f.Client.DiscoveryV1().EndpointSlices("default").Create(ctx, w.slice(s), metav1.CreateOptions{})
		}
		must(w.t, err)
	}
}

// slice is a service's, as w.ready has it.
func (w *world) slice(s int) *discoveryv1.EndpointSlice {
	out := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: fmt.Sprint("s", s), Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprint("s", s)}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	port := func(name string, p corev1.Protocol, port int32) {
		out.Ports = append(out.Ports, discoveryv1.EndpointPort{Name: &name, Port: &port, Protocol: &p})
	}
	port("tcp", corev1.ProtocolTCP, proxyfield.Port)
	port("udp", corev1.ProtocolUDP, proxyfield.Port)
	port("stays", corev1.ProtocolTCP, proxyfield.PortStays)
	for e, ready := range w.ready[s] {
		node := proxyfield.Node
		if e%2 != 0 {
			node = "b"
		}
		out.Endpoints = append(out.Endpoints, discoveryv1.Endpoint{Addresses: []string{endpoint(s, e).String()}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
	}
	return out
}

// serving waits until the agent says that services are in force.
func (w *world) serving(ctx context.Context) {
	w.t.Helper()
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		resp, err := client.Get("http://127.0.0.1:10253/healthz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
			err = errors.New(resp.Status)
		}
		if time.Now().After(end) || ctx.Err() != nil {
			w.t.Fatalf("the agent does not serve: %v\n%s", err, w.f.Log())
		}
	}
}

// load starts who asks and who changes; they end with calm, or with the test.
func (w *world) load(ctx context.Context) {
	ctx, w.stop = context.WithCancel(ctx)
	w.t.Cleanup(func() { w.stop(); w.done.Wait() })
	w.done.Go(func() { w.change(ctx) })
	kinds := map[string]func(s int) (netip.Addr, error){
		"TCP":                         func(s int) (netip.Addr, error) { return proxyfield.Ask("tcp", vip(s)+":80", patience) },
		"UDP, a socket that connects": w.connected,
		"TCP, a node port on the node": func(s int) (netip.Addr, error) {
			return proxyfield.Ask("tcp", fmt.Sprintf("%s:%d", proxyfield.Address, firstNode+s), patience)
		},
		"TCP, a connection that stays": w.stays(func(s int) string { return vip(s) + ":81" }),
	}
	for name, ask := range kinds {
		w.done.Go(func() { w.ask(ctx, name, ask) })
	}
	w.done.Go(func() { w.unconnected(ctx) })
	staying := w.stays(func(s int) string { return fmt.Sprintf("%s:%d", proxyfield.Address, firstStaying+s) })
	w.done.Go(func() {
		err := w.f.FromOutside(func() error {
			w.ask(ctx, "TCP, one from outside that stays", staying)
			return nil
		})
		if err != nil {
			w.t.Error(err)
		}
	})
	for _, network := range []string{"tcp", "udp"} {
		w.done.Go(func() {
			err := w.f.FromOutside(func() error {
				w.ask(ctx, strings.ToUpper(network)+", a node port from outside", func(s int) (netip.Addr, error) {
					ask := func() (netip.Addr, error) {
						return proxyfield.Ask(network, fmt.Sprintf("%s:%d", proxyfield.Address, firstNode+s), patience)
					}
					if network == "udp" {
						return w.patient(ask)
					}
					return ask()
				})
				return nil
			})
			if err != nil {
				w.t.Error(err)
			}
		})
	}
}

const patience = 5 * time.Second

func (w *world) ask(ctx context.Context, kind string, ask func(s int) (netip.Addr, error)) {
	for s := 0; ctx.Err() == nil; s = (s + 1) % services {
		w.asking.RLock()
		began := time.Now()
		who, err := ask(s)
		w.asking.RUnlock()
		if err != nil && w.gap.since(began) {
			w.count.without.Add(1)
		} else {
			w.count.note(kind, s, who, err, time.Since(began))
		}
		time.Sleep(*pace)
	}
}

// connected asks by a socket that connects. When its endpoint goes before the answer has come, the agent ends it, as it is to: that is counted by itself, and the
// next socket, which is no such endpoint's any more, must have its answer.
func (w *world) connected(s int) (netip.Addr, error) {
	who, err := w.patient(func() (netip.Addr, error) { return proxyfield.Ask("udp", vip(s)+":80", patience) })
	if errors.Is(err, syscall.ECONNABORTED) {
		w.count.ended.Add(1)
		who, err = proxyfield.Ask("udp", vip(s)+":80", patience)
	}
	return who, err
}

// unconnected asks all services by one socket that does not connect. The answer must come from the address that was asked.
func (w *world) unconnected(ctx context.Context) {
	u, err := net.ListenUDP("udp4", nil)
	if err != nil {
		w.t.Error(err)
		return
	}
	defer u.Close()
	w.ask(ctx, "UDP, a socket that does not connect", w.late(func(s int) (netip.Addr, error) {
		to := netip.AddrPortFrom(netip.MustParseAddr(vip(s)), 80)
		if _, err := u.WriteToUDPAddrPort([]byte("?"), to); err != nil {
			return netip.Addr{}, err
		}
		_ = u.SetReadDeadline(time.Now().Add(patience))
		buf := make([]byte, 64)
		for {
			n, from, err := u.ReadFromUDPAddrPort(buf)
			if err != nil {
				return netip.Addr{}, err
			}
			who, err := netip.ParseAddr(string(buf[:n]))
			if err != nil {
				return who, err
			}
			if got := netip.AddrPortFrom(from.Addr().Unmap(), from.Port()); got != to {
				if asked, _ := serviceOf(who); asked != s {
					continue // late, to a question that was given up and counted
				}
				return who, errLate{got}
			}
			return who, nil
		}
	}))
}

// change writes slices so often that flips endpoints come or go each second, while there is an API server.
func (w *world) change(ctx context.Context) {
	const each = endpoints / 2 // of one write
	tick := time.NewTicker(time.Second * each / time.Duration(*flips))
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		w.changing.Lock()
		s := n % services
		before := slices.Clone(w.ready[s])
		for _, e := range rand.Perm(endpoints)[:each] {
			w.ready[s][e] = !w.ready[s][e]
		}
		if n := len(slices.DeleteFunc(slices.Clone(w.ready[s]), func(r bool) bool { return !r })); n < endpoints/4 || n > endpoints*3/4 {
			w.ready[s] = make([]bool, endpoints)
			for e := range endpoints {
				w.ready[s][e] = !before[e] // as many again as were not
			}
		}
		_, err := w.f.Client.DiscoveryV1().EndpointSlices("default").Update(context.WithoutCancel(ctx), w.slice(s), metav1.UpdateOptions{})
		if err != nil {
			w.t.Errorf("change endpoints: %v", err)
			w.ready[s] = before
		}
		for e := range endpoints {
			if before[e] != w.ready[s][e] {
				w.flipped.Add(1)
			}
			if before[e] && !w.ready[s][e] {
				w.gone[s][e].Store(time.Now().UnixNano())
			}
		}
		w.changing.Unlock()
	}
}

// past waits until the node's stack sees nothing of what clients outside ask its own endpoints.
func (w *world) past() {
	const table = "table ip seen {\n chain forward {\n type filter hook forward priority 0;\n iifname up0 oifname pods0 counter\n }\n}\n"
	run := func(script string) string {
		cmd := exec.Command("nft", "-f", "-")
		if script == "" {
			cmd = exec.Command("nft", "list", "table", "ip", "seen")
		}
		cmd.Stdin = strings.NewReader(script)
		out, err := cmd.CombinedOutput()
		if err != nil {
			w.t.Fatalf("nft %s: %v: %s", script, err, out)
		}
		return string(out)
	}
	seen := ""
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Second) {
		run(table)
		own := 0
		for s := range services {
			must(w.t, w.f.FromOutside(func() error {
				who, err := proxyfield.Ask("tcp", fmt.Sprintf("%s:%d", proxyfield.Address, firstNode+s), patience)
				if _, e := serviceOf(who); err == nil && e%2 == 0 {
					own++
				}
				return err
			}))
		}
		seen = run("")
		run("delete table ip seen\n")
		if own > 0 && strings.Contains(seen, "counter packets 0 ") {
			return
		}
	}
	w.t.Fatalf("packets from outside to the node's own endpoints go by its stack: %s", seen)
}

// calm ends the load, and wants all of a service's ready endpoints to answer and no other, everywhere, soon.
func (w *world) calm(ctx context.Context) {
	w.stop()
	w.done.Wait()
	w.t.Logf("the rest:\n%s", w.count.take())
	w.serving(ctx)
	time.Sleep(2 * time.Second) // the agent starts from all, and then looks what is left of others
	for s := range services {
		want := map[netip.Addr]bool{}
		for e, ready := range w.ready[s] {
			if ready {
				want[endpoint(s, e)] = true
			}
		}
		for from, ask := range map[string]func() (netip.Addr, error){
			"the node": func() (netip.Addr, error) { return proxyfield.Ask("tcp", vip(s)+":80", patience) },
			"outside": func() (who netip.Addr, err error) {
				ferr := w.f.FromOutside(func() error {
					who, err = proxyfield.Ask("tcp", fmt.Sprintf("%s:%d", proxyfield.Address, firstNode+s), patience)
					return nil
				})
				return who, errors.Join(err, ferr)
			},
		} {
			got := map[netip.Addr]bool{}
			for range 40 * len(want) { // one of n is left out by 1 of e^40
				who, err := ask()
				if err != nil {
					w.t.Errorf("in the calm, service %d from %s: %v", s, from, err)
					break
				}
				if got[who] = true; !want[who] {
					w.t.Errorf("in the calm, %s answers for service %d from %s, and is not ready", who, s, from)
				}
				if len(got) == len(want) {
					break
				}
			}
			if len(got) < len(want) {
				w.t.Errorf("in the calm, %d of %d endpoints of service %d answer %s", len(got), len(want), s, from)
			}
		}
	}
}

// counter is what requests met.
type counter struct {
	good, bad, ended, late, without atomic.Int64

	mu   sync.Mutex
	kind map[string]*tally
}

type tally struct {
	good, slow int
	slowest    time.Duration
	bad        map[string]int
}

func (c *counter) note(kind string, s int, who netip.Addr, err error, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kind == nil {
		c.kind = map[string]*tally{}
	}
	if c.kind[kind] == nil {
		c.kind[kind] = &tally{bad: map[string]int{}}
	}
	k := c.kind[kind]
	k.slowest = max(k.slowest, took)
	if took > 900*time.Millisecond {
		k.slow++
	}
	if err == nil {
		if asked, _ := serviceOf(who); asked != s {
			err = errors.New("misdirected: another service's endpoint answers")
		}
	}
	if err == nil {
		k.good++
		c.good.Add(1)
		return
	}
	if no, ok := errors.AsType[syscall.Errno](err); ok {
		err = no
	} else if os.IsTimeout(err) {
		err = os.ErrDeadlineExceeded
	}
	k.bad[time.Now().UTC().Format("15:04:05 ")+err.Error()]++
	c.bad.Add(1)
}

// take is a table of what was met since it was taken last.
func (c *counter) take() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(c.kind)) {
		k := c.kind[name]
		fmt.Fprintf(&out, "  %-36s %7d well, slowest %s, %d took over 0.9 s, failed %v\n", name, k.good, k.slowest.Round(time.Millisecond), k.slow, k.bad)
	}
	fmt.Fprintf(&out, "  sockets of UDP that ended with their endpoint, and asked again: %d so far; answers that came late, from an endpoint that went: %d so far\n", c.ended.Load(), c.late.Load())
	if n := c.without.Load(); n > 0 {
		fmt.Fprintf(&out, "  asked while the mode had no agent, and failed: %d so far\n", n)
	}
	c.kind = nil
	return out.String()
}
