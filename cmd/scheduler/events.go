package scheduler

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/record/util"
	"k8s.io/client-go/tools/reference"
	"k8s.io/component-base/metrics"
)

const (
	// eventShards write at once; all events about an object go through one of them, in order. They are few, so that in a rush
	// the API server binds pods first and is told of it afterwards.
	eventShards = 2
	// queuedEvents bounds the events that wait in a shard. What does not fit is dropped, and counted.
	queuedEvents = 16384
	// rememberedEvents bounds what a shard knows of earlier events, all together client-go's number.
	rememberedEvents = 4096 / eventShards
	// eventPatience is how long an event that the API server does not answer is tried again, eventPause apart.
	eventPatience = 2 * time.Minute
	eventPause    = time.Second
	// eventCourtesy is how long an event lets bindings go first, looking every eventGlance, and courteousEvents how many may wait for
	// that in a shard. More are of a rush that does not end soon.
	eventCourtesy   = 2 * time.Second
	eventGlance     = 10 * time.Millisecond
	courteousEvents = 2048
)

// eventSink is where events are written.
type eventSink interface {
	CreateWithEventNamespaceWithContext(ctx context.Context, event *corev1.Event) (*corev1.Event, error)
	PatchWithEventNamespaceWithContext(ctx context.Context, event *corev1.Event, patch []byte) (*corev1.Event, error)
}

// eventWriter writes events without ever keeping who records them waiting. client-go's own writes one at a time and has room for
// a thousand, which a scheduler of a thousand pods a second fills in a few.
type eventWriter struct {
	sink    eventSink
	log     *slog.Logger
	dropped *metrics.Counter
	seed    maphash.Seed
	shards  [eventShards]chan *corev1.Event
	// rush tells that many pods are being bound. It is set before run, if at all.
	rush func() bool
}

func newEventWriter(sink eventSink, log *slog.Logger) *eventWriter {
	w := &eventWriter{sink: sink, log: log, seed: maphash.MakeSeed(), dropped: metrics.NewCounter(&metrics.CounterOpts{
		Subsystem: "scheduler", Name: "events_dropped_total", Help: "Events that were not written, because too many waited.", StabilityLevel: metrics.ALPHA,
	})}
	for i := range w.shards {
		w.shards[i] = make(chan *corev1.Event, queuedEvents)
	}
	return w
}

// run writes until ctx ends. What waits then is lost.
func (w *eventWriter) run(ctx context.Context) {
	var writing sync.WaitGroup
	for _, shard := range w.shards {
		// Each shard sees all events of its objects, so that it can tell repetitions by itself.
		correlator := record.NewEventCorrelatorWithOptions(record.CorrelatorOptions{LRUCacheSize: rememberedEvents})
		writing.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case event := <-shard:
					w.giveWay(ctx, event, shard)
					if err := w.write(ctx, correlator, event); err != nil && ctx.Err() == nil {
						w.log.Warn("write event", "event", event.Reason, "about", event.InvolvedObject.Namespace+"/"+event.InvolvedObject.Name, "err", err)
					}
				}
			}
		})
	}
	writing.Wait()
}

// giveWay lets bindings go first in a rush: a pod that waits for its node is worse off than one whose event is late.
func (w *eventWriter) giveWay(ctx context.Context, event *corev1.Event, behind <-chan *corev1.Event) {
	for w.rush != nil && w.rush() && len(behind) < courteousEvents && time.Since(event.LastTimestamp.Time) < eventCourtesy {
		select {
		case <-ctx.Done():
			return
		case <-time.After(eventGlance):
		}
	}
}

// write writes one event, or adds it to the one it repeats.
func (w *eventWriter) write(ctx context.Context, correlator *record.EventCorrelator, event *corev1.Event) error {
	result, err := correlator.EventCorrelate(event)
	if err != nil || result.Skip {
		return err
	}
	for end := time.Now().Add(eventPatience); ; {
		written, err := w.send(ctx, result)
		if err == nil {
			correlator.UpdateState(written)
			return nil
		}
		if status := apierrors.APIStatus(nil); errors.As(err, &status) && !apierrors.IsTooManyRequests(err) && !apierrors.IsServiceUnavailable(err) || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(eventPause):
		}
	}
}

func (w *eventWriter) send(ctx context.Context, result *record.EventCorrelateResult) (*corev1.Event, error) {
	if result.Event.Count > 1 {
		written, err := w.sink.PatchWithEventNamespaceWithContext(ctx, result.Event, result.Patch)
		if !apierrors.IsNotFound(err) { // events do not live long
			return written, err
		}
	}
	fresh := *result.Event
	fresh.ResourceVersion = ""
	written, err := w.sink.CreateWithEventNamespaceWithContext(ctx, &fresh)
	if apierrors.IsAlreadyExists(err) { // an answer was lost
		return &fresh, nil
	}
	return written, err
}

// Recorder says what became of a pod: regarding is what the event is about, related who else has to do with it, nil for
// nobody, and action what was tried. It never blocks.
type Recorder interface {
	Eventf(regarding, related runtime.Object, eventType, reason, action, note string, args ...any)
}

// recorder records events of a component on a host.
func (w *eventWriter) recorder(component, host string) Recorder {
	return &eventRecorder{w, component, component + "-" + host}
}

type eventRecorder struct {
	writer              *eventWriter
	component, instance string
}

func (r *eventRecorder) Eventf(regarding, related runtime.Object, eventType, reason, action, note string, args ...any) {
	w := r.writer
	ref, err := reference.GetReference(scheme.Scheme, regarding)
	if err != nil {
		w.log.Warn("record event", "event", reason, "err", err)
		return
	}
	var other *corev1.ObjectReference
	if related != nil {
		if other, err = reference.GetReference(scheme.Scheme, related); err != nil {
			w.log.Warn("record event", "event", reason, "err", err)
		}
	}
	now := metav1.Now()
	event := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: util.GenerateEventName(ref.Name, now.UnixNano()), Namespace: ref.Namespace},
		InvolvedObject: *ref, Related: other, Reason: reason, Action: action, Message: fmt.Sprintf(note, args...), FirstTimestamp: now, LastTimestamp: now, Count: 1, Type: eventType,
		Source: corev1.EventSource{Component: r.component}, ReportingController: r.component, ReportingInstance: r.instance,
	}
	if event.Namespace == "" {
		event.Namespace = metav1.NamespaceDefault
	}
	select {
	case w.shards[maphash.String(w.seed, string(ref.UID))%eventShards] <- event:
	default:
		w.dropped.Inc()
		w.log.Debug("event dropped: too many wait", "event", reason, "about", ref.Namespace+"/"+ref.Name)
	}
}
