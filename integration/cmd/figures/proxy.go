package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/integration/proxyfield"
)

// Bounds of the agent as a proxy.
const (
	fewServices     = 100
	wantCold        = 5   // seconds, all Services
	wantProxyRSS    = 150 // MiB a minute later
	wantProxyFewRSS = 40  // MB, with fewServices
	proxySettle     = time.Minute
	endpointChanges = 300
)

// proxyBench measures one agent with one number of Services.
type proxyBench struct {
	field *proxyfield.Field
	out   io.Writer
	mode  string
	n     int
}

// runProxy measures the agent as a proxy, with few Services and with many, in each mode that rows choose: how long it takes from its start until the last
// Service answers, its memory a minute later, and how long after a write to the API a connection goes to the new endpoint.
func runProxy(ctx context.Context, bin string, choice choice, services string, out io.Writer) error {
	var numbers []int
	for text := range strings.SplitSeq(services, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || len(numbers) > 0 && n <= numbers[len(numbers)-1] {
			return fmt.Errorf("-services %q: want ascending numbers", services)
		}
		numbers = append(numbers, n)
	}
	code, again, err := proxyfield.Private("-bin", bin, "-what", "proxy", "-rows", choice.rows.String(), "-services", services)
	if err != nil {
		return err
	}
	if again {
		if code != 0 {
			return fmt.Errorf("the part proxy ended with %d", code)
		}
		return nil
	}
	abs, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "| mode | Services | endpoints | s, from the agent's start to the last | its CPU s | RSS MiB after %s | anonymous | peak | ms, write of an endpoint to a connection to it: median | p99 | largest |\n"+
		"|---|---|---|---|---|---|---|---|---|---|---|\n", proxySettle)
	var errs []error
	for _, mode := range []string{"ebpf", "nftables"} {
		if choice.rows.MatchString(mode) {
			errs = append(errs, proxyMode(ctx, abs, mode, numbers, out))
		}
	}
	return errors.Join(errs...)
}

func proxyMode(ctx context.Context, bin, mode string, numbers []int, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "figures-proxy-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	f, err := proxyfield.New(ctx, proxyfield.Config{Bin: bin, Dir: dir, Mode: mode})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var errs []error
	had := 0
	for _, n := range numbers {
		if err := f.Fill(ctx, had, n); err != nil {
			return fmt.Errorf("make %d Services: %w", n, err)
		}
		had = n
		b := &proxyBench{field: f, out: out, mode: mode, n: n}
		if err := errors.Join(b.seen(ctx), f.Forget()); err != nil { // a cold start: with no last state
			return err
		}
		errs = append(errs, b.measure(ctx))
		if err := f.EndAgent(syscall.SIGTERM); err != nil {
			return err
		}
		if err := f.Reboot(); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

// seen waits until the API server has the last Service.
func (b *proxyBench) seen(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	last := proxyfield.Slice(b.n - 1)
	err := until(ctx, func(ctx context.Context) bool {
		slices, err := b.field.Client.DiscoveryV1().EndpointSlices(last.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + last.Name, ResourceVersion: "0"})
		if err != nil || len(slices.Items) != 1 {
			return false
		}
		name := last.Labels[discoveryv1.LabelServiceName]
		services, err := b.field.Client.CoreV1().Services(last.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name, ResourceVersion: "0"})
		return err == nil && len(services.Items) == 1
	})
	if err != nil {
		return fmt.Errorf("the API server does not see %d Services: %w\n%s", b.n, err, b.field.Log())
	}
	return nil
}

func (b *proxyBench) measure(ctx context.Context) error {
	took, cpu, err := b.cold(ctx)
	if err != nil {
		return err
	}
	if err := b.allAnswer(ctx); err != nil {
		return err
	}
	if err := wait(ctx, proxySettle); err != nil {
		return err
	}
	memory, err := statusOf(b.field.PID())
	if err != nil {
		return err
	}
	changes, err := b.changes(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "| %s | %d | %d | %.2f | %.2f | %.1f | %.1f | %.1f | %.1f | %.1f | %.1f |\n", b.mode, b.n, b.n*proxyfield.PerService, took.Seconds(), cpu.Seconds(),
		memory["VmRSS"], memory["RssAnon"], memory["VmHWM"], median(changes), percentile(changes, 99), percentile(changes, 100))
	switch {
	case b.mode != "ebpf": // the bounds are the best mode's
	case b.n <= fewServices && memory["VmRSS"]*1.048576 > wantProxyFewRSS:
		return fmt.Errorf("too large: the agent takes %.1f MB with %d Services, wanted are %d", memory["VmRSS"]*1.048576, b.n, wantProxyFewRSS)
	case b.n > fewServices && took.Seconds() > wantCold:
		return fmt.Errorf("too slow: %d Services answer %.2f s after the agent's start, wanted are %d", b.n, took.Seconds(), wantCold)
	case b.n > fewServices && memory["VmRSS"] > wantProxyRSS:
		return fmt.Errorf("too large: the agent takes %.1f MiB with %d Services, wanted are %d", memory["VmRSS"], b.n, wantProxyRSS)
	}
	return nil
}

// cold starts the agent and waits for each of a thousand Services in turn, so that it works against as little as can be; then the agent says
// itself that all are in force.
func (b *proxyBench) cold(ctx context.Context) (took, cpu time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	began := time.Now()
	if err := b.field.StartAgent(); err != nil {
		return 0, 0, err
	}
	step := max(1, b.n/1000)
	for i := b.n - 1; i >= 0; i -= step {
		for {
			who, err := proxyfield.Ask("tcp", proxyfield.VIP(i).String(), 50*time.Millisecond)
			if err == nil && proxyfield.ServiceOf(who) == i {
				break
			}
			if err := wait(ctx, 10*time.Millisecond); err != nil {
				return 0, 0, fmt.Errorf("service %d does not answer: %w\n%s", i, err, b.field.Log())
			}
		}
	}
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		resp, err := client.Get("http://127.0.0.1:10253/healthz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		if err := wait(ctx, 10*time.Millisecond); err != nil {
			return 0, 0, fmt.Errorf("the agent is not healthy: %w\n%s", err, b.field.Log())
		}
	}
	took = time.Since(began)
	cpu, err = timeOf(b.field.PID())
	return took, cpu, err
}

// allAnswer asks every Service once.
func (b *proxyBench) allAnswer(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range 8 {
		group.Go(func() error {
			for i := int(next.Add(1)) - 1; i < b.n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				who, err := proxyfield.Ask("tcp", proxyfield.VIP(i).String(), 5*time.Second)
				if err == nil && proxyfield.ServiceOf(who) != i {
					err = fmt.Errorf("%s answers, of service %d", who, proxyfield.ServiceOf(who))
				}
				if err != nil {
					return fmt.Errorf("service %d, after all should answer: %w", i, err)
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// changes are the milliseconds from before a write that gives a Service another endpoint to the first connection that goes there.
func (b *proxyBench) changes(ctx context.Context) (out []float64, err error) {
	for i := range endpointChanges {
		n := i * 7919 % b.n
		ends := proxyfield.Ends(n)
		slices := b.field.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
		slice, err := slices.Get(ctx, proxyfield.Slice(n).Name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		to := ends[i%len(ends)]
		if len(slice.Endpoints) == 1 && slice.Endpoints[0].Addresses[0] == to.String() {
			to = ends[(i+1)%len(ends)]
		}
		slice.Endpoints = proxyfield.Slice(n, to).Endpoints
		began := time.Now()
		if _, err := slices.Update(ctx, slice, metav1.UpdateOptions{}); err != nil {
			return nil, err
		}
		if err := b.reaches(ctx, n, to); err != nil {
			return nil, err
		}
		out = append(out, float64(time.Since(began))/1e6)
	}
	return out, nil
}

// reaches waits until four connections in a row went to the endpoint: the first may have done so by chance.
func (b *proxyBench) reaches(ctx context.Context, n int, to netip.Addr) error {
	for end, row := time.Now().Add(time.Minute), 0; row < 4; {
		who, err := proxyfield.Ask("tcp", proxyfield.VIP(n).String(), 5*time.Second)
		if err != nil {
			return fmt.Errorf("service %d while its endpoint changes: %w", n, err)
		}
		if row++; who != to {
			row = 0
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return fmt.Errorf("service %d goes to %s a minute after its only endpoint became %s", n, who, to)
		}
	}
	return nil
}

// statusOf are the sizes that the kernel tells of a process, in MiB by name.
func statusOf(pid int) (map[string]float64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[string]float64{}
	for s := bufio.NewScanner(f); s.Scan(); {
		name, value, _ := strings.Cut(s.Text(), ":")
		if kb, is := strings.CutSuffix(strings.TrimSpace(value), " kB"); is {
			n, err := strconv.ParseFloat(kb, 64)
			if err != nil {
				return nil, err
			}
			out[name] = n / 1024
		}
	}
	return out, nil
}
