package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// peersVersion is that of github.com/containernetworking/plugins, installed for the run and measured side by side.
const peersVersion = "v1.9.1"

// chain is what a runtime calls, one program after the other, for each container.
type chain struct {
	name    string
	plugins []map[string]any
	port    bool // a host port for each container, another one each
	node    netns.NsHandle
	dir     string // of the programs
	used    int    // host ports given so far
}

// sandbox is one container's namespace, and what ADD said of it.
type sandbox struct {
	id   string
	ns   netns.NsHandle
	port int
	prev json.RawMessage
}

// runCNI measures the CNI plugin against the peers' bridge, host-local and portmap: processes from fork to exit.
func runCNI(ctx context.Context, bin string, out io.Writer) error {
	const rounds = 200
	dir, err := os.MkdirTemp("", "figures-cni-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	abs, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	if err := installPeers(ctx, dir); err != nil {
		return err
	}
	// Copied, as an installation does: the pages of a file that a linker wrote are slower to map.
	ours, peers := filepath.Join(dir, "ours"), filepath.Join(dir, "peers")
	for from, to := range map[string]string{
		filepath.Join(abs, "orlop-cni"): ours, filepath.Join(dir, "bridge"): peers, filepath.Join(dir, "host-local"): peers, filepath.Join(dir, "portmap"): peers,
		filepath.Join(dir, "loopback"): peers,
	} {
		if err := copyProgram(from, to); err != nil {
			return err
		}
	}
	if err := os.Symlink("orlop-cni", filepath.Join(ours, "loopback")); err != nil { // containerd calls it for each pod, too
		return err
	}
	chains, closeAll, err := makeChains(ours, peers)
	if err != nil {
		return err
	}
	defer closeAll()
	spare := chains[4]
	chains = chains[:4]
	adds, dels := map[string][]float64{}, map[string][]float64{}
	for range rounds {
		for _, c := range chains {
			add, del, err := c.once(ctx)
			if err != nil {
				return err
			}
			adds[c.name], dels[c.name] = append(adds[c.name], add), append(dels[c.name], del)
		}
	}
	misses := printCNI(out, chains, adds, dels)
	crowd, err := crowded(ctx, chains[0], chains[1], spare, out)
	if err != nil {
		return err
	}
	slow, err := runSandboxes(ctx, abs, ours, peers, out)
	if err != nil {
		return err
	}
	if misses = slices.Concat(misses, crowd, slow); len(misses) > 0 {
		return fmt.Errorf("the CNI plugin is too slow: %v", misses)
	}
	return nil
}

func printCNI(out io.Writer, chains []*chain, adds, dels map[string][]float64) (misses []string) {
	fmt.Fprintf(out, "| ms, whole processes, medians of %d (5th to 95th percentile) | ADD | DEL |\n|---|---|---|\n", len(adds[chains[0].name]))
	for _, c := range chains {
		a, d := adds[c.name], dels[c.name]
		fmt.Fprintf(out, "| %s | %.2f (%.2f to %.2f) | %.2f (%.2f to %.2f) |\n", c.name,
			median(a), percentile(a, 5), percentile(a, 95), median(d), percentile(d, 5), percentile(d, 95))
	}
	fmt.Fprint(out, "\n| ratio of medians | measured | wanted |\n|---|---|---|\n")
	for _, b := range []struct {
		what       string
		ours, peer float64
		wanted     float64
	}{
		{"ADD against bridge + host-local", median(adds[chains[0].name]), median(adds[chains[1].name]), 1.0 / 3},
		{"DEL against bridge + host-local", median(dels[chains[0].name]), median(dels[chains[1].name]), 1.0 / 4},
		{"ADD with a host port against the chain with portmap", median(adds[chains[2].name]), median(adds[chains[3].name]), 1.0 / 8},
		{"DEL with a host port against the chain with portmap", median(dels[chains[2].name]), median(dels[chains[3].name]), 1.0 / 12},
	} {
		got := b.ours / b.peer
		fmt.Fprintf(out, "| %s | 1/%.1f | <= 1/%.0f |\n", b.what, 1/got, 1/b.wanted)
		if got > b.wanted {
			misses = append(misses, fmt.Sprintf("%s is 1/%.1f, wanted 1/%.0f", b.what, 1/got, 1/b.wanted))
		}
	}
	fmt.Fprintln(out)
	return misses
}

// once takes one container from ADD to the end of its namespace.
func (c *chain) once(ctx context.Context) (add, del float64, err error) {
	s, err := c.sandbox()
	if err != nil {
		return 0, 0, err
	}
	defer s.ns.Close()
	if add, err = c.timed(ctx, "ADD", s); err != nil {
		return 0, 0, err
	}
	if del, err = c.timed(ctx, "DEL", s); err != nil {
		return 0, 0, err
	}
	s.ns.Close()
	return add, del, settle(c.node)
}

// crowded measures a hundred ADDs at once, and single ones while a thousand addresses are taken, in turn with a node that has none taken.
func crowded(ctx context.Context, ours, peer, spare *chain, out io.Writer) (misses []string, err error) {
	fmt.Fprint(out, "| crowd | orlop-cni | bridge + host-local | wanted |\n|---|---|---|---|\n")
	var walls [2]float64
	for i, c := range []*chain{ours, peer} {
		if walls[i], err = c.burst(ctx, 100); err != nil {
			return nil, err
		}
	}
	fmt.Fprintf(out, "| 100 ADDs at once, ms in all | %.0f | %.0f | less |\n", walls[0], walls[1])
	if walls[0] > walls[1] {
		misses = append(misses, fmt.Sprintf("100 ADDs at once take %.0f ms, the peers' %.0f", walls[0], walls[1]))
	}
	for _, c := range []*chain{ours, peer} {
		if err := c.fill(ctx, 1000); err != nil {
			return nil, err
		}
	}
	var full [3][]float64
	for range 40 {
		for i, c := range []*chain{ours, peer, spare} {
			add, _, err := c.once(ctx)
			if err != nil {
				return nil, err
			}
			full[i] = append(full[i], add)
		}
	}
	mine, theirs, empty := median(full[0]), median(full[1]), median(full[2])
	fmt.Fprintf(out, "| ms for an ADD, 1,000 addresses taken | %.2f | %.2f | %.2f, with none taken, +25 %% |\n\n", mine, theirs, empty)
	if mine > empty*1.25 {
		misses = append(misses, fmt.Sprintf("an ADD takes %.2f ms with 1,000 addresses taken and %.2f with none", mine, empty))
	}
	return misses, nil
}

func (c *chain) burst(ctx context.Context, n int) (float64, error) {
	boxes := make([]*sandbox, n)
	for i := range boxes {
		var err error
		if boxes[i], err = c.sandbox(); err != nil {
			return 0, err
		}
		defer boxes[i].ns.Close()
	}
	errs := make([]error, n)
	began := time.Now()
	var wg sync.WaitGroup
	for i, s := range boxes {
		wg.Go(func() { _, errs[i] = c.timed(ctx, "ADD", s) })
	}
	wg.Wait()
	wall := time.Since(began).Seconds() * 1000
	for i, s := range boxes {
		if errs[i] == nil {
			_, errs[i] = c.timed(ctx, "DEL", s)
		}
	}
	return wall, errors.Join(errs...)
}

// fill leaves n addresses taken by containers whose namespaces are gone.
func (c *chain) fill(ctx context.Context, n int) error {
	for i := range n {
		s, err := c.sandbox()
		if err != nil {
			return err
		}
		_, err = c.timed(ctx, "ADD", s)
		s.ns.Close()
		if err == nil && i%100 == 99 { // a bridge holds 1,024 links
			err = settle(c.node)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func installPeers(ctx context.Context, dir string) error {
	args := []string{"install"}
	for _, p := range []string{"main/bridge", "main/loopback", "ipam/host-local", "meta/portmap"} {
		args = append(args, "github.com/containernetworking/plugins/plugins/"+p+"@"+peersVersion)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("install the peers' plugins: %w: %s", err, b)
	}
	return nil
}

func copyProgram(from, dir string) error {
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, filepath.Base(from)), b, 0o755)
	}
	if err != nil {
		return fmt.Errorf("install %s: %w", filepath.Base(from), err)
	}
	return nil
}

// makeChains gives each chain a node of its own, so that none meets what another one made.
func makeChains(bin, peers string) (chains []*chain, closeAll func(), err error) {
	bridge := func(kind string, port bool) map[string]any {
		conf := map[string]any{"type": kind, "bridge": "cni0", "isGateway": true, "isDefaultGateway": true}
		if port {
			conf["capabilities"] = map[string]bool{"portMappings": true}
		}
		return conf
	}
	portmap := map[string]any{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}}
	chains = []*chain{
		{name: "orlop-cni", dir: bin, plugins: []map[string]any{bridge("orlop-cni", false)}},
		{name: "bridge + host-local", dir: peers, plugins: []map[string]any{bridge("bridge", false)}},
		{name: "orlop-cni, one host port", dir: bin, plugins: []map[string]any{bridge("orlop-cni", true)}, port: true},
		{name: "bridge + host-local + portmap, one host port", dir: peers, plugins: []map[string]any{bridge("bridge", false), portmap}, port: true},
		{name: "orlop-cni, on another node", dir: bin, plugins: []map[string]any{bridge("orlop-cni", false)}},
	}
	closeAll = func() {
		for _, c := range chains {
			c.node.Close()
		}
	}
	for i, c := range chains {
		c.node = netns.None()
		c.plugins[0]["ipam"] = map[string]any{
			"type": "host-local", "dataDir": filepath.Join(peers, fmt.Sprint("state", i)),
			"ranges": []any{[]any{map[string]any{"subnet": "10.80.0.0/20"}}},
		}
	}
	for _, c := range chains {
		if c.node, err = newNamespace(); err != nil {
			closeAll()
			return nil, nil, err
		}
	}
	return chains, closeAll, nil
}

func clone(m map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range m {
		out[k] = v
	}
	return out
}

func (c *chain) sandbox() (*sandbox, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	c.used++
	return &sandbox{id: fmt.Sprintf("%s-%d", filepath.Base(c.dir), c.used), ns: ns, port: 10000 + c.used}, nil
}

// timed runs a verb of each plugin, in the reverse for DEL, and returns the milliseconds of all.
func (c *chain) timed(ctx context.Context, verb string, s *sandbox) (float64, error) {
	var total time.Duration
	plugins := c.plugins
	if verb == "DEL" {
		plugins = slices.Clone(plugins)
		slices.Reverse(plugins)
	}
	for _, p := range plugins {
		conf := clone(p)
		conf["name"], conf["cniVersion"] = "figures", "1.0.0"
		if s.prev != nil {
			conf["prevResult"] = s.prev
		}
		if c.port && p["capabilities"] != nil {
			conf["runtimeConfig"] = map[string]any{"portMappings": []any{map[string]any{"hostPort": s.port, "containerPort": 80, "protocol": "tcp"}}}
		}
		stdin, err := json.Marshal(conf)
		if err != nil {
			return 0, err
		}
		cmd := exec.CommandContext(ctx, filepath.Join(c.dir, p["type"].(string)))
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + s.id, "CNI_IFNAME=eth0",
			"CNI_PATH=" + c.dir, fmt.Sprintf("CNI_NETNS=/proc/%d/fd/%d", os.Getpid(), int(s.ns))}
		var stdout, stderr bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
		var began time.Time
		err = inNamespace(c.node, func() error {
			began = time.Now()
			return cmd.Start()
		})
		if err == nil {
			err = cmd.Wait()
		}
		total += time.Since(began)
		if err != nil {
			return 0, fmt.Errorf("%s of %s: %w: %s%s", verb, c.name, err, stdout.Bytes(), stderr.Bytes())
		}
		if verb == "ADD" {
			s.prev = stdout.Bytes()
		}
	}
	return total.Seconds() * 1000, nil
}

// newNamespace makes a network namespace that lives as long as its handle.
func newNamespace() (ns netns.NsHandle, err error) {
	err = inNamespace(netns.None(), func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		ns, err = netns.Get()
		return err
	})
	return ns, err
}

// inNamespace runs f on a thread of its own, which dies after it.
func inNamespace(ns netns.NsHandle, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		var err error
		if ns.IsOpen() {
			err = netns.Set(ns)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// settle waits until the kernel has taken the links of closed namespaces apart: it works at that for all at once, with a lock that
// the next measurement would wait for.
func settle(node netns.NsHandle) error {
	for range 2000 {
		left := 0
		err := inNamespace(node, func() error {
			ls, err := net.Interfaces()
			left = len(ls)
			return err
		})
		if err != nil || left <= 2 { // lo and the bridge
			time.Sleep(40 * time.Millisecond) // the links are gone before the namespace is
			return err
		}
		time.Sleep(2 * time.Millisecond)
	}
	return errors.New("links of namespaces that are closed do not go")
}

func percentile(v []float64, p int) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[min(len(s)-1, len(s)*p/100)]
}
