package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

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

// placed is what was measured of one row. Processor time is per pod, in microseconds.
type placed struct {
	placement
	rate, whole float64 // pods a second until all have nodes, and until all of them is written
	create      usage   // before
	bound, all  usage   // from the first pod with a node, until the last has one, and until all of them is written
	during      writes  // of the pods' writes, those done when the last pod has a node
}

// usage is the processor time of each program: of this one, the clients that create are a part, and the nodes.
type usage struct{ scheduler, api, store, own time.Duration }

func (u usage) per(past usage, n int) usage {
	k := time.Duration(n)
	return usage{(u.scheduler - past.scheduler) / k, (u.api - past.api) / k, (u.store - past.store) / k, (u.own - past.own) / k}
}

func (u usage) String() string {
	return fmt.Sprintf("%d + %d + %d + %d", u.scheduler.Microseconds(), u.api.Microseconds(), u.store.Microseconds(), u.own.Microseconds())
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
	// As kubelets ask.
	config.ContentType, config.AcceptContentTypes, config.DisableCompression = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf", true
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
	fmt.Fprint(out, "\nCPU is in µs per pod: of kube-scheduler + kube-apiserver + etcd + clients and nodes, which are this program.\n\n"+
		"| pods | nodes | pods a second | CPU until then | statuses, events by then | all written, a second | CPU in all | CPU to create |\n|---|---|---|---|---|---|---|---|\n")
	for _, row := range placementsToMeasure() {
		if !b.choice.rows.MatchString(fmt.Sprintf("%s, %d nodes", row.kind, row.nodes)) {
			continue
		}
		p, err := b.place(ctx, row)
		if err != nil {
			return fmt.Errorf("%s, %d nodes: %w", row.kind, row.nodes, err)
		}
		fmt.Fprintf(out, "| %s | %d | %.0f | %v | %d, %d | %.0f | %v | %v |\n", p.kind, p.nodes, p.rate, p.bound, p.during.statuses, p.during.events, p.whole, p.all, p.create)
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

// memory is what a fresh scheduler holds, in bytes, when it has given back what its start needed. It does that ten seconds after it was
// busy, which with many pods or on a busy machine is long after its start.
func (b *schedulerBench) memory(ctx context.Context) (float64, error) {
	if err := b.start(); err != nil {
		return 0, err
	}
	pid, err := b.server.PID(scheduler)
	if err != nil {
		return 0, err
	}
	var held []float64
	for !settled(held) {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(time.Second):
		}
		p, err := memoryOf(pid)
		if err != nil {
			return 0, errors.Join(err, b.server.Halt(scheduler))
		}
		held = append(held, float64(p.anon))
	}
	return held[len(held)-1], b.server.Halt(scheduler)
}

// settled tells, of what a program held second by second, that this has changed by less than a twentieth for twelve seconds, or that two
// minutes are enough.
func settled(held []float64) bool {
	const still, enough = 12, 120
	if len(held) < still {
		return false
	}
	last := held[len(held)-still:]
	return len(held) >= enough || slices.Max(last) < 1.05*slices.Min(last)
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
	start, err := b.used()
	if err != nil {
		return result, err
	}
	if err := each(ctx, placements, func(ctx context.Context, i int) error {
		pod := benchPod(first + i)
		pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("16Mi")}
		row.mutate(i, pod)
		_, err := b.client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
		return err
	}); err != nil {
		return result, err
	}
	end, err := b.used()
	if err != nil {
		return result, err
	}
	result.create = end.per(start, placements)
	b.made += placements
	begun, done := b.fleet.expect(placements)
	past, err := b.written(ctx)
	if err != nil {
		return result, err
	}
	if err := b.start(); err != nil {
		return result, err
	}
	return result, errors.Join(b.follow(ctx, &result, past, begun, done), b.server.Halt(scheduler))
}

// follow measures from the first pod with a node on.
func (b *schedulerBench) follow(ctx context.Context, result *placed, past writes, begun <-chan struct{}, done <-chan time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, placeTimeout)
	defer cancel()
	select {
	case <-begun:
	case <-ctx.Done():
		return b.unplaced(ctx)
	}
	began := time.Now()
	before, err := b.used()
	if err != nil {
		return err
	}
	stopProfile := func() error { return nil }
	if b.choice.profiles != "" {
		stopProfile = profile(ctx, b.server, filepath.Join(b.choice.profiles, fileName(fmt.Sprint(result.kind, result.nodes))))
	}
	var span time.Duration
	select {
	case span = <-done:
	case <-ctx.Done():
		return b.unplaced(ctx)
	}
	after, err := b.used()
	if err != nil {
		return err
	}
	now, err := b.written(ctx)
	if err != nil {
		return err
	}
	result.during = now.since(past)
	if err := until(ctx, func(ctx context.Context) bool {
		now, err = b.written(ctx)
		return err != nil || now.since(past).events >= placements && now.since(past).statuses >= placements
	}); err != nil {
		return fmt.Errorf("%+v of %d pods are written: %w", now.since(past), placements, err)
	}
	if err != nil {
		return err
	}
	result.rate, result.whole = float64(placements-1)/span.Seconds(), float64(placements-1)/time.Since(began).Seconds()
	last, err := b.used()
	if err != nil {
		return err
	}
	result.bound, result.all = after.per(before, placements), last.per(before, placements)
	return stopProfile()
}

func (b *schedulerBench) unplaced(ctx context.Context) error {
	log, _ := b.server.Log(scheduler)
	return fmt.Errorf("not all pods have nodes: %w: %s", ctx.Err(), log[max(0, len(log)-2000):])
}

// used is the processor time so far. A scheduler that does not run has used none.
func (b *schedulerBench) used() (u usage, err error) {
	etcd, api := b.server.PIDs()
	pids := map[*time.Duration]int{&u.api: api, &u.store: etcd, &u.own: os.Getpid()}
	if own, err := b.server.PID(scheduler); err == nil {
		pids[&u.scheduler] = own
	}
	for to, pid := range pids {
		used, failure := processorTime(pid)
		*to, err = used, errors.Join(err, failure)
	}
	return u, err
}

// writes counts what has been written of pods.
type writes struct{ statuses, events int }

func (w writes) since(past writes) writes {
	return writes{w.statuses - past.statuses, w.events - past.events}
}

// written asks the nodes and the API server, which counts cheaply.
func (b *schedulerBench) written(ctx context.Context) (w writes, err error) {
	events, err := b.client.CoreV1().Events("default").List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return w, fmt.Errorf("count events: %w", err)
	}
	return writes{int(b.fleet.running.Load()), len(events.Items) + int(ptr.Deref(events.RemainingItemCount, 0))}, nil
}
