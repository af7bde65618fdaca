package statefulset

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/orlop-io/orlop/cmd/controllers/podset"
)

// Plan is what one sync does: at most one step where the set is ordered, all at once where it is parallel.
type Plan struct {
	// Create are the ordinals that need a pod, with whether it gets the update revision.
	Create []creation
	Delete []*corev1.Pod
}

type creation struct {
	ordinal int
	updated bool
}

// ordinal returns the number in the name of set's pod, and -1 where it has none.
func ordinal(set *appsv1.StatefulSet, pod *corev1.Pod) int {
	tail, ok := strings.CutPrefix(pod.Name, set.Name+"-")
	n, err := strconv.Atoi(tail)
	if !ok || err != nil || n < 0 {
		return -1
	}
	return n
}

// span returns the first and one past the last ordinal that set wants.
func span(set *appsv1.StatefulSet) (first, end int) {
	if set.Spec.Ordinals != nil {
		first = int(set.Spec.Ordinals.Start)
	}
	replicas := 1
	if set.Spec.Replicas != nil {
		replicas = int(*set.Spec.Replicas)
	}
	return first, first + replicas
}

func partition(set *appsv1.StatefulSet) int {
	if r := set.Spec.UpdateStrategy.RollingUpdate; r != nil && r.Partition != nil {
		return int(*r.Partition)
	}
	return 0
}

// Decide compares set with its pods. update is the revision of the present template.
func Decide(set *appsv1.StatefulSet, pods []*corev1.Pod, update string, now time.Time) Plan {
	var plan Plan
	first, end := span(set)
	parallel := set.Spec.PodManagementPolicy == appsv1.ParallelPodManagement
	minReady := time.Duration(set.Spec.MinReadySeconds) * time.Second
	byOrdinal := map[int]*corev1.Pod{}
	var excess []*corev1.Pod
	for _, pod := range pods {
		if n := ordinal(set, pod); n >= first && n < end {
			byOrdinal[n] = pod
		} else {
			excess = append(excess, pod)
		}
	}
	available := func(pod *corev1.Pod) bool {
		ok, _ := podset.Available(pod, minReady, now)
		return ok && pod.DeletionTimestamp == nil
	}
	settled := true // all before are there and available
	for n := first; n < end && (settled || parallel); n++ {
		pod := byOrdinal[n]
		switch {
		case pod == nil:
			updated := n-first >= partition(set) || set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType
			plan.Create = append(plan.Create, creation{n, updated})
			settled = false
		case pod.DeletionTimestamp != nil:
			settled = false
		case pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded:
			plan.Delete = append(plan.Delete, pod)
			settled = false
		case !available(pod):
			settled = false
		}
	}
	if !settled && !parallel {
		// A pod that never becomes ready must not stop its own repair by a new template.
		plan.Delete = append(plan.Delete, brokenOutdated(set, byOrdinal, update, first, end)...)
		return plan
	}
	if len(excess) > 0 {
		plan.Delete = append(plan.Delete, shrink(set, excess, parallel)...)
		return plan
	}
	if settled && len(plan.Create) == 0 {
		plan.Delete = append(plan.Delete, outdated(set, byOrdinal, update, first, end)...)
	}
	return plan
}

// shrink takes pods beyond the wanted number away, the highest first, one at a time where ordered.
func shrink(set *appsv1.StatefulSet, excess []*corev1.Pod, parallel bool) []*corev1.Pod {
	slices.SortFunc(excess, func(a, b *corev1.Pod) int { return ordinal(set, b) - ordinal(set, a) })
	var gone []*corev1.Pod
	for _, pod := range excess {
		if pod.DeletionTimestamp != nil {
			if parallel {
				continue
			}
			return nil // wait for it
		}
		gone = append(gone, pod)
		if !parallel {
			break
		}
	}
	return gone
}

// outdated returns the one pod to replace next, the highest of those with an old revision.
func outdated(set *appsv1.StatefulSet, byOrdinal map[int]*corev1.Pod, update string, first, end int) []*corev1.Pod {
	if set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return nil
	}
	for n := end - 1; n >= first+partition(set); n-- {
		if pod := byOrdinal[n]; pod != nil && revisionOf(pod) != update {
			return []*corev1.Pod{pod}
		}
	}
	return nil
}

func brokenOutdated(set *appsv1.StatefulSet, byOrdinal map[int]*corev1.Pod, update string, first, end int) []*corev1.Pod {
	for _, pod := range outdated(set, byOrdinal, update, first, end) {
		if pod.DeletionTimestamp == nil && !podset.Ready(pod) && pod.Status.Phase == corev1.PodPending {
			return []*corev1.Pod{pod}
		}
	}
	return nil
}

func revisionOf(pod *corev1.Pod) string { return pod.Labels[appsv1.ControllerRevisionHashLabelKey] }

// claimName is the name of the claim that a pod's template makes.
func claimName(template, pod string) string { return fmt.Sprintf("%s-%s", template, pod) }

// Observe returns the status that pods give set, and when to look again (0 is never).
func Observe(set *appsv1.StatefulSet, pods []*corev1.Pod, current, update string, now time.Time) (appsv1.StatefulSetStatus, time.Duration) {
	s := appsv1.StatefulSetStatus{
		ObservedGeneration: set.Generation, CurrentRevision: current, UpdateRevision: update,
		CollisionCount: set.Status.CollisionCount, Conditions: set.Status.Conditions,
	}
	var soonest time.Duration
	first, end := span(set)
	updated := int32(0)
	for _, pod := range pods {
		if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
			continue
		}
		s.Replicas++
		live := pod.DeletionTimestamp == nil
		if live && revisionOf(pod) == current {
			s.CurrentReplicas++
		}
		if live && revisionOf(pod) == update {
			s.UpdatedReplicas++
		}
		if !live || !podset.Ready(pod) {
			continue
		}
		s.ReadyReplicas++
		ok, wait := podset.Available(pod, time.Duration(set.Spec.MinReadySeconds)*time.Second, now)
		if ok {
			s.AvailableReplicas++
			if n := ordinal(set, pod); n >= first && n < end && revisionOf(pod) == update {
				updated++
			}
		} else if wait > 0 && (soonest == 0 || wait < soonest) {
			soonest = wait
		}
	}
	if int(updated) == end-first && s.Replicas == updated && partition(set) == 0 {
		s.CurrentRevision, s.CurrentReplicas = update, updated // the rollout is over
	}
	return s, soonest
}
