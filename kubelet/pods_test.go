package kubelet

import (
	"log/slog"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/kubelet/lifecycle"
	"github.com/orlop-io/orlop/kubelet/report"
)

// A manifest that is moved away and back while its pod still ends must start
// the pod again: its UID is the same, because it is a hash of the manifest.
func TestStaticPodComesBackWhileItEnds(t *testing.T) {
	k := &Kubelet{log: slog.New(slog.DiscardHandler), workers: map[types.UID]*worker{}, queued: map[string]*v1.Pod{}, ending: map[string]int{},
		ctx: t.Context(), reports: report.New("n", nil, slog.New(slog.DiscardHandler))}
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "api-n", UID: "hash"}}
	w := k.newWorker(pod, true, lifecycle.State{Pod: pod})
	k.workers[pod.UID] = w

	k.setStatic([]*v1.Pod{pod})
	if len(k.queued) != 0 {
		t.Fatal("a pod that runs is queued")
	}
	k.setStatic(nil)
	if len(w.take()) != 1 {
		t.Fatal("the pod is not told that its manifest is gone")
	}
	k.setStatic([]*v1.Pod{pod})
	if k.queued["kube-system/api-n"] != pod {
		t.Error("the manifest that came back is forgotten")
	}
	k.setStatic(nil)
	if len(k.queued) != 0 {
		t.Error("a manifest that went again is still queued")
	}
}

// A pod whose object goes at the very moment of its end must not stay: nobody tells of it again.
func TestEndedPodsAreLetGo(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}}
	for _, tt := range []struct {
		name           string
		static         bool
		events         []lifecycle.Event
		removed, stays bool
	}{
		{name: "object there", events: []lifecycle.Event{lifecycle.Tick{}}, stays: true},
		{name: "object goes with the last step", events: []lifecycle.Event{lifecycle.RemovedBySource{}}, removed: true},
		{name: "static", static: true},
	} {
		k := &Kubelet{log: slog.New(slog.DiscardHandler), workers: map[types.UID]*worker{}, owners: map[string]types.UID{"box": "u", "other": "v"}}
		w := k.newWorker(pod, tt.static, lifecycle.State{Pod: pod})
		k.workers[pod.UID] = w
		w.post(tt.events...)
		if removed := k.letGo(w); removed != tt.removed || (k.workers[pod.UID] != nil) != tt.stays {
			t.Errorf("%s: removed %v, known %v", tt.name, removed, k.workers)
		}
		if len(k.owners) != 1 {
			t.Errorf("%s: owners %v", tt.name, k.owners)
		}
	}
}
