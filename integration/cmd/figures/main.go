// Command figures measures what README claims: the seconds from `orlop up` to a
// Ready node and to an answer of cluster DNS, the memory of each process once
// the cluster is idle, what the API server with its etcd costs, alone, and how
// many pods a second the scheduler places on nodes that are only simulated. It
// prints Markdown tables.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/orlop-io/orlop/integration/nodebench"
)

func main() {
	// The clients and nodes that this program plays share the processors with what is measured.
	debug.SetGCPercent(400)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "figures:", err)
		os.Exit(1)
	}
}

// bounds in seconds, of the design's section 6.
const (
	wantReady = 15
	wantDNS   = 20
	wantAPI   = 240 // MB of PSS, the API server and etcd together
	wantIdle  = 60  // MB of PSS, the controllers and the scheduler together
)

type bench struct {
	orlop, testimage, name, kubeconfig string
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("figures", flag.ContinueOnError)
	bin := flags.String("bin", "bin", "folder of the built programs")
	rounds := flags.Int("rounds", 3, "clusters to start, one after the other; the medians are printed")
	idle := flags.Duration("idle", 20*time.Second, "how long to wait before memory is measured")
	what := flags.String("what", "all", "what to measure: cluster, idle, api, writes, scheduler, cni, podnet, proxy, node or all")
	profiles := flags.String("profiles", "", "folder for profiles of the API server, of the parts writes and scheduler; none if empty")
	rows := flags.String("rows", "", "measure only these rows of the parts writes, scheduler, proxy and node: a regular expression; rows of proxy are ebpf, nftables; rows of node are starts, ready, resize, exec, curve, requests, probes, density")
	most := flags.Int("pods", 500, "with how many pods the row density of the part node ends")
	services := flags.String("services", "100,50000", "how many Services the part proxy has, of five endpoints each: ascending numbers")
	if err := flags.Parse(args); err != nil {
		return err
	}
	only, err := regexp.Compile(*rows)
	if err != nil {
		return fmt.Errorf("-rows: %w", err)
	}
	keep := choice{only, *profiles}
	var errs []error
	known := *what == "all"
	for _, part := range []struct {
		name    string
		measure func() error
	}{
		{"cluster", func() error { return runCluster(ctx, *bin, *rounds, *idle, out) }},
		{"idle", func() error { return runIdle(ctx, *bin, *idle, out) }},
		{"api", func() error { return runAPI(ctx, *bin, *rounds, *idle, out) }},
		{"writes", func() error { return runWrites(ctx, *bin, keep, out) }},
		{"scheduler", func() error { return runScheduler(ctx, *bin, keep, out) }},
		{"cni", func() error { return runCNI(ctx, *bin, out) }},
		{"podnet", func() error { return runPodNet(ctx, *bin, out) }},
		{"proxy", func() error { return runProxy(ctx, *bin, keep, *services, out) }},
		{"node", func() error {
			return nodebench.Run(ctx, nodebench.Config{Bin: *bin, Starts: 100, Pods: slices.DeleteFunc([]int{10, 110, 500}, func(n int) bool { return n > *most }), Rows: only, Idle: *idle}, out)
		}},
	} {
		if *what == part.name || *what == "all" {
			errs, known = append(errs, part.measure()), true
		}
	}
	if !known {
		return fmt.Errorf("-what %q: want cluster, idle, api, writes, scheduler, cni, podnet, proxy, node or all", *what)
	}
	return errors.Join(errs...)
}

// choice is which rows to measure, and where to keep profiles of the API server meanwhile; nowhere if empty.
type choice struct {
	rows     *regexp.Regexp
	profiles string
}

// runCluster measures whole clusters of one node.
func runCluster(ctx context.Context, bin string, rounds int, idle time.Duration, out io.Writer) error {
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
	var ready, dns []float64
	var procs []process
	for i := range rounds {
		r, d, p, err := b.round(ctx, i == rounds-1, idle)
		if err != nil {
			return err
		}
		ready, dns = append(ready, r), append(dns, d)
		if p != nil {
			procs = p
		}
	}
	print(out, ready, dns, procs)
	if mb := together(procs, "kube-controller", "kube-scheduler"); mb > wantIdle {
		return fmt.Errorf("too large: controllers and scheduler take %.0f MB, wanted are %d", mb, wantIdle)
	}
	if mb := ofAPI(procs); mb > wantAPI {
		return fmt.Errorf("too large: API server and etcd take %.0f MB, wanted are %d", mb, wantAPI)
	}
	if median(ready) > wantReady || median(dns) > wantDNS {
		return fmt.Errorf("too slow: a Ready node is wanted within %d s and DNS within %d s", wantReady, wantDNS)
	}
	return nil
}

// round starts one cluster and removes it; memory only where wanted, because
// it waits for the cluster to be idle.
func (b bench) round(ctx context.Context, memory bool, idle time.Duration) (ready, dns float64, procs []process, err error) {
	defer func() {
		out, derr := exec.Command(b.orlop, "down", "--name", b.name).CombinedOutput()
		if derr != nil {
			err = errors.Join(err, fmt.Errorf("orlop down: %w: %s", derr, out))
		}
	}()
	began := time.Now()
	up := exec.CommandContext(ctx, b.orlop, "up", "--name", b.name, "--nodes", "1", "--kubeconfig", b.kubeconfig, "--wait", "3m")
	var log bytes.Buffer
	up.Stdout, up.Stderr = &log, &log
	if err := up.Start(); err != nil {
		return 0, 0, nil, err
	}
	done := make(chan error, 1)
	go func() { done <- up.Wait() }()
	watch, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if err = until(watch, b.nodeReady); err == nil {
		ready = time.Since(began).Seconds()
		if err = until(watch, b.dnsAnswers); err == nil {
			dns = time.Since(began).Seconds()
		}
	}
	if uerr := <-done; uerr != nil {
		return 0, 0, nil, fmt.Errorf("orlop up: %w: %s", uerr, log.Bytes())
	}
	if err != nil || !memory {
		return ready, dns, nil, err
	}
	select {
	case <-ctx.Done():
		return 0, 0, nil, ctx.Err()
	case <-time.After(idle):
	}
	procs, err = hostProcesses(b.name)
	return ready, dns, procs, err
}

func until(ctx context.Context, holds func(context.Context) bool) error {
	for !holds(ctx) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

func (b bench) nodeReady(ctx context.Context) bool {
	if _, err := os.Stat(b.kubeconfig); err != nil {
		return false
	}
	cmd := exec.CommandContext(ctx, b.orlop, "kubectl", "get", "nodes", "-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+b.kubeconfig)
	out, err := cmd.Output()
	return err == nil && string(out) == "True"
}

func (b bench) dnsAnswers(ctx context.Context) bool {
	return exec.CommandContext(ctx, b.orlop, "exec", "--name", b.name, b.name+"-1", "--",
		b.testimage, "nslookup", "kubernetes.default.svc.cluster.local.", "10.96.0.10").Run() == nil
}

// process is one process of the cluster and its memory in bytes.
type process struct {
	name      string
	pid       int
	pss, anon int64
	// cpu is the processor's time that it has had.
	cpu time.Duration
}

// hostProcesses lists the processes below the cluster's cgroups.
func hostProcesses(name string) ([]process, error) {
	var procs []process
	seen := map[int]bool{}
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/unified"); err == nil {
		root += "/unified"
	}
	err := filepath.WalkDir(filepath.Join(root, "orlop-"+name), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "cgroup.procs" {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for field := range strings.FieldsSeq(string(content)) {
			pid, err := strconv.Atoi(field)
			if err != nil || seen[pid] {
				continue
			}
			seen[pid] = true
			if p, err := memoryOf(pid); err == nil {
				procs = append(procs, p)
			}
		}
		return nil
	})
	sort.Slice(procs, func(i, j int) bool { return procs[i].pss > procs[j].pss })
	return procs, err
}

func memoryOf(pid int) (process, error) {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return process{}, err
	}
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return process{}, err
	}
	p := process{name: strings.TrimSpace(string(comm)), pid: pid}
	if p.cpu, err = timeOf(pid); err != nil {
		return process{}, err
	}
	for scan := bufio.NewScanner(bytes.NewReader(rollup)); scan.Scan(); {
		f := strings.Fields(scan.Text())
		if len(f) < 2 {
			continue
		}
		kb, err := strconv.ParseInt(f[1], 10, 64)
		switch {
		case err != nil:
		case f[0] == "Pss:":
			p.pss = kb << 10
		case f[0] == "Anonymous:":
			p.anon = kb << 10
		}
	}
	return p, nil
}

func median(v []float64) float64 {
	s := append([]float64(nil), v...)
	sort.Float64s(s)
	if len(s) == 0 {
		return 0
	}
	return s[len(s)/2]
}

// ofAPI is the PSS of the API server and etcd together, in MB.
func ofAPI(procs []process) float64 { return together(procs, "kube-apiserver", "etcd") }

// together is the PSS of the programs of those names, in MB.
func together(procs []process, names ...string) float64 {
	var sum int64
	for _, p := range procs {
		if slices.Contains(names, p.name) {
			sum += p.pss
		}
	}
	return float64(sum) / 1e6
}

func print(out io.Writer, ready, dns []float64, procs []process) {
	fmt.Fprintf(out, "| figure | median of %d | wanted |\n|---|---|---|\n", len(ready))
	fmt.Fprintf(out, "| seconds from `orlop up` to a Ready node | %.1f | <= %d |\n", median(ready), wantReady)
	fmt.Fprintf(out, "| seconds from `orlop up` to an answer of cluster DNS | %.1f | <= %d |\n\n", median(dns), wantDNS)
	fmt.Fprintf(out, "API server and etcd together: %.0f MB PSS, wanted <= %d.\n\n", ofAPI(procs), wantAPI)
	fmt.Fprintf(out, "Controllers and scheduler together: %.0f MB PSS, wanted <= %d.\n\n", together(procs, "kube-controller", "kube-scheduler"), wantIdle)
	fmt.Fprint(out, "| process, idle | PSS MiB | anonymous MiB |\n|---|---|---|\n")
	for _, p := range procs {
		fmt.Fprintf(out, "| %s | %.1f | %.1f |\n", p.name, float64(p.pss)/(1<<20), float64(p.anon)/(1<<20))
	}
}
