package nodebench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	tools "k8s.io/client-go/tools/watch"
)

// follower notes when a watch shows what.
type follower struct {
	mu   sync.Mutex
	pods map[string]*corev1.Pod
	// at is when a pod was first seen bound, running, ready or gone, by its name and one of these words.
	at   map[string]time.Time
	news chan struct{} // closed and made anew with each event
}

// follow watches the pods of the default namespace until ctx ends.
func follow(ctx context.Context, client *kubernetes.Clientset) (*follower, error) {
	list, err := client.CoreV1().Pods(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	w, err := tools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return client.CoreV1().Pods(metav1.NamespaceDefault).Watch(ctx, o)
		}})
	if err != nil {
		return nil, err
	}
	f := &follower{pods: map[string]*corev1.Pod{}, at: map[string]time.Time{}, news: make(chan struct{})}
	go func() {
		for ev := range w.ResultChan() {
			if p, ok := ev.Object.(*corev1.Pod); ok {
				f.saw(p, ev.Type == watch.Deleted, time.Now())
			}
		}
	}()
	return f, nil
}

func (f *follower) saw(p *corev1.Pod, gone bool, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	first := func(what string, holds bool) {
		if _, ok := f.at[p.Name+" "+what]; holds && !ok {
			f.at[p.Name+" "+what] = now
		}
	}
	first("bound", p.Spec.NodeName != "")
	first("running", p.Status.Phase == corev1.PodRunning)
	first("ready", isReady(p))
	first("gone", gone)
	f.pods[p.Name] = p
	close(f.news)
	f.news = make(chan struct{})
}

// when waits until a pod was seen bound, running, ready or gone.
func (f *follower) when(ctx context.Context, name, what string) (time.Time, error) {
	return f.until(ctx, name+" "+what, func(*corev1.Pod) bool { return false }, name)
}

// shows waits until a pod satisfies want.
func (f *follower) shows(ctx context.Context, name string, want func(*corev1.Pod) bool) (time.Time, error) {
	return f.until(ctx, "", want, name)
}

func (f *follower) until(ctx context.Context, key string, want func(*corev1.Pod) bool, name string) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		f.mu.Lock()
		at, ok := f.at[key]
		p, news := f.pods[name], f.news
		f.mu.Unlock()
		switch {
		case ok:
			return at, nil
		case p != nil && want(p):
			return time.Now(), nil
		}
		select {
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("wait for pod %s %q: %w", name, key, ctx.Err())
		case <-news:
		}
	}
}

// metrics reads the kubelet's, by name and labels.
func (b *bench) metrics(ctx context.Context) (map[string]float64, error) {
	text, err := b.client.CoreV1().RESTClient().Get().Resource("nodes").Name(b.host).SubResource("proxy").Suffix("metrics").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the kubelet's metrics: %w", err)
	}
	out := map[string]float64{}
	for scan := bufio.NewScanner(bytes.NewReader(text)); scan.Scan(); {
		line := scan.Text()
		at := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || strings.Contains(line, "_bucket{") || at < 0 {
			continue
		}
		if v, err := strconv.ParseFloat(line[at+1:], 64); err == nil {
			out[line[:at]] = v
		}
	}
	return out, nil
}

// callTime is what calls of the runtime have taken so far, by kind.
func callTime(m map[string]float64, operations ...string) time.Duration {
	sum := 0.0
	for _, op := range operations {
		sum += m[`kubelet_runtime_operations_duration_seconds_sum{operation_type="`+op+`"}`]
	}
	return time.Duration(sum * float64(time.Second))
}

// beyond is how long an act took, less the calls of the runtime in it.
func (b *bench) beyond(ctx context.Context, operations []string, act func() (time.Duration, error)) (took, calls time.Duration, err error) {
	before, err := b.metrics(ctx)
	if err != nil {
		return 0, 0, err
	}
	if took, err = act(); err != nil {
		return 0, 0, err
	}
	after, err := b.metrics(ctx)
	return took, callTime(after, operations...) - callTime(before, operations...), err
}

// percentile of durations; 1 is the last.
func percentile(d []time.Duration, p float64) time.Duration {
	s := slices.Sorted(slices.Values(d))
	if len(s) == 0 {
		return 0
	}
	return s[min(len(s)-1, int(p*float64(len(s))))]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.0f", float64(d.Microseconds())/1000) }

// heading begins a table of rows.
func (b *bench) heading(format string, args ...any) {
	fmt.Fprintf(b.out, "\n| "+format+" | median | p99 | least to most | wanted |\n|---|---|---|---|---|\n", args...)
}

// row prints a figure with its spread.
func (b *bench) row(name string, d []time.Duration, wanted string) {
	fmt.Fprintf(b.out, "| %s | %s | %s | %s to %s | %s |\n", name, ms(percentile(d, 0.5)), ms(percentile(d, 0.99)), ms(slices.Min(d)), ms(slices.Max(d)), wanted)
}
