package nodebench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// batch starts n pods at once and says when each was seen running.
func (b *bench) batch(ctx context.Context, prefix string, from, n int, mutate ...func(*corev1.Pod)) ([]time.Duration, error) {
	begun := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i := from; i < from+n; i++ {
		g.Go(func() error {
			p := b.pod(fmt.Sprintf("%s-%03d", prefix, i), append(mutate, func(p *corev1.Pod) { p.Labels = map[string]string{"batch": prefix} })...)
			_, err := b.create(gctx, p)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var all []time.Duration
	for i := from; i < from+n; i++ {
		at, err := b.pods.when(ctx, fmt.Sprintf("%s-%03d", prefix, i), "running")
		if err != nil {
			return nil, err
		}
		all = append(all, at.Sub(begun))
	}
	slices.Sort(all)
	return all, nil
}

func (b *bench) end(ctx context.Context, prefix string, n int) error {
	if err := b.client.CoreV1().Pods(metav1.NamespaceDefault).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "batch=" + prefix}); err != nil {
		return err
	}
	for i := range n {
		if _, err := b.pods.when(ctx, fmt.Sprintf("%s-%03d", prefix, i), "gone"); err != nil {
			return err
		}
	}
	return nil
}

// curve starts 50 pods at once with different bounds of what is made side by side. Rounds take turns, for what else the machine
// does changes with time.
func (b *bench) curve(ctx context.Context) error {
	const pods, rounds = 50, 3
	bounds := []int{1, 2, 3, 4, 6, 8, 16, 50}
	took := map[int]*[3][]time.Duration{} // of the first pod, the median and the last
	for round := range rounds {
		for _, side := range bounds {
			flag := fmt.Sprintf(" --parallel-starts=%d", side)
			if err := b.shell(ctx, b.host, `sed -i -e 's/ --parallel-starts=[0-9]*//' -e 's/"$/`+flag+`"/' /var/lib/kubelet/kubeadm-flags.env`); err != nil {
				return err
			}
			if err := b.restartKubelet(ctx); err != nil {
				return err
			}
			prefix := fmt.Sprintf("curve%d-%d", round, side)
			all, err := b.batch(ctx, prefix, 0, pods)
			if err != nil {
				return err
			}
			if took[side] == nil {
				took[side] = &[3][]time.Duration{}
			}
			for i, d := range []time.Duration{all[0], percentile(all, 0.5), all[len(all)-1]} {
				took[side][i] = append(took[side][i], d)
			}
			if err := b.end(ctx, prefix, pods); err != nil {
				return err
			}
		}
	}
	fmt.Fprintf(b.out, "\n| %d pods at once, medians of %d rounds; made side by side | first runs after s | median | last | least to most |\n|---|---|---|---|---|\n", pods, rounds)
	for _, side := range bounds {
		first, middle, last := took[side][0], took[side][1], took[side][2]
		fmt.Fprintf(b.out, "| %d | %.2f | %.2f | %.2f | %.2f to %.2f |\n", side, percentile(first, 0.5).Seconds(), percentile(middle, 0.5).Seconds(),
			percentile(last, 0.5).Seconds(), slices.Min(last).Seconds(), slices.Max(last).Seconds())
	}
	if err := b.shell(ctx, b.host, `sed -i 's/ --parallel-starts=[0-9]*//' /var/lib/kubelet/kubeadm-flags.env`); err != nil {
		return err
	}
	return b.restartKubelet(ctx)
}

// requests counts what the kubelet asks of the API server for each pod.
func (b *bench) requests(ctx context.Context) error {
	const pods = 50
	count := func() (map[string]float64, error) {
		if err := sleep(ctx, 5*time.Second); err != nil { // events and statuses come last
			return nil, err
		}
		m, err := b.metrics(ctx)
		out := map[string]float64{}
		for name, v := range m {
			if strings.HasPrefix(name, "rest_client_requests_total{") {
				_, method, _ := strings.Cut(name, `method="`)
				out[strings.TrimSuffix(method, `"}`)] += v
			}
		}
		return out, err
	}
	before, err := count()
	if err != nil {
		return err
	}
	if _, err := b.batch(ctx, "ask", 0, pods); err != nil {
		return err
	}
	running, err := count()
	if err != nil {
		return err
	}
	if err := b.end(ctx, "ask", pods); err != nil {
		return err
	}
	gone, err := count()
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "\n| requests to the API server per pod | start | end |\n|---|---|---|\n")
	var start, end float64
	for _, method := range slices.Sorted(maps.Keys(gone)) {
		s, e := (running[method]-before[method])/pods, (gone[method]-running[method])/pods
		start, end = start+s, end+e
		fmt.Fprintf(b.out, "| %s | %.2f | %.2f |\n", method, s, e)
	}
	fmt.Fprintf(b.out, "| all | %.2f | %.2f |\n", start, end)
	return nil
}

// bounds of a kubelet with 110 pods.
const (
	wantRSS, wantAnon = 60.0, 35.0 // MB
	wantCores         = 0.05
	wantPods          = 110
)

// density measures a kubelet at rest with ever more pods.
func (b *bench) density(ctx context.Context) error {
	fmt.Fprintf(b.out, "\n| pods | RSS MB | anonymous MB | cores, idle | goroutines | ms to list all containers, once a minute | last of those added runs after s |\n|---|---|---|---|---|---|---|\n")
	list, err := b.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + b.host})
	if err != nil {
		return err
	}
	have, base := 0, len(list.Items)
	var first, last use
	for _, n := range b.cfg.Pods {
		all, err := b.batch(ctx, "dense", have, n-base-have)
		if err != nil {
			return err
		}
		have = n - base
		if err := sleep(ctx, b.cfg.Idle); err != nil { // what starting took is collected
			return err
		}
		u, err := b.use(ctx)
		if err != nil {
			return err
		}
		listing, err := b.listing(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintf(b.out, "| %d | %.1f | %.1f | %.3f | %.0f | %.1f | %.1f |\n", n, u.rss, u.anon, u.cores, u.goroutines, listing, all[len(all)-1].Seconds())
		if n == wantPods && (u.rss > wantRSS || u.anon > wantAnon || u.cores > wantCores) {
			b.miss("at %d pods the kubelet has %.1f MB, %.1f of them anonymous, and takes %.3f cores: wanted %.0f, %.0f, %.2f", n, u.rss, u.anon, u.cores, wantRSS, wantAnon, wantCores)
		}
		if u.pods = n; first.pods == 0 {
			first = u
		}
		last = u
	}
	if last.pods > first.pods {
		fmt.Fprintf(b.out, "\nA pod more is %.0f KB more, from %d pods to %d.\n", 1000*(last.anon-first.anon)/float64(last.pods-first.pods), first.pods, last.pods)
	}
	return nil
}

// listing is how many milliseconds the runtime takes to list its containers for the kubelet.
func (b *bench) listing(ctx context.Context) (float64, error) {
	const name, times = `{operation_type="list_containers"}`, 20
	before, err := b.metrics(ctx)
	if err != nil {
		return 0, err
	}
	for range times {
		if _, err := b.client.CoreV1().RESTClient().Get().Resource("nodes").Name(b.host).SubResource("proxy").Suffix("runningpods/").DoRaw(ctx); err != nil {
			return 0, fmt.Errorf("let the kubelet list its containers: %w", err)
		}
	}
	after, err := b.metrics(ctx)
	const took, count = "kubelet_runtime_operations_duration_seconds_sum", "kubelet_runtime_operations_duration_seconds_count"
	return 1000 * (after[took+name] - before[took+name]) / (after[count+name] - before[count+name]), err
}

// use is what a kubelet holds and takes.
type use struct {
	pods                         int
	rss, anon, cores, goroutines float64
}

func (b *bench) use(ctx context.Context) (u use, err error) {
	h, err := b.status(ctx, b.host)
	if err != nil {
		return u, err
	}
	before, err := processorTime(h.Kubelet.Pid)
	if err != nil {
		return u, err
	}
	begun := time.Now()
	if err := sleep(ctx, b.cfg.Idle); err != nil {
		return u, err
	}
	after, err := processorTime(h.Kubelet.Pid)
	if err != nil {
		return u, err
	}
	u.cores = (after - before).Seconds() / time.Since(begun).Seconds()
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", h.Kubelet.Pid))
	if err != nil {
		return u, err
	}
	for scan := bufio.NewScanner(bytes.NewReader(rollup)); scan.Scan(); {
		f := strings.Fields(scan.Text())
		if len(f) < 2 {
			continue
		}
		kb, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "Rss:":
			u.rss = kb * 1024 / 1e6
		case "Anonymous:":
			u.anon = kb * 1024 / 1e6
		}
	}
	m, err := b.metrics(ctx)
	u.goroutines = m["go_goroutines"]
	return u, err
}

// processorTime is what a process has used so far.
func processorTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var sum time.Duration
	for _, s := range f[11:13] { // utime and stime, in hundredths of a second
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * 10 * time.Millisecond
	}
	return sum, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
