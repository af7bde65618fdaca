// Package report tells the API server how pods are, mirrors static pods there, and makes the last
// deletion of pods that have ended.
//
// Only the newest status of a pod counts: it is sent at once, and again until it came through. Steps between, which
// nobody acts on, wait a moment for what makes them out of date: see passing. Callers never wait; with no API server,
// what would be told is kept.
package report

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"

	"github.com/orlop-io/orlop/kubelet/manifests"
)

// writers send statuses side by side.
const writers = 6

// moment is how long the first step of a start may wait for the next: longer than all of it takes when all goes well. Who
// waits for a pod that takes longer is told that it is on its way, and then hears of further steps only if they last: of
// many pods at once each is told of twice, however busy the machine. So it is with the steps of an end.
const (
	moment = time.Second
	while  = 5 * time.Second
)

// again is how long it waits before it contradicts: whoever insists on another status must not make it busy.
const again = time.Second

// Reporter keeps what is to be told.
type Reporter struct {
	node  string
	told  func(time.Duration)
	log   *slog.Logger
	queue workqueue.TypedRateLimitingInterface[key]

	mu      sync.Mutex
	pods    map[types.UID]*entry
	static  map[string]*v1.Pod // by namespace/name; nil before the manifests were read
	mirrors map[string]*v1.Pod // as the API server has them
	ready   bool               // mirrors are complete
}

// key names one thing to bring up to date: a pod's status, or a mirror by its name.
type key struct {
	uid    types.UID
	mirror string
}

// entry is the newest word on one pod.
type entry struct {
	pod    *v1.Pod
	static bool
	status *v1.PodStatus // nil once told
	// last is the status that the API server took last, and at the version of the object that it became part of.
	last   *v1.PodStatus
	at     uint64
	since  time.Time // of the oldest change that was not told yet; zero if all was
	delete bool
}

// New makes a reporter for the pods of a node. Told hears how long after a pod's status changed the API server had its
// newest; nil hears nothing.
func New(node string, told func(time.Duration), log *slog.Logger) *Reporter {
	if told == nil {
		told = func(time.Duration) {}
	}
	limits := workqueue.NewTypedItemExponentialFailureRateLimiter[key](100*time.Millisecond, 5*time.Second)
	return &Reporter{node: node, told: told, log: log, queue: workqueue.NewTypedRateLimitingQueue(limits),
		pods: map[types.UID]*entry{}, mirrors: map[string]*v1.Pod{}}
}

func name(p *v1.Pod) string { return p.Namespace + "/" + p.Name }

// Set gives a pod's newest status.
func (r *Reporter) Set(pod *v1.Pod, static bool, st v1.PodStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.pods[pod.UID]
	if e == nil {
		e = &entry{}
		r.pods[pod.UID] = e
	}
	e.pod, e.static, e.status = pod, static, &st
	if e.since.IsZero() {
		e.since = time.Now()
	}
	if passing(pod, e.last, &st) {
		wait := while
		if e.last == nil {
			wait = moment
		}
		r.queue.AddAfter(key{uid: pod.UID}, wait)
		return
	}
	r.queue.Add(key{uid: pod.UID})
}

// passing says whether a status is but a step on a way that goes on by itself: of a pod that is being started, or of one
// that was deleted and is as ready as was told. Each status costs the API server as much as a whole
// container costs the runtime.
func passing(pod *v1.Pod, told, st *v1.PodStatus) bool {
	if st.Reason != "" || st.Message != "" {
		return false
	}
	if pod.DeletionTimestamp != nil {
		return told != nil && agree(&v1.PodStatus{Phase: told.Phase, Conditions: readiness(told)}, st)
	}
	if st.Phase != v1.PodPending || told != nil && told.Phase != v1.PodPending {
		return false
	}
	for _, c := range slices.Concat(st.InitContainerStatuses, st.ContainerStatuses, st.EphemeralContainerStatuses) {
		if w := c.State.Waiting; w == nil || w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" || c.LastTerminationState.Terminated != nil {
			return false
		}
	}
	return true
}

// readiness are the conditions that others send traffic by.
func readiness(st *v1.PodStatus) []v1.PodCondition {
	var out []v1.PodCondition
	for _, c := range st.Conditions {
		if c.Type == v1.PodReady || c.Type == v1.ContainersReady {
			out = append(out, c)
		}
	}
	return out
}

// Seen gives a pod as the API server has it. If somebody has written over what was told of it since, it is told again: a
// node that was silent has its pods marked as not ready by others, who cannot know when that is over.
func (r *Reporter) Seen(uid types.UID, pod *v1.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.pods[uid]
	if e == nil || e.last == nil || e.status != nil && !e.static || version(pod) <= e.at || agree(e.last, &pod.Status) {
		return
	}
	if e.status == nil {
		e.status = e.last
	}
	r.queue.AddAfter(key{uid: uid}, again)
}

// version is the age of an object: later ones are greater (KEP-5504). 0 is not known.
func version(p *v1.Pod) uint64 {
	n, err := strconv.ParseUint(p.ResourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// agree says whether the API server has what was told, in phase and conditions. Conditions of others do not count.
func agree(told, has *v1.PodStatus) bool {
	if told.Phase != has.Phase {
		return false
	}
	for _, c := range told.Conditions {
		if !slices.ContainsFunc(has.Conditions, func(h v1.PodCondition) bool { return h.Type == c.Type && h.Status == c.Status }) {
			return false
		}
	}
	return true
}

// Forget says that nothing is left of a pod here; with remove the API server is to forget it too,
// after its last status.
func (r *Reporter) Forget(pod *v1.Pod, static, remove bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if static || !remove {
		delete(r.pods, pod.UID)
		return
	}
	e := r.pods[pod.UID]
	if e == nil {
		e = &entry{pod: pod}
		r.pods[pod.UID] = e
	}
	e.delete = true
	r.queue.Add(key{uid: pod.UID})
}

// SetStatic gives all static pods of the node.
func (r *Reporter) SetStatic(pods []*v1.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.static
	r.static = map[string]*v1.Pod{}
	for _, p := range pods {
		r.static[name(p)] = p
		r.queue.Add(key{mirror: name(p)})
	}
	for n := range before {
		r.queue.Add(key{mirror: n})
	}
	if before == nil { // what had to wait
		for n := range r.mirrors {
			r.queue.Add(key{mirror: n})
		}
	}
}

// Mirror gives a mirror pod as the API server has it, nil when it is gone.
func (r *Reporter) Mirror(namespace, podName string, pod *v1.Pod) {
	n := namespace + "/" + podName
	r.mu.Lock()
	defer r.mu.Unlock()
	if pod == nil {
		delete(r.mirrors, n)
	} else {
		r.mirrors[n] = pod
	}
	r.queue.Add(key{mirror: n})
}

// MirrorsListed says that all mirror pods of the API server were given.
func (r *Reporter) MirrorsListed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ready = true
	for n := range r.static {
		r.queue.Add(key{mirror: n})
	}
}

// Run tells the API server until ctx ends. owner gives the node's UID, empty while unknown.
func (r *Reporter) Run(ctx context.Context, client kubernetes.Interface, owner func() types.UID) error {
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for r.one(ctx, client, owner) {
			}
		})
	}
	<-ctx.Done()
	r.queue.ShutDown()
	group.Wait()
	return ctx.Err()
}

func (r *Reporter) one(ctx context.Context, client kubernetes.Interface, owner func() types.UID) bool {
	k, stop := r.queue.Get()
	if stop {
		return false
	}
	defer r.queue.Done(k)
	callCtx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var err error
	if k.mirror != "" {
		err = r.mirror(callCtx, client, k.mirror, owner())
	} else {
		err = r.status(callCtx, client, k.uid)
	}
	if err != nil && ctx.Err() == nil {
		r.log.Debug("tell API server", "pod", k.mirror, "uid", k.uid, "err", err)
		r.queue.AddRateLimited(k)
		return true
	}
	r.queue.Forget(k)
	return true
}

// status sends one pod's status, and then deletes it if that is due.
func (r *Reporter) status(ctx context.Context, client kubernetes.Interface, uid types.UID) error {
	r.mu.Lock()
	e := r.pods[uid]
	if e == nil {
		r.mu.Unlock()
		return nil
	}
	pod, st, remove := e.pod, e.status, e.delete
	if e.static {
		m := r.mirrors[name(pod)]
		if m == nil || m.Annotations[manifests.AnnMirror] != string(uid) {
			r.mu.Unlock()
			return nil // it is sent when the mirror is there
		}
		pod = m
	}
	r.mu.Unlock()
	if st != nil {
		patch, err := statusPatch(pod.UID, st)
		if err != nil {
			return err
		}
		became, err := client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("patch status of pod %s: %w", name(pod), err)
		}
		if err != nil {
			became = nil
		}
		r.sent(uid, st, became)
	}
	if !remove {
		return nil
	}
	zero := int64(0)
	err := client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: metav1.NewUIDPreconditions(string(uid))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %s: %w", name(pod), err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pods, uid)
	return nil
}

// sent notes that a status was sent, and the object that took it; nil if none did.
func (r *Reporter) sent(uid types.UID, st *v1.PodStatus, became *v1.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.pods[uid]
	if e == nil {
		return
	}
	if became != nil {
		e.last, e.at = st, version(became)
	}
	if e.status != st {
		return
	}
	if became != nil && !e.since.IsZero() {
		r.told(time.Since(e.since))
	}
	e.since = time.Time{}
	if !e.static { // a mirror may be made anew
		e.status = nil
	}
}

// statusPatch writes a status as a strategic merge patch that leaves others' conditions alone and
// clears what the status does not have.
func statusPatch(uid types.UID, st *v1.PodStatus) ([]byte, error) {
	text, err := json.Marshal(st)
	if err != nil {
		return nil, fmt.Errorf("encode status: %w", err)
	}
	var m map[string]any
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("encode status: %w", err)
	}
	for _, field := range []string{"reason", "message", "podIP", "hostIP", "initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"} {
		if _, ok := m[field]; !ok {
			m[field] = nil
		}
	}
	for _, field := range []string{"podIPs", "hostIPs"} { // merged by address otherwise
		list, _ := m[field].([]any)
		m[field] = append([]any{map[string]any{"$patch": "replace"}}, list...)
	}
	conditions, _ := m["conditions"].([]any)
	passing := map[string]bool{string(v1.PodResizePending): true, string(v1.PodResizeInProgress): true, string(v1.AllContainersRestarting): true} // gone when they do not hold
	for _, c := range conditions {
		c := c.(map[string]any)
		kind, _ := c["type"].(string)
		delete(passing, kind)
		for _, field := range []string{"reason", "message"} {
			if _, ok := c[field]; !ok {
				c[field] = nil
			}
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(passing)) {
		conditions = append(conditions, map[string]any{"$patch": "delete", "type": kind})
	}
	m["conditions"] = conditions
	return json.Marshal(map[string]any{"metadata": map[string]any{"uid": uid}, "status": m})
}

// mirror brings one mirror pod in step with its static pod.
func (r *Reporter) mirror(ctx context.Context, client kubernetes.Interface, n string, owner types.UID) error {
	r.mu.Lock()
	want, have, ready, read := r.static[n], r.mirrors[n], r.ready, r.static != nil
	r.mu.Unlock()
	switch {
	case !read: // a mirror must not go because the kubelet has just begun
	case have != nil && (want == nil || have.Annotations[manifests.AnnMirror] != string(want.UID)):
		zero := int64(0)
		err := client.CoreV1().Pods(have.Namespace).Delete(ctx, have.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: metav1.NewUIDPreconditions(string(have.UID))})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete mirror pod %s: %w", n, err)
		}
	case have != nil:
		r.queue.Add(key{uid: want.UID}) // a new mirror lacks the status
	case want != nil && ready && owner == "":
		return fmt.Errorf("mirror pod %s: node is not registered yet", n)
	case want != nil && ready:
		_, err := client.CoreV1().Pods(want.Namespace).Create(ctx, mirrorOf(want, r.node, owner), metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create mirror pod %s: %w", n, err)
		}
	}
	return nil
}

// mirrorOf is what the API server is shown of a static pod.
func mirrorOf(p *v1.Pod, node string, owner types.UID) *v1.Pod {
	m := p.DeepCopy()
	m.UID, m.ResourceVersion, m.Status = "", "", v1.PodStatus{}
	m.Annotations[manifests.AnnMirror] = m.Annotations[manifests.AnnConfigHash]
	controller := true
	m.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node, UID: owner, Controller: &controller}}
	return m
}
