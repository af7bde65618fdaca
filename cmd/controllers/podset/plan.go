package podset

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Claims says which pods are an owner's, and what must be done so that they are.
type Claims struct {
	// Owned pods match the selector and name the owner.
	Owned []*corev1.Pod
	// Adopt pods match the selector and have no controller.
	Adopt []*corev1.Pod
	// Release pods name the owner and match no longer.
	Release []*corev1.Pod
}

// Claim sorts pods of the owner's namespace. An owner that is being deleted takes and
// gives nothing.
func Claim(owner metav1.Object, selector labels.Selector, pods []*corev1.Pod) Claims {
	var c Claims
	for _, pod := range pods {
		matches := selector.Matches(labels.Set(pod.Labels))
		ref := metav1.GetControllerOfNoCopy(pod)
		switch {
		case ref != nil && ref.UID != owner.GetUID():
		case ref != nil && matches:
			c.Owned = append(c.Owned, pod)
		case ref != nil && owner.GetDeletionTimestamp() == nil:
			c.Release = append(c.Release, pod)
		case ref == nil && matches && owner.GetDeletionTimestamp() == nil && pod.DeletionTimestamp == nil && Active(pod):
			c.Adopt = append(c.Adopt, pod)
		}
	}
	return c
}

// Active tells that pod neither ended nor is being deleted.
func Active(pod *corev1.Pod) bool {
	return pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed && pod.DeletionTimestamp == nil
}

// Ready tells that pod has the Ready condition.
func Ready(pod *corev1.Pod) bool {
	c := Condition(pod, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// Available tells that pod has been ready for at least minReady at now. Where it is
// ready but not for long enough, wait says how long it still takes.
func Available(pod *corev1.Pod, minReady time.Duration, now time.Time) (ok bool, wait time.Duration) {
	c := Condition(pod, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue {
		return false, 0
	}
	if minReady == 0 {
		return true, 0
	}
	if c.LastTransitionTime.IsZero() {
		return false, minReady
	}
	wait = c.LastTransitionTime.Add(minReady).Sub(now)
	return wait <= 0, max(wait, 0)
}

// Condition returns pod's condition of that type, or nil.
func Condition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// Rank sorts pods so that those to delete first come first: unassigned before assigned,
// pending before unknown before running, not ready before ready, lower deletion cost
// first, more pods of the same owners on the node first, ready for a shorter time first, more restarts first, younger
// first. related gives all active pods of the same kind of owner, for doubling up.
func Rank(pods, related []*corev1.Pod, now time.Time) {
	perNode := map[string]int{}
	for _, pod := range related {
		if Active(pod) {
			perNode[pod.Spec.NodeName]++
		}
	}
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(
			lessBool(a.Spec.NodeName == "", b.Spec.NodeName == ""),
			cmp.Compare(phaseRank(a), phaseRank(b)),
			lessBool(!Ready(a), !Ready(b)),
			cmp.Compare(deletionCost(a), deletionCost(b)),
			cmp.Compare(perNode[b.Spec.NodeName], perNode[a.Spec.NodeName]),
			compareAge(readySince(a), readySince(b), now),
			cmp.Compare(restarts(b), restarts(a)),
			compareAge(a.CreationTimestamp, b.CreationTimestamp, now),
			cmp.Compare(a.UID, b.UID), // caches list in any order
		)
	})
}

func lessBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func phaseRank(pod *corev1.Pod) int {
	switch pod.Status.Phase {
	case corev1.PodPending:
		return 0
	case corev1.PodRunning:
		return 2
	}
	return 1
}

// compareAge puts the younger first, in steps of powers of two of the age, so that
// pods made in one go are equal.
func compareAge(a, b metav1.Time, now time.Time) int {
	if a.IsZero() || b.IsZero() {
		return lessBool(a.IsZero(), b.IsZero())
	}
	bucket := func(t metav1.Time) int {
		n := 0
		for age := now.Sub(t.Time); age > time.Nanosecond; age /= 2 {
			n++
		}
		return n
	}
	return cmp.Or(cmp.Compare(bucket(a), bucket(b)), 0)
}

func readySince(pod *corev1.Pod) metav1.Time {
	if c := Condition(pod, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime
	}
	return metav1.Time{}
}

func restarts(pod *corev1.Pod) (most int32) {
	for _, c := range pod.Status.ContainerStatuses {
		most = max(most, c.RestartCount)
	}
	return most
}

// deletionCost reads the annotation that lets users choose who goes first.
func deletionCost(pod *corev1.Pod) int {
	cost, err := strconv.ParseInt(pod.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return int(cost)
}

// UIDs lists the pods' UIDs.
func UIDs(pods []*corev1.Pod) []types.UID {
	uids := make([]types.UID, len(pods))
	for i, pod := range pods {
		uids[i] = pod.UID
	}
	return uids
}
