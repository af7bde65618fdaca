// Package scheduler gives every pod that has no node one.
//
// Decide is a pure function from a Snapshot and a Request to a Verdict. Around it, the
// Scheduler owns a queue of pods and the state of the cluster; decisions are made one
// after the other, and bindings written side by side, on the assumption that they succeed. It only writes
// nodes into pods, and says why it cannot.
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// writers bounds the bindings under way at once, and rushing is how many of them are a rush.
const (
	writers = 64
	rushing = writers / 4
	// writerIdle is how long a goroutine that has written waits for more.
	writerIdle = time.Second
)

// Scheduler places pods.
type Scheduler struct {
	config  Config
	client  kubernetes.Interface
	events  map[string]Recorder // by schedulerName
	log     *slog.Logger
	metrics *Metrics
	queue   *queue
	cluster *cluster
	lookup  *lookup
	pods    cache.SharedIndexInformer
	synced  []cache.InformerSynced
	slots   chan struct{}
	writes  chan func()
	writing sync.WaitGroup
	tried   uint64 // only Run counts

	tellings tellings
}

// New returns a Scheduler, for pods of cfg's profiles, that has done nothing yet.
func New(cfg Config, client kubernetes.Interface, shared informers.SharedInformerFactory, events map[string]Recorder, log *slog.Logger) (*Scheduler, error) {
	core := shared.Core().V1()
	m := newMetrics()
	came := func(queue, event string) { m.incoming.WithLabelValues(queue, event).Inc() }
	s := &Scheduler{
		config: cfg, metrics: m, client: client, events: events, log: log, queue: newQueue(time.Now, cfg.FirstBackoff, cfg.LastBackoff, came), cluster: newCluster(),
		lookup: newLookup(shared), pods: core.Pods().Informer(), slots: make(chan struct{}, writers), writes: make(chan func()),
	}
	s.synced = s.lookup.synced
	err1 := s.watch(core.Nodes().Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { s.nodeSeen(nil, obj.(*corev1.Node)) },
		UpdateFunc: func(old, obj any) { s.nodeSeen(old.(*corev1.Node), obj.(*corev1.Node)) },
		DeleteFunc: func(obj any) {
			if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
				s.cluster.dropNode(key)
				s.queue.happened(change{event: nodeGone})
			}
		},
	})
	err2 := s.watch(s.pods, cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { s.podSeen(nil, obj.(*corev1.Pod)) },
		UpdateFunc: func(old, obj any) { s.podChanged(old.(*corev1.Pod), obj.(*corev1.Pod)) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if pod, ok := obj.(*corev1.Pod); ok {
				s.podGone(pod)
			}
		},
	})
	err3 := s.watch(core.Namespaces().Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { s.namespaceSeen(obj.(*corev1.Namespace)) },
		UpdateFunc: func(_, obj any) { s.namespaceSeen(obj.(*corev1.Namespace)) },
		DeleteFunc: func(obj any) {
			if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
				s.cluster.setNamespace(key, nil)
			}
		},
	})
	return s, errors.Join(err1, err2, err3, s.watchBudgets(shared), s.watchStorage(shared))
}

// watch tells handler of what informer sees. Run waits until handler has been told of all that is there: a full cache is not
// enough, because a pod that it was not told of takes no room on its node.
func (s *Scheduler) watch(informer cache.SharedIndexInformer, handler cache.ResourceEventHandler) error {
	told, err := informer.AddEventHandler(handler)
	if err == nil {
		s.synced = append(s.synced, told.HasSynced)
	}
	return err
}

func (s *Scheduler) namespaceSeen(ns *corev1.Namespace) {
	own := labels.Set(ns.Labels)
	if own == nil {
		own = labels.Set{}
	}
	s.cluster.setNamespace(ns.Name, own)
}

// nodeSeen takes the node in; a heartbeat alone helps nobody in the queue.
func (s *Scheduler) nodeSeen(old, node *corev1.Node) {
	s.cluster.setNode(node)
	for _, e := range nodeEvents(old, node) {
		s.queue.happened(change{event: e, node: node})
	}
}

// podChanged takes in a pod that changed, or took the place of another of its name whose end no watch told of.
func (s *Scheduler) podChanged(old, pod *corev1.Pod) {
	if old.UID != pod.UID {
		s.podGone(old)
		old = nil
	}
	s.podSeen(old, pod)
}

func (s *Scheduler) podSeen(old, pod *corev1.Pod) {
	ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	switch {
	case ended:
		s.podGone(pod)
	case pod.Spec.NodeName != "":
		s.queue.drop(pod.UID)
		s.assignedSeen(old, pod)
	case s.config.Profiles[pod.Spec.SchedulerName] == nil || pod.DeletionTimestamp != nil:
		s.queue.drop(pod.UID)
		s.cluster.denominate(pod.UID)
	case s.cluster.has(pod.UID): // assumed; the binding is on its way
	default:
		p := NewPod(pod)
		s.cluster.nominate(p)
		s.queue.put(p)
	}
}

// assignedSeen takes in a pod that has a node.
func (s *Scheduler) assignedSeen(old, pod *corev1.Pod) {
	past := s.cluster.pod(pod.UID)
	now := past.next(pod)
	s.cluster.setPod(now)
	if old == nil || old.Spec.NodeName == "" || past == nil {
		s.queue.happened(change{event: podBound, pod: now})
		return
	}
	leaves := past.DeletionTimestamp == nil && pod.DeletionTimestamp != nil // spreading no longer counts it
	if leaves || !maps.Equal(past.Labels, pod.Labels) {
		s.queue.happened(change{event: podLabelled, pod: now, past: past})
	}
	if shrunk(past, now) {
		s.queue.happened(change{event: podShrunk, pod: now, past: past})
	}
}

func (s *Scheduler) podGone(pod *corev1.Pod) {
	s.queue.drop(pod.UID)
	if last := s.cluster.dropPod(pod.UID); last != nil {
		s.queue.happened(change{event: podGone, pod: last})
	}
}

// Run places pods until ctx ends.
func (s *Scheduler) Run(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), s.synced...) {
		return ctx.Err()
	}
	for {
		pod := s.queue.next(ctx)
		if pod == nil {
			s.writing.Wait()
			return ctx.Err()
		}
		s.one(ctx, pod)
	}
}

// one decides about one pod and sends the outcome off.
func (s *Scheduler) one(ctx context.Context, pod *Pod) {
	if len(pod.Spec.SchedulingGates) > 0 {
		s.queue.fail(pod.UID, 0)
		s.async(ctx, s.telling(ctx, pod.Pod, corev1.PodReasonSchedulingGated, "Scheduling is blocked due to non-empty scheduling gates", ""))
		return
	}
	began, name := time.Now(), pod.Spec.SchedulerName
	req := s.lookup.request(pod)
	req.Profile = s.config.Profiles[name]
	req.Point = func(point string) func(bool) { return s.metrics.point(name, point) }
	if s.tried++; s.tried%sampled == 1 {
		req.Timing = s.metrics.timing
	}
	verdict, moved := s.cluster.place(req)
	s.metrics.decided.Observe(time.Since(began).Seconds())
	if verdict.Node == "" {
		s.metrics.ended(resultUnschedulable, name, began)
		s.unplaced(ctx, req.Pod, verdict, moved)
		return
	}
	s.lookup.keep(verdict.volumes)
	if len(verdict.volumes) > 0 {
		// It may wait for minutes, and must not keep others from writing.
		s.writing.Go(func() { s.bind(ctx, pod, verdict, began) })
		return
	}
	s.async(ctx, func() { s.bind(ctx, pod, verdict, began) })
}

func (s *Scheduler) async(ctx context.Context, f func()) {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	select {
	case s.writes <- f:
	default:
		s.writing.Go(func() { s.write(ctx, f) })
	}
}

// write does f and then what else comes, until nothing has for a while: the stack that one request needs grows step by step in a
// goroutine of its own, which is dear.
func (s *Scheduler) write(ctx context.Context, f func()) {
	for {
		f()
		<-s.slots
		select {
		case f = <-s.writes:
		case <-ctx.Done():
			return
		case <-time.After(writerIdle):
			return
		}
	}
}

// rush tells that many bindings are under way.
func (s *Scheduler) rush() bool { return len(s.slots) >= rushing }

func (s *Scheduler) bind(ctx context.Context, pod *Pod, verdict Verdict, began time.Time) {
	defer s.lookup.release(verdict.volumes) // by now the API says so too, or it will not
	node := verdict.Node
	binding := &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}
	attempts, age := s.queue.history(pod.UID)
	s.tellings.settle(ctx, pod.UID) // else that it has none would be said of a pod that has a node
	err := s.bindVolumes(ctx, pod, node, verdict.volumes)
	if err != nil {
		err = fmt.Errorf("running PreBind plugin %q: %w", volumeBinding, err)
	} else {
		done := s.metrics.point(pod.Spec.SchedulerName, pointBind)
		err = s.client.CoreV1().Pods(pod.Namespace).Bind(ctx, binding, metav1.CreateOptions{})
		done(err == nil)
		if err != nil && !refused(err) {
			err = s.outcome(ctx, pod, node, err)
		}
		if err != nil {
			err = fmt.Errorf("binding rejected: running Bind plugin %q: %w", defaultBinder, err)
		}
	}
	if err == nil {
		s.metrics.ended(resultScheduled, pod.Spec.SchedulerName, began)
		s.metrics.bound(attempts, age)
		s.queue.drop(pod.UID)
		s.events[pod.Spec.SchedulerName].Eventf(pod.Pod, nil, corev1.EventTypeNormal, "Scheduled", "Binding", "Successfully assigned %v/%v to %v", pod.Namespace, pod.Name, node)
		return
	}
	if s.shown(pod) != "" || ctx.Err() != nil {
		return
	}
	s.metrics.ended(resultError, pod.Spec.SchedulerName, began)
	s.cluster.dropPod(pod.UID)
	s.queue.happened(change{event: podGone, pod: pod})
	if apierrors.IsNotFound(err) {
		s.queue.drop(pod.UID)
		return
	}
	s.log.Warn("bind", "pod", pod.Namespace+"/"+pod.Name, "node", node, "err", err)
	s.events[pod.Spec.SchedulerName].Eventf(pod.Pod, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", "%v", err)
	s.telling(ctx, pod.Pod, corev1.PodReasonUnschedulable, err.Error(), "")()
	s.queue.again(pod.UID)
}

// shown returns the node of pod in the cache.
func (s *Scheduler) shown(pod *Pod) string {
	obj, exists, err := s.pods.GetStore().GetByKey(pod.Namespace + "/" + pod.Name)
	if err != nil || !exists {
		return ""
	}
	if seen := obj.(*corev1.Pod); seen.UID == pod.UID {
		return seen.Spec.NodeName
	}
	return ""
}

// failed parks the pod, and tells its owner why.
func (s *Scheduler) failed(ctx context.Context, pod *Pod, message string, by plugins, nominated string) {
	s.queue.fail(pod.UID, by)
	s.events[pod.Spec.SchedulerName].Eventf(pod.Pod, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s", message)
	s.async(ctx, s.telling(ctx, pod.Pod, corev1.PodReasonUnschedulable, message, nominated))
}

// telling returns what sets PodScheduled to False, where that says anything new. It does so after what is being said of the pod.
func (s *Scheduler) telling(ctx context.Context, pod *corev1.Pod, reason, message, nominated string) func() {
	return s.tellings.add(pod.UID, func(after bool) {
		if after || !told(pod, reason, message, nominated) {
			s.writeCondition(ctx, pod, reason, message, nominated)
		}
	})
}

// told tells whether pod says so already.
func told(pod *corev1.Pod, reason, message, nominated string) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		same := c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == reason && c.Message == message
		return same && c.ObservedGeneration == pod.Generation && nominated == pod.Status.NominatedNodeName
	})
}

func (s *Scheduler) writeCondition(ctx context.Context, pod *corev1.Pod, reason, message, nominated string) {
	patch, err := conditionPatch(pod, reason, message, nominated)
	if err == nil {
		_, err = s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	}
	if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		s.log.Warn("write condition", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
}
