package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/orlop-io/orlop/integration/bareserver"
)

const (
	pods         = 5000
	watchers     = 20
	updates      = 500
	wantReadyNow = 3.0 // seconds
)

// figure is one quantity, measured once a round.
type figure struct {
	name   string
	wanted string
	values []float64
}

// apiBench measures an API server and its etcd with nothing else beside them.
type apiBench struct {
	program string
	idle    time.Duration
	figures []*figure
	server  *bareserver.Server
	client  *kubernetes.Clientset // speaks protobuf, as nodes and controllers do
}

func (b *apiBench) note(name, wanted string, value float64) {
	at := slices.IndexFunc(b.figures, func(f *figure) bool { return f.name == name })
	if at < 0 {
		b.figures = append(b.figures, &figure{name: name, wanted: wanted})
		at = len(b.figures) - 1
	}
	b.figures[at].values = append(b.figures[at].values, value)
}

// runAPI measures in rounds, each with a store of its own, prints median and spread, and complains of what is missed.
func runAPI(ctx context.Context, bin string, rounds int, idle time.Duration, out io.Writer) error {
	b := &apiBench{program: filepath.Join(bin, "orlop-server"), idle: idle}
	for range rounds {
		if err := b.round(ctx); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "\n| API server and etcd alone | median of %d | least to most | wanted |\n|---|---|---|---|\n", rounds)
	for _, f := range b.figures {
		fmt.Fprintf(out, "| %s | %.2f | %.2f to %.2f | %s |\n", f.name, median(f.values), slices.Min(f.values), slices.Max(f.values), f.wanted)
	}
	var errs []error
	for _, f := range b.figures {
		if bound, err := strconv.ParseFloat(strings.TrimPrefix(f.wanted, "<= "), 64); err == nil && median(f.values) > bound {
			errs = append(errs, fmt.Errorf("%s: %.2f, wanted %s", f.name, median(f.values), f.wanted))
		}
	}
	return errors.Join(errs...)
}

func (b *apiBench) round(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "figures-api-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if b.server, err = bareserver.Start(ctx, bareserver.Config{Program: b.program, Dir: dir, Fsync: true}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.server.Stop()) }()
	config := rest.CopyConfig(b.server.Config)
	config.ContentType, config.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf"
	if b.client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	bound := "<= " + strconv.FormatFloat(wantReadyNow, 'f', -1, 64)
	for _, step := range []func(context.Context) error{
		func(ctx context.Context) error { return b.restart(ctx, "seconds to /readyz, empty", bound) },
		func(ctx context.Context) error {
			return b.memory(ctx, "PSS MiB of both, idle", 0, 1)
		},
		b.creates, b.gets, b.lists, b.watches,
		func(ctx context.Context) error {
			return b.memory(ctx, "PSS MiB of both per 1,000 pods", b.last("PSS MiB of both, idle"), pods/1000)
		},
		func(ctx context.Context) error {
			return b.restart(ctx, fmt.Sprintf("seconds to /readyz with %d pods", pods), "")
		},
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *apiBench) last(name string) float64 {
	for _, f := range b.figures {
		if f.name == name {
			return f.values[len(f.values)-1]
		}
	}
	return 0
}

// restart times the API server from its start to ready; etcd keeps running.
func (b *apiBench) restart(ctx context.Context, name, wanted string) error {
	if err := b.server.StopAPI(); err != nil {
		return err
	}
	began := time.Now()
	if err := b.server.StartAPI(ctx); err != nil {
		return err
	}
	b.note(name, wanted, time.Since(began).Seconds())
	return nil
}

// memory notes what both hold after a while of quiet, less something, in parts. The pages of their one program, some
// 100 MiB, count whole here; in a cluster the rest of the control plane shares them.
func (b *apiBench) memory(ctx context.Context, name string, less float64, parts int) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(b.idle):
	}
	etcd, api := b.server.PIDs()
	var pss, anon int64
	for _, pid := range []int{etcd, api} {
		p, err := memoryOf(pid)
		if err != nil {
			return err
		}
		pss, anon = pss+p.pss, anon+p.anon
	}
	b.note(name, "", (float64(pss)/(1<<20)-less)/float64(parts))
	if less == 0 {
		b.note("anonymous MiB of both, idle", "", float64(anon)/(1<<20))
	}
	return nil
}

// cost notes the processor time, of both programs, of each of n things done.
func (b *apiBench) cost(name string, n int, do func() error) error {
	before, err := b.processorTime()
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	after, err := b.processorTime()
	if err != nil {
		return err
	}
	b.note(name, "", float64((after-before).Microseconds())/1000/float64(n))
	return nil
}

// processorTime is what both programs have used so far.
func (b *apiBench) processorTime() (time.Duration, error) {
	etcd, api := b.server.PIDs()
	return processorTime(etcd, api)
}

// processorTime is what processes have used so far together.
func processorTime(pids ...int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		// After the name, which is in parentheses, utime and stime are fields 12 and 13, in hundredths of a second.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 13 {
			return 0, fmt.Errorf("stat of process %d is %q", pid, stat)
		}
		for _, f := range fields[11:13] {
			ticks, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				return 0, err
			}
			sum += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return sum, nil
}

// each does something n times, a few at once.
func each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i := range n {
		g.Go(func() error { return do(ctx, i) })
	}
	return g.Wait()
}

func podName(i int) string { return fmt.Sprintf("pod-%05d", i) }

// benchPod is as large as pods are: some 2 KB.
func benchPod(i int) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: podName(i), Labels: map[string]string{"app": "bench", "pod-template-hash": "5d59d67564", "index": strconv.Itoa(i)}}}
	for _, name := range []string{"main", "sidecar"} {
		c := corev1.Container{Name: name, Image: "registry.example/some/image:v1.2.3", Args: []string{"--config=/etc/config/config.yaml", "--verbose"}}
		for j := range 6 {
			c.Env = append(c.Env, corev1.EnvVar{Name: fmt.Sprintf("VARIABLE_%d", j), Value: "some value of a usual length"})
		}
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	return p
}

func (b *apiBench) creates(ctx context.Context) error {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := b.client.CoreV1().ServiceAccounts("default").Create(ctx, account, metav1.CreateOptions{}); err != nil {
		return err
	}
	return b.cost("CPU ms per create of a pod", pods, func() error {
		return each(ctx, pods, func(ctx context.Context, i int) error {
			_, err := b.client.CoreV1().Pods("default").Create(ctx, benchPod(i), metav1.CreateOptions{})
			return err
		})
	})
}

func (b *apiBench) gets(ctx context.Context) error {
	return b.cost("CPU ms per get", pods, func() error {
		return each(ctx, pods, func(ctx context.Context, i int) error {
			_, err := b.client.CoreV1().Pods("default").Get(ctx, podName(i), metav1.GetOptions{})
			return err
		})
	})
}

func (b *apiBench) lists(ctx context.Context) error {
	const lists = 10
	return b.cost(fmt.Sprintf("CPU ms per list of %d pods", pods), lists, func() error {
		for range lists {
			_, err := b.client.CoreV1().RESTClient().Get().Namespace("default").Resource("pods").DoRaw(ctx)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// watches changes pods first without and then with others who watch: the difference is the watchers' share.
func (b *apiBench) watches(ctx context.Context) error {
	update := func() error {
		return each(ctx, updates, func(ctx context.Context, i int) error {
			patch := fmt.Sprintf(`{"metadata":{"annotations":{"changed":"%d"}}}`, time.Now().UnixNano())
			_, err := b.client.CoreV1().Pods("default").Patch(ctx, podName(i), types.MergePatchType, []byte(patch), metav1.PatchOptions{})
			return err
		})
	}
	if err := b.cost("CPU ms per patch", updates, update); err != nil {
		return err
	}
	list, err := b.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var seen atomic.Int64
	all := make(chan struct{})
	for range watchers {
		w, err := b.client.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
		if err != nil {
			return err
		}
		defer w.Stop()
		go func() {
			for range w.ResultChan() {
				if seen.Add(1) == watchers*updates {
					close(all)
				}
			}
		}()
	}
	const both = "CPU ms per patch that 20 watch"
	if err := b.cost(both, updates, func() error {
		if err := update(); err != nil {
			return err
		}
		select {
		case <-all:
			return nil
		case <-time.After(time.Minute):
			return fmt.Errorf("%d events of %d came", seen.Load(), watchers*updates)
		}
	}); err != nil {
		return err
	}
	b.note("CPU ms per watch event", "", (b.last(both)-b.last("CPU ms per patch"))/watchers)
	return nil
}
