// Package events tells the API what happened to pods and to the node.
//
// Recording never blocks and never fails: events wait in a bounded queue while the API server is
// away, and the oldest give way. A repeated event raises the count of the one that was told.
package events

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	queueLength = 1000
	// remember bounds the events whose repetition is counted, and for how long.
	remember    = 4096
	rememberFor = 10 * time.Minute
	// burst events of one source on one object go out at once, then one per refill.
	burst  = 25
	refill = 5 * time.Minute
	// behind is how much later than it happened what is normal is sent: the start that it tells of needs the machine, and
	// the API server, more.
	behind = 250 * time.Millisecond
)

// Sink is where events go; the API server's events resource is one.
type Sink interface {
	Create(ctx context.Context, e *v1.Event) (*v1.Event, error)
	Patch(ctx context.Context, namespace, name string, patch []byte) error
}

// Recorder takes events and sends them.
type Recorder struct {
	node string
	log  *slog.Logger
	now  func() time.Time
	wake chan struct{}

	mu    sync.Mutex
	queue []v1.Event // at most queueLength
	last  int64      // of the newest event's name; names are times, and unique
}

// New makes a recorder for the kubelet of a node.
func New(node string, log *slog.Logger) *Recorder {
	return &Recorder{node: node, log: log, now: time.Now, wake: make(chan struct{}, 1)}
}

// Pod records an event on a pod, or with a container's name on that container.
func (r *Recorder) Pod(pod *v1.Pod, container string, warning bool, reason, message string) {
	ref := v1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
		ResourceVersion: pod.ResourceVersion, FieldPath: fieldPath(pod, container)}
	r.log.Debug("event", "pod", pod.Namespace+"/"+pod.Name, "container", container, "reason", reason, "message", message)
	r.add(ref, pod.Namespace, warning, reason, message)
}

// Node records an event on the node.
func (r *Recorder) Node(warning bool, reason, message string) {
	ref := v1.ObjectReference{Kind: "Node", Name: r.node, UID: types.UID(r.node)}
	r.add(ref, metav1.NamespaceDefault, warning, reason, message)
}

func fieldPath(pod *v1.Pod, container string) string {
	if container == "" {
		return ""
	}
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == container {
			return "spec.initContainers{" + container + "}"
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == container {
			return "spec.ephemeralContainers{" + container + "}"
		}
	}
	return "spec.containers{" + container + "}"
}

func (r *Recorder) add(ref v1.ObjectReference, namespace string, warning bool, reason, message string) {
	now := r.now()
	kind := v1.EventTypeNormal
	if warning {
		kind = v1.EventTypeWarning
	}
	e := v1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace},
		InvolvedObject: ref, Reason: reason, Message: clip(message), Type: kind, Count: 1,
		FirstTimestamp: metav1.Time{Time: now}, LastTimestamp: metav1.Time{Time: now},
		Source:              v1.EventSource{Component: "kubelet", Host: r.node},
		ReportingController: "kubelet", ReportingInstance: r.node,
	}
	r.mu.Lock()
	r.last = max(r.last+1, now.UnixNano())
	e.Name = fmt.Sprintf("%s.%x", ref.Name, r.last)
	if len(r.queue) == queueLength {
		r.queue = r.queue[1:]
	}
	r.queue = append(r.queue, e)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// clip keeps a message within what the API takes.
func clip(s string) string {
	const most = 1024
	if len(s) <= most {
		return s
	}
	return s[:most-3] + "..."
}

func (r *Recorder) next() (v1.Event, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) == 0 {
		return v1.Event{}, false
	}
	e := r.queue[0]
	r.queue = r.queue[1:]
	return e, true
}

// Run sends events until ctx ends.
func (r *Recorder) Run(ctx context.Context, sink Sink) error {
	c := &counter{told: map[key]told{}, spent: map[types.UID]bucket{}}
	for {
		e, ok := r.next()
		if !ok {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-r.wake:
				continue
			}
		}
		if e.Type == v1.EventTypeNormal {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Until(e.FirstTimestamp.Add(behind))):
			}
		}
		for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
			err := c.send(ctx, sink, &e)
			if err == nil {
				break
			}
			if apierrors.ReasonForError(err) != metav1.StatusReasonUnknown && !apierrors.IsServerTimeout(err) && !apierrors.IsTooManyRequests(err) && !apierrors.IsServiceUnavailable(err) && !apierrors.IsInternalError(err) {
				r.log.Debug("event refused", "reason", e.Reason, "object", e.InvolvedObject.Name, "err", err) // it would be refused again
				break
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(wait):
			}
		}
	}
}

// key tells repetitions of an event from others. It is a digest: thousands are remembered, and their words would be
// megabytes that grow as pods come and go.
type key [16]byte

func keyOf(e *v1.Event) key {
	o := &e.InvolvedObject
	words := strings.Join([]string{string(o.UID), o.Name, o.FieldPath, e.Type, e.Reason, e.Namespace, e.Message}, "\x00")
	sum := sha256.Sum256([]byte(words))
	return key(sum[:16])
}

type told struct {
	name  string
	count int32
	last  time.Time
}

type bucket struct {
	tokens float64
	at     time.Time
}

// counter remembers what was told, to count repetitions and to hold back floods.
type counter struct {
	told  map[key]told
	spent map[types.UID]bucket
}

func (c *counter) send(ctx context.Context, sink Sink, e *v1.Event) error {
	now := e.LastTimestamp.Time
	k := keyOf(e)
	if !c.allow(e.InvolvedObject.UID, now) {
		return nil
	}
	if before, ok := c.told[k]; ok && now.Sub(before.last) < rememberFor {
		patch, err := json.Marshal(map[string]any{"count": before.count + 1, "lastTimestamp": e.LastTimestamp, "message": e.Message})
		if err != nil {
			return err
		}
		err = sink.Patch(ctx, e.Namespace, before.name, patch)
		if err == nil {
			c.told[k] = told{before.name, before.count + 1, now}
		}
		if !apierrors.IsNotFound(err) {
			return err
		}
	}
	_, err := sink.Create(ctx, e)
	if apierrors.IsAlreadyExists(err) {
		return nil // an earlier try had come through
	}
	if err == nil {
		if len(c.told) >= remember || len(c.spent) >= remember {
			c.told, c.spent = map[key]told{}, map[types.UID]bucket{}
		}
		c.told[k] = told{e.Name, 1, now}
	}
	return err
}

// allow spends one token of the object's bucket.
func (c *counter) allow(uid types.UID, now time.Time) bool {
	b, ok := c.spent[uid]
	if !ok {
		b = bucket{burst, now}
	}
	b.tokens = min(burst, b.tokens+now.Sub(b.at).Seconds()/refill.Seconds())
	b.at = now
	if b.tokens < 1 {
		c.spent[uid] = b
		return false
	}
	b.tokens--
	c.spent[uid] = b
	return true
}
