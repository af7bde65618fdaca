package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netns"
)

// Bounds of the design's section 6: pods on two hosts against the hosts themselves.
const (
	wantDirect  = 0.95
	wantOverlay = 0.80
)

// wire is a pair of namespaces on two hosts, and the address of the second.
type wire struct {
	from, to netns.NsHandle
	addr     string
}

// runPodNet measures what pods on two hosts reach, against the hosts in the same round: first with the hosts on one link, then with a router
// between them, when the pods' packets take a tunnel; last the hosts themselves by that tunnel.
func runPodNet(ctx context.Context, bin string, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "figures-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	abs, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	b := bench{filepath.Join(abs, "orlop"), filepath.Join(abs, "testimage"), "fig", filepath.Join(dir, "kubeconfig")}
	defer func() {
		_, derr := b.run(context.WithoutCancel(ctx), nil, "down", "--name", b.name)
		err = errors.Join(err, derr)
	}()
	if _, err := b.run(ctx, nil, "up", "--name", b.name, "--nodes", "3", "--kubeconfig", b.kubeconfig, "--wait", "10m"); err != nil {
		return err
	}
	hosts, pods, err := b.wires(ctx)
	if err != nil {
		return err
	}
	tunnel, err := b.tunnelled(ctx, hosts)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "| pods on two hosts against the hosts, medians of the rounds | hosts | pods | ratio | wanted |\n|---|---|---|---|---|")
	var misses []string
	for _, way := range []struct {
		name   string
		router bool
		wanted float64
	}{{"one link", false, wantDirect}, {"a router between, VXLAN", true, wantOverlay}} {
		if way.router {
			if err := b.router(ctx); err != nil {
				return err
			}
		}
		missed, err := comparePodNet(out, way.name, hosts, pods, way.wanted)
		if err != nil {
			return err
		}
		misses = append(misses, missed...)
	}
	if _, err := comparePodNet(out, "a router between, the hosts by VXLAN, too", hosts, tunnel, 0); err != nil {
		return err
	}
	if len(misses) > 0 {
		return fmt.Errorf("pods' network is too slow: %v", misses)
	}
	return nil
}

// tunnelled is the way from host to host that pods' packets take, without the pods: to the second host's address on its bridge.
func (b bench) tunnelled(ctx context.Context, hosts wire) (wire, error) {
	cidr, err := b.run(ctx, nil, "kubectl", "--name", b.name, "get", "node", b.name+"-2", "-o", "jsonpath={.spec.podCIDR}")
	if err != nil {
		return wire{}, err
	}
	pods, err := netip.ParsePrefix(cidr)
	if err != nil {
		return wire{}, fmt.Errorf("pods' range of the second host: %w", err)
	}
	return wire{hosts.from, hosts.to, pods.Addr().Next().String()}, nil
}

// comparePodNet measures pods against hosts in turn. What misses the bound is returned; 0 is no bound.
func comparePodNet(out io.Writer, name string, hosts, pods wire, wanted float64) (misses []string, err error) {
	const rounds = 9
	for _, m := range []struct {
		what, unit string
		measure    func(a, b net.Conn) (float64, error)
	}{{"a TCP stream", "Gbit/s", stream}, {"requests and answers of one byte", "a second", requests}} {
		var ofHosts, ofPods, ratios []float64
		for range rounds {
			h, err := hosts.run(m.measure)
			if err != nil {
				return nil, fmt.Errorf("%s between hosts: %w", m.what, err)
			}
			p, err := pods.run(m.measure)
			if err != nil {
				return nil, fmt.Errorf("%s between pods: %w", m.what, err)
			}
			ofHosts, ofPods, ratios = append(ofHosts, h), append(ofPods, p), append(ratios, p/h)
		}
		got, bound := median(ratios), ""
		if wanted > 0 {
			bound = fmt.Sprintf(">= %.2f", wanted)
		}
		fmt.Fprintf(out, "| %s, %s, %s | %.4g | %.4g | %.2f (%.2f to %.2f) | %s |\n", m.what, m.unit, name,
			median(ofHosts), median(ofPods), got, percentile(ratios, 5), percentile(ratios, 95), bound)
		if got < wanted {
			misses = append(misses, fmt.Sprintf("%s, %s: %.2f, wanted %.2f", m.what, name, got, wanted))
		}
	}
	return misses, nil
}

// run measures over a connection of the wire's.
func (w wire) run(measure func(a, b net.Conn) (float64, error)) (result float64, err error) {
	var l net.Listener
	if err := inNamespace(w.to, func() error { l, err = net.Listen("tcp", w.addr+":0"); return err }); err != nil {
		return 0, err
	}
	defer l.Close()
	type accepted struct {
		c   net.Conn
		err error
	}
	got := make(chan accepted, 1)
	go func() {
		c, err := l.Accept()
		got <- accepted{c, err}
	}()
	var a net.Conn
	if err := inNamespace(w.from, func() error { a, err = net.DialTimeout("tcp", l.Addr().String(), 5*time.Second); return err }); err != nil {
		return 0, err
	}
	defer a.Close()
	b := <-got
	if b.err != nil {
		return 0, b.err
	}
	defer b.c.Close()
	return measure(a, b.c)
}

// measuredFor is how long one measurement takes, after its first tenth.
const measuredFor = 700 * time.Millisecond

func stream(a, b net.Conn) (float64, error) {
	go func() {
		buf := make([]byte, 256<<10)
		for {
			if _, err := a.Write(buf); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 256<<10)
	read := func(d time.Duration) (total int, took time.Duration, err error) {
		for began := time.Now(); took < d; took = time.Since(began) {
			n, err := b.Read(buf)
			if err != nil {
				return total, took, err
			}
			total += n
		}
		return total, took, nil
	}
	if _, _, err := read(measuredFor / 10); err != nil {
		return 0, err
	}
	n, took, err := read(measuredFor)
	return float64(n) * 8 / took.Seconds() / 1e9, err
}

func requests(a, b net.Conn) (float64, error) {
	go func() { _, _ = io.Copy(b, b) }()
	one := make([]byte, 1)
	ask := func(d time.Duration) (total int, took time.Duration, err error) {
		for began := time.Now(); took < d; took = time.Since(began) {
			if _, err = a.Write(one); err == nil {
				_, err = io.ReadFull(a, one)
			}
			if err != nil {
				return total, took, err
			}
			total++
		}
		return total, took, nil
	}
	if _, _, err := ask(measuredFor / 10); err != nil {
		return 0, err
	}
	n, took, err := ask(measuredFor)
	return float64(n) / took.Seconds(), err
}

func (b bench) run(ctx context.Context, stdin []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, b.orlop, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+b.kubeconfig)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("orlop %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// wires starts a pod on each host and finds the namespaces.
func (b bench) wires(ctx context.Context) (hosts, pods wire, err error) {
	version, err := b.run(ctx, nil, "version")
	if err != nil {
		return hosts, pods, err
	}
	f := strings.Fields(version)
	var manifest strings.Builder
	for i := 1; i <= 2; i++ {
		fmt.Fprintf(&manifest, `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "net-%d"}, "spec": {"nodeName": "%s-%d", "terminationGracePeriodSeconds": 1,
			"tolerations": [{"operator": "Exists"}], "containers": [{"name": "c", "image": "localhost/pause:%s"}]}}`+"\n---\n", i, b.name, i, f[len(f)-1])
	}
	if _, err := b.run(ctx, []byte(manifest.String()), "kubectl", "--name", b.name, "apply", "-f", "-"); err != nil {
		return hosts, pods, err
	}
	if _, err := b.run(ctx, nil, "kubectl", "--name", b.name, "wait", "--for=condition=Ready", "--timeout=2m", "pod/net-1", "pod/net-2"); err != nil {
		return hosts, pods, err
	}
	for i, end := range []*netns.NsHandle{&pods.from, &pods.to} {
		uid, err := b.run(ctx, nil, "kubectl", "--name", b.name, "get", "pod", fmt.Sprintf("net-%d", i+1), "-o", "jsonpath={.metadata.uid}")
		if err != nil {
			return hosts, pods, err
		}
		if *end, err = namespaceOf(fmt.Sprintf("/orlop-%s/%s-%d/", b.name, b.name, i+1), "/pod"+uid); err != nil {
			return hosts, pods, err
		}
	}
	for i, end := range []*netns.NsHandle{&hosts.from, &hosts.to} {
		if *end, err = namespaceOf(fmt.Sprintf("/orlop-%s/%s-%d/system", b.name, b.name, i+1), ""); err != nil {
			return hosts, pods, err
		}
	}
	if pods.addr, err = b.run(ctx, nil, "kubectl", "--name", b.name, "get", "pod", "net-2", "-o", "jsonpath={.status.podIP}"); err != nil {
		return hosts, pods, err
	}
	hosts.addr, err = b.run(ctx, nil, "kubectl", "--name", b.name, "get", "pod", "net-2", "-o", "jsonpath={.status.hostIP}")
	return hosts, pods, err
}

// namespaceOf opens the network namespace of a process whose cgroup has both parts in its path.
func namespaceOf(part, other string) (netns.NsHandle, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return netns.None(), err
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(content), part) && strings.Contains(string(content), other) {
			return netns.GetFromPath(filepath.Join(filepath.Dir(file), "ns", "net"))
		}
	}
	return netns.None(), fmt.Errorf("no process in the cgroup %s...%s", part, other)
}

// router has two hosts reach each other by the third, and waits until the pods' packets take a tunnel. The fabric's own gateway would not do: it sends by a
// bridge device, which cuts packets of tunnels into small ones by itself and lets the hosts' own pass whole.
func (b bench) router(ctx context.Context) error {
	addrs, err := b.run(ctx, nil, "kubectl", "--name", b.name, "get", "nodes", "-o", `jsonpath={.items[*].status.addresses[?(@.type=="InternalIP")].address}`)
	if err != nil {
		return err
	}
	f := strings.Fields(addrs)
	if len(f) != 3 {
		return fmt.Errorf("addresses of three hosts: %q", addrs)
	}
	straight := "for f in /proc/sys/net/ipv4/conf/*/send_redirects; do echo 0 > $f; done" // else it tells them that they are on one link
	if _, err := b.run(ctx, nil, "exec", "--name", b.name, b.name+"-3", "--", "sh", "-c", straight); err != nil {
		return err
	}
	for i := range 2 {
		if _, err := b.run(ctx, nil, "exec", "--name", b.name, fmt.Sprintf("%s-%d", b.name, i+1), "--", "ip", "route", "add", f[1-i]+"/32", "via", f[2]); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return until(ctx, func(ctx context.Context) bool {
		for i := range 2 {
			routes, err := b.run(ctx, nil, "exec", "--name", b.name, fmt.Sprintf("%s-%d", b.name, i+1), "--", "ip", "route")
			if err != nil || !strings.Contains(routes, "dev orlop-vx") {
				return false
			}
		}
		return true
	})
}
