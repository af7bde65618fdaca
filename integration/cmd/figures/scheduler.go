package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/orlop-io/orlop/integration/bareserver"
)

const (
	placements   = 1000 // pods of one row
	antiGroup    = 50   // of them that keep apart from each other
	scheduler    = "kube-scheduler"
	placeTimeout = 3 * time.Minute
)

// placement is one row: so many nodes, and pods of a kind.
type placement struct {
	kind   string
	nodes  int
	mutate func(i int, p *corev1.Pod)
}

func placementsToMeasure() []placement {
	rows := []placement{}
	for _, nodes := range []int{100, 250, 500, 1000} {
		rows = append(rows, placement{"basic", nodes, func(int, *corev1.Pod) {}})
	}
	return append(rows, placement{"spread over zones", 1000, spreadOverZones}, placement{"anti-affinity on nodes", 1000, keepApart})
}

func spreadOverZones(_ int, p *corev1.Pod) {
	p.Labels["app"] = "spread"
	p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule,
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "spread"}},
	}}
}

func keepApart(i int, p *corev1.Pod) {
	p.Labels["app"] = fmt.Sprint("apart-", i/antiGroup)
	p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
		TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": p.Labels["app"]}},
	}}}}
}

// placed is what was measured of one row. Processor time is per pod, in milliseconds.
type placed struct {
	placement
	rate                  float64
	scheduler, api, store float64
}

// schedulerBench measures the scheduler by the API: pods are made while it does not run, so
// that it never waits for them.
type schedulerBench struct {
	server *bareserver.Server
	client *kubernetes.Clientset
	fleet  *fleet
	made   int // pods
	choice choice
}

// runScheduler prints how many pods a second get nodes, and what that costs.
func runScheduler(ctx context.Context, bin string, choice choice, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "figures-scheduler-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &schedulerBench{choice: choice}
	if b.server, err = bareserver.Start(ctx, bareserver.Config{Program: filepath.Join(bin, "orlop-server"), Dir: dir, Fsync: true}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.server.Stop()) }()
	config := rest.CopyConfig(b.server.Config)
	config.ContentType, config.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf"
	if b.client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := b.client.CoreV1().ServiceAccounts("default").Create(ctx, account, metav1.CreateOptions{}); err != nil {
		return err
	}
	fleetCtx, stop := context.WithCancel(ctx)
	b.fleet = newFleet(b.client)
	ended := make(chan error, 1)
	go func() { ended <- b.fleet.run(fleetCtx) }()
	defer func() {
		stop()
		if end := <-ended; !errors.Is(end, context.Canceled) {
			err = errors.Join(err, end)
		}
	}()
	return b.measure(ctx, out)
}

func (b *schedulerBench) measure(ctx context.Context, out io.Writer) error {
	empty, err := b.memory(ctx)
	if err != nil {
		return err
	}
	fmt.Fprint(out, "\n| pods | nodes | pods a second | CPU ms of kube-scheduler per pod | of kube-apiserver | of etcd |\n|---|---|---|---|---|---|\n")
	for _, row := range placementsToMeasure() {
		if !b.choice.rows.MatchString(fmt.Sprintf("%s, %d nodes", row.kind, row.nodes)) {
			continue
		}
		p, err := b.place(ctx, row)
		if err != nil {
			return fmt.Errorf("%s, %d nodes: %w", row.kind, row.nodes, err)
		}
		fmt.Fprintf(out, "| %s | %d | %.0f | %.2f | %.2f | %.2f |\n", p.kind, p.nodes, p.rate, p.scheduler, p.api, p.store)
	}
	full, err := b.memory(ctx)
	if err != nil {
		return err
	}
	if err := each(ctx, b.made, func(ctx context.Context, i int) error {
		return b.client.CoreV1().Pods("default").Delete(ctx, podName(i), metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
	}); err != nil {
		return err
	}
	nodes, err := b.memory(ctx)
	if err != nil {
		return err
	}
	count := float64(b.fleet.size())
	fmt.Fprintf(out, "\n| memory of kube-scheduler, just started | |\n|---|---|\n| MiB anonymous, nothing there | %.1f |\n| KiB per node | %.1f |\n| KiB per pod | %.1f |\n",
		empty/(1<<20), (nodes-empty)/count/(1<<10), (full-nodes)/float64(b.made)/(1<<10))
	return nil
}

// memory is what a fresh scheduler holds a few seconds after its start, in bytes.
func (b *schedulerBench) memory(ctx context.Context) (float64, error) {
	if err := b.start(); err != nil {
		return 0, err
	}
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(8 * time.Second):
	}
	pid, err := b.server.PID(scheduler)
	if err != nil {
		return 0, err
	}
	p, err := memoryOf(pid)
	return float64(p.anon), errors.Join(err, b.server.Halt(scheduler))
}

func (b *schedulerBench) start() error {
	return b.server.Run(scheduler, "--leader-elect=false", "--secure-port=0")
}

// place makes pods, then starts the scheduler, and measures from the first pod with a node to the last.
func (b *schedulerBench) place(ctx context.Context, row placement) (placed, error) {
	result := placed{placement: row}
	if err := b.fleet.grow(ctx, row.nodes); err != nil {
		return result, err
	}
	first := b.made
	if err := each(ctx, placements, func(ctx context.Context, i int) error {
		pod := benchPod(first + i)
		pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("16Mi")}
		row.mutate(i, pod)
		_, err := b.client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
		return err
	}); err != nil {
		return result, err
	}
	b.made += placements
	begun, done := b.fleet.expect(placements)
	if err := b.start(); err != nil {
		return result, err
	}
	ctx, cancel := context.WithTimeout(ctx, placeTimeout)
	defer cancel()
	var before, after [3]time.Duration
	var span time.Duration
	var err error
	select {
	case <-begun:
		if before, err = b.used(); err != nil {
			return result, err
		}
	case <-ctx.Done():
	}
	stopProfile := func() error { return nil }
	if b.choice.profiles != "" {
		stopProfile = profile(ctx, b.server, filepath.Join(b.choice.profiles, fileName(fmt.Sprint(row.kind, row.nodes))))
	}
	select {
	case span = <-done:
	case <-ctx.Done():
		log, _ := b.server.Log(scheduler)
		return result, fmt.Errorf("not all pods have nodes: %w: %s", ctx.Err(), log[max(0, len(log)-2000):])
	}
	if after, err = b.used(); err != nil {
		return result, err
	}
	if err := stopProfile(); err != nil {
		return result, err
	}
	perPod := func(i int) float64 { return float64((after[i] - before[i]).Microseconds()) / 1000 / placements }
	result.rate = float64(placements-1) / span.Seconds()
	result.scheduler, result.api, result.store = perPod(0), perPod(1), perPod(2)
	return result, b.server.Halt(scheduler)
}

// used is the processor time of the scheduler, the API server and etcd so far.
func (b *schedulerBench) used() (times [3]time.Duration, err error) {
	etcd, api := b.server.PIDs()
	own, err := b.server.PID(scheduler)
	if err != nil {
		return times, err
	}
	for i, pid := range []int{own, api, etcd} {
		if times[i], err = processorTime(pid); err != nil {
			return times, err
		}
	}
	return times, nil
}
