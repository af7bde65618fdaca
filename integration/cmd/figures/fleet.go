package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

// As kubelets do: a lease every ten seconds, a status at least every five minutes.
const (
	leaseEvery  = 10 * time.Second
	statusEvery = 5 * time.Minute
	starters    = 4 // pods whose status is written at once
)

// fleet simulates nodes: their leases, their statuses, and their pods that go Running.
type fleet struct {
	client *kubernetes.Clientset
	bound  chan *corev1.Pod
	// running counts the pods that were said to run.
	running atomic.Int64

	mu          sync.Mutex
	nodes       int
	wanted      int // pods still to be seen with a node
	first, last time.Time
	begun       chan struct{}
	done        chan time.Duration
	known       map[string]bool                  // pods seen with a node
	leases      map[string]*coordinationv1.Lease // by node, as last written
}

func newFleet(client *kubernetes.Clientset) *fleet {
	return &fleet{client: client, bound: make(chan *corev1.Pod, 1<<16), known: map[string]bool{}, leases: map[string]*coordinationv1.Lease{}}
}

func nodeName(i int) string { return fmt.Sprintf("node-%04d", i) }

func (f *fleet) size() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.nodes
}

// grow adds nodes until there are n.
func (f *fleet) grow(ctx context.Context, n int) error {
	have := f.size()
	if err := each(ctx, max(n-have, 0), func(ctx context.Context, i int) error { return f.join(ctx, have+i) }); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nodes = max(n, have)
	return nil
}

// join makes a node, its status and its lease.
func (f *fleet) join(ctx context.Context, i int) error {
	name := nodeName(i)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprint("zone-", i%3), corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
	}}}
	node, err := f.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	// Admission taints new nodes as not ready, and no controller is there to see that they are.
	node.Spec.Taints = nil
	if node, err = f.client.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{}); err != nil {
		return err
	}
	node.Status.Capacity = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("256Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	node.Status.Allocatable = node.Status.Capacity
	for j := range 20 {
		node.Status.Images = append(node.Status.Images, corev1.ContainerImage{Names: []string{fmt.Sprintf("registry.example/some/image-%d:v1", j)}, SizeBytes: 50 << 20})
	}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: metav1.Now()}}
	if _, err := f.client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		return err
	}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: corev1.NamespaceNodeLease}}
	lease.Spec = coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: ptr.To[int32](40), RenewTime: ptr.To(metav1.NowMicro())}
	return f.keep(f.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(ctx, lease, metav1.CreateOptions{}))
}

// keep remembers a lease as it was written, for its next renewal.
func (f *fleet) keep(lease *coordinationv1.Lease, err error) error {
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leases[lease.Name] = lease
	return nil
}

// run keeps the nodes alive and their pods running until ctx ends.
func (f *fleet) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.watch(ctx) })
	g.Go(func() error { return f.beat(ctx, leaseEvery, f.renew) })
	g.Go(func() error { return f.beat(ctx, statusEvery, f.report) })
	for range starters {
		g.Go(func() error {
			for {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case pod := <-f.bound:
					f.started(ctx, pod)
				}
			}
		})
	}
	return g.Wait()
}

// beat lets each node do something once in a period, evenly over it. A failure waits for the next turn.
func (f *fleet) beat(ctx context.Context, period time.Duration, do func(ctx context.Context, name string) error) error {
	for next := 0; ; next++ {
		n := f.size()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(period / time.Duration(max(n, 1))):
		}
		if n > 0 {
			_ = do(ctx, nodeName(next%n))
		}
	}
}

func (f *fleet) renew(ctx context.Context, name string) error {
	f.mu.Lock()
	lease := f.leases[name]
	f.mu.Unlock()
	lease = lease.DeepCopy()
	lease.Spec.RenewTime = ptr.To(metav1.NowMicro())
	return f.keep(f.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Update(ctx, lease, metav1.UpdateOptions{}))
}

func (f *fleet) report(ctx context.Context, name string) error {
	node, err := f.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	node.Status.Conditions[0].LastHeartbeatTime = metav1.Now()
	_, err = f.client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
	return err
}

// started says that the pod runs. A pod that is gone meanwhile needs nothing.
func (f *fleet) started(ctx context.Context, pod *corev1.Pod) {
	pod = pod.DeepCopy()
	setRunning(pod)
	if _, err := f.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err == nil {
		f.running.Add(1)
	}
}

// setRunning puts into the pod's status that it runs.
func setRunning(pod *corev1.Pod) {
	pod.Status.Phase = corev1.PodRunning
	pod.Status.StartTime = ptr.To(metav1.Now())
	pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
	for _, c := range pod.Spec.Containers {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}},
		})
	}
}

// watch sees pods get their nodes.
func (f *fleet) watch(ctx context.Context) error {
	shared := informers.NewSharedInformerFactory(f.client, 0)
	see := func(obj any) {
		pod, ok := obj.(*corev1.Pod)
		if !ok || pod.Spec.NodeName == "" || f.saw(pod.Name) {
			return
		}
		select {
		case f.bound <- pod:
		case <-ctx.Done():
		}
	}
	if _, err := shared.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: see, UpdateFunc: func(_, obj any) { see(obj) },
	}); err != nil {
		return err
	}
	shared.Start(ctx.Done())
	<-ctx.Done()
	shared.Shutdown()
	return ctx.Err()
}

// saw counts a pod with a node, and tells whether it was known.
func (f *fleet) saw(name string) (known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known[name] {
		return true
	}
	f.known[name] = true
	f.last = time.Now()
	if f.wanted == 0 {
		return false
	}
	if f.first.IsZero() {
		f.first = f.last
		close(f.begun)
	}
	if f.wanted--; f.wanted == 0 {
		f.done <- f.last.Sub(f.first)
	}
	return false
}

// expect returns channels: the one is closed when the first of the next n pods gets a node, the other gets the time
// from the first to the last.
func (f *fleet) expect(n int) (begun <-chan struct{}, done <-chan time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wanted, f.first, f.begun, f.done = n, time.Time{}, make(chan struct{}), make(chan time.Duration, 1)
	return f.begun, f.done
}
