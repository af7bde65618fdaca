// Package nodelifecycle watches whether nodes are alive.
//
// A node that has renewed neither its Lease nor its Ready condition for the grace period
// is Unknown. Nodes in trouble get taints, by which pods are kept off and sent away; the
// pods of silent ones lose readiness. Where many nodes of a zone fail at once, it is slower
// to send pods away, or does not, and never where no node is up. Heartbeats are timed by this program's own clock,
// from when a change was seen, as nodes' clocks may differ.
package nodelifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	coordinformers "k8s.io/client-go/informers/coordination/v1"
	"k8s.io/client-go/kubernetes"
	coordlisters "k8s.io/client-go/listers/coordination/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	topology "k8s.io/component-helpers/node/topology"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
	"github.com/orlop-io/orlop/cmd/controllers/podset"
)

// Config says how long nodes may be silent, and how fast those that are down lose their pods.
type Config struct {
	// Grace is how long a node may be silent, StartupGrace how long one that never reported may.
	Grace, StartupGrace time.Duration
	// Period is the time between looks at the clock; much shorter than Grace.
	Period time.Duration
	// EvictionRate is how many nodes a second of a zone may begin to lose their pods; 0 is none.
	EvictionRate float64
	// SecondaryEvictionRate is that of a zone of which at least the share UnhealthyZone is down, and three nodes, but not all;
	// where it has no more than LargeZone nodes, it is 0. An UnhealthyZone of 0 has every zone with three such nodes so.
	SecondaryEvictionRate, UnhealthyZone float64
	LargeZone                            int
}

// Defaults are upstream's.
func Defaults() Config {
	return Config{Grace: 40 * time.Second, StartupGrace: time.Minute, Period: 5 * time.Second,
		EvictionRate: 0.1, SecondaryEvictionRate: 0.01, UnhealthyZone: 0.55, LargeZone: 50}
}

// heartbeat is the last sign of life, and when we saw it.
type heartbeat struct {
	ready, renewed metav1.MicroTime
	seen           time.Time
}

// Controller syncs all nodes.
type Controller struct {
	cfg    Config
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	pods   corelisters.PodLister
	leases coordlisters.LeaseLister
	events record.EventRecorder
	loop   *loop.Loop
	synced []cache.InformerSynced

	log *slog.Logger
	// zones are as last seen; only tick knows them.
	zones map[string]Zone

	mu    sync.Mutex
	beats map[string]heartbeat
	// turns is when a node of each zone was last given a taint that sends pods away.
	turns map[string]time.Time
}

// New returns a Controller that has done nothing yet. leases need to hold only those of kube-node-lease.
func New(cfg Config, client kubernetes.Interface, shared informers.SharedInformerFactory, leases coordinformers.LeaseInformer,
	events record.EventRecorder, log *slog.Logger) (*Controller, error) {
	if cfg.Period <= 0 || cfg.Grace <= cfg.Period {
		return nil, fmt.Errorf("node monitor period %v must be above 0 and below the grace period %v", cfg.Period, cfg.Grace)
	}
	if cfg.EvictionRate < 0 || cfg.SecondaryEvictionRate < 0 || cfg.UnhealthyZone < 0 || cfg.UnhealthyZone > 1 {
		return nil, fmt.Errorf("node eviction rates %v and %v must not be below 0, and the unhealthy zone threshold %v must be between 0 and 1", cfg.EvictionRate, cfg.SecondaryEvictionRate, cfg.UnhealthyZone)
	}
	nodes, pods := shared.Core().V1().Nodes(), shared.Core().V1().Pods()
	c := &Controller{
		cfg: cfg, client: client, nodes: nodes.Lister(), pods: pods.Lister(), leases: leases.Lister(), events: events,
		synced: []cache.InformerSynced{nodes.Informer().HasSynced, pods.Informer().HasSynced, leases.Informer().HasSynced},
		beats:  map[string]heartbeat{}, turns: map[string]time.Time{}, log: log.With("controller", "nodelifecycle"),
	}
	c.loop = loop.New("nodelifecycle", c.sync, log)
	_, err1 := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    c.loop.AddObject,
		UpdateFunc: func(_, obj any) { c.loop.AddObject(obj) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if node, ok := obj.(*corev1.Node); ok {
				c.mu.Lock()
				delete(c.beats, node.Name)
				c.mu.Unlock()
				c.tell(node, "RemovingNode", "Removing Node %s from Controller")
			}
		},
	})
	// A pod that comes to a node that is down, or whose kubelet died before it could say so.
	_, err2 := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(old, obj any) {
		if pod := obj.(*corev1.Pod); pod.Spec.NodeName != "" && old.(*corev1.Pod).Spec.NodeName == "" {
			c.loop.Add(pod.Spec.NodeName)
		}
	}})
	return c, errors.Join(err1, err2)
}

// Run watches until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.tick(ctx)
	}()
	err := c.loop.Run(ctx, 4, c.synced...)
	<-done
	return err
}

func (c *Controller) tick(ctx context.Context) {
	ticker := time.NewTicker(c.cfg.Period)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		nodes, err := c.nodes.List(labels.Everything())
		if err != nil {
			continue
		}
		c.tellZones(nodes)
		for _, node := range nodes {
			c.loop.AddObject(node)
		}
	}
}

func (c *Controller) sync(ctx context.Context, name string) error {
	node, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	now := time.Now()
	silent := c.silence(node, now)
	before := readyStatus(node)
	status := Judge(node, silent, c.cfg, metav1.NewTime(now))
	if !equality.Semantic.DeepEqual(status, node.Status) {
		changed := node.DeepCopy()
		changed.Status = status
		if node, err = c.client.CoreV1().Nodes().UpdateStatus(ctx, changed, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("write node status: %w", err)
		}
	}
	after := readyStatus(node)
	if before == corev1.ConditionTrue && after != corev1.ConditionTrue {
		c.events.Eventf(reference(node), corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: NodeNotReady", name)
	}
	if err := c.taint(ctx, node, metav1.NewTime(now)); err != nil {
		return err
	}
	if after == corev1.ConditionUnknown {
		return c.markPods(ctx, name)
	}
	return nil // a kubelet that speaks, if only to say that it is not ready, knows its pods best
}

// silence notes node's last sign of life, and returns how long ago it was seen.
func (c *Controller) silence(node *corev1.Node, now time.Time) time.Duration {
	var beat heartbeat
	if ready := Condition(node, corev1.NodeReady); ready != nil {
		beat.ready = metav1.NewMicroTime(ready.LastHeartbeatTime.Time)
	}
	if lease, err := c.leases.Leases(corev1.NamespaceNodeLease).Get(node.Name); err == nil && lease.Spec.RenewTime != nil {
		beat.renewed = *lease.Spec.RenewTime
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	last, known := c.beats[node.Name]
	if !known {
		c.tell(node, "RegisteredNode", "Registered Node %s in Controller")
	}
	if !known || last.ready != beat.ready || last.renewed != beat.renewed {
		beat.seen = now
		c.beats[node.Name] = beat
		return 0
	}
	return now.Sub(last.seen)
}

// tell says what became of a node, in a text with a place for its name.
func (c *Controller) tell(node *corev1.Node, reason, text string) {
	c.events.Eventf(reference(node), corev1.EventTypeNormal, reason, "Node %s event: "+text, node.Name, node.Name)
}

// reference is the node as events about it name it: by name as UID, which is how
// kubectl describe node looks for them.
func reference(node *corev1.Node) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}
}

func (c *Controller) taint(ctx context.Context, node *corev1.Node, now metav1.Time) error {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	haste := Evict
	if allDown(nodes) {
		haste = Spare
	}
	zone := topology.GetZoneKey(node)
	taints := Taints(node, haste, now)
	begins := sends(taints) && !sends(node.Spec.Taints)
	if begins {
		if wait := c.turn(zone, Zones(nodes, c.cfg)[zone].Rate, now.Time); wait != 0 {
			begins, taints = false, Taints(node, Wait, now)
			if wait > 0 {
				c.loop.AddAfter(node.Name, wait)
			}
		}
	}
	if equality.Semantic.DeepEqual(taints, node.Spec.Taints) {
		return nil
	}
	changed := node.DeepCopy()
	changed.Spec.Taints = taints
	if _, err := c.client.CoreV1().Nodes().Update(ctx, changed, metav1.UpdateOptions{}); err != nil {
		if begins {
			c.giveBack(zone)
		}
		return fmt.Errorf("taint node: %w", err)
	}
	return nil
}

// markPods takes readiness from the pods of a node that is silent.
func (c *Controller) markPods(ctx context.Context, node string) error {
	pods, err := c.pods.List(labels.Everything())
	if err != nil {
		return err
	}
	var errs []error
	for _, pod := range pods {
		if pod.Spec.NodeName != node || !podset.Ready(pod) {
			continue
		}
		changed := pod.DeepCopy()
		ready := podset.Condition(changed, corev1.PodReady)
		ready.Status, ready.LastTransitionTime = corev1.ConditionFalse, metav1.Now()
		_, err := c.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("mark pod %s/%s not ready: %w", pod.Namespace, pod.Name, err))
			continue
		}
		c.events.Event(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
	}
	return errors.Join(errs...)
}
