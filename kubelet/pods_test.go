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
