package deployment

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Pods that became available since a ReplicaSet's status was written are not taken away as unhealthy ones.
func TestPodsCountBeforeStatusesDo(t *testing.T) {
	pod := func(owner types.UID, ready corev1.ConditionStatus, mutate ...func(*corev1.Pod)) *corev1.Pod {
		yes := true
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{{UID: owner, Controller: &yes}}}}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
		for _, m := range mutate {
			m(p)
		}
		return p
	}
	going := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Now()} }
	ended := func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }
	v := View{Replicas: 5, MaxUnavailable: 1, New: &RS{Name: "new", UID: "n", Available: 2},
		Old: []RS{{Name: "a", UID: "a", Replicas: 5}, {Name: "b", UID: "b", Replicas: 2}, {Name: "c", UID: "c", Replicas: 1, Unobserved: true}}}
	pods := []*corev1.Pod{pod("c", corev1.ConditionTrue), pod("b", corev1.ConditionFalse), pod("b", corev1.ConditionTrue, going), pod("n", corev1.ConditionTrue, ended)}
	for range 6 { // one is beyond what is wanted
		pods = append(pods, pod("a", corev1.ConditionTrue))
	}
	v.count(pods, 0, time.Now())
	got := map[string]int{"new": v.New.Available}
	for _, rs := range v.Old {
		got[rs.Name] = rs.Available
	}
	if diff := cmp.Diff(map[string]int{"new": 0, "a": 5, "b": 0, "c": 0}, got); diff != "" {
		t.Error(diff)
	}
	if scale := v.shrinkOld(); scale["b"] != 0 || scale["a"] < 4 {
		t.Errorf("of five available pods, where four must be: %v", scale)
	}
	if !v.OldPodsRunning {
		t.Error("old pods run")
	}
}
