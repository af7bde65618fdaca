package deployment

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/cmd/controllers/podset"
)

// count takes from the pods what the ReplicaSets' statuses may not say yet: which of them are available, and whether old
// ones still run. A status is of an earlier look at the same cache: pods that became available since would be taken away
// as if they protected nobody.
func (v *View) count(pods []*corev1.Pod, minReady time.Duration, now time.Time) {
	available, running := map[types.UID]int{}, map[types.UID]bool{}
	for _, pod := range pods {
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref == nil || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
			continue
		}
		running[ref.UID] = true
		if ok, _ := podset.Available(pod, minReady, now); ok && pod.DeletionTimestamp == nil {
			available[ref.UID]++
		}
	}
	take := func(rs *RS) {
		if !rs.Unobserved {
			rs.Available = min(available[rs.UID], rs.Replicas) // those beyond are as good as gone
		}
	}
	for i := range v.Old {
		take(&v.Old[i])
		v.OldPodsRunning = v.OldPodsRunning || running[v.Old[i].UID]
	}
	if v.New != nil {
		take(v.New)
	}
}
