package replicaset

import (
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/orlop-io/orlop/cmd/controllers/podset"
)

// Plan is what one sync does to the pods: make some, or delete some, never both.
type Plan struct {
	Create int
	Delete []*corev1.Pod
}

// Decide compares the active pods with the number wanted. related is for podset.Rank.
func Decide(wanted int, active, related []*corev1.Pod, now time.Time) Plan {
	switch diff := wanted - len(active); {
	case diff > 0:
		return Plan{Create: min(diff, burst)}
	case diff < 0:
		ranked := append([]*corev1.Pod(nil), active...)
		podset.Rank(ranked, related, now)
		return Plan{Delete: ranked[:min(-diff, burst)]}
	}
	return Plan{}
}

// Observe returns the status that active pods give set, and after how long a pod that
// is ready now becomes available (0 when none will).
func Observe(set *Set, active []*corev1.Pod, now time.Time, failure error) (Status, time.Duration) {
	status := Status{Replicas: int32(len(active)), ObservedGeneration: set.Meta.GetGeneration()}
	template := labels.Set(set.Template.Labels).AsSelectorPreValidated()
	var soonest time.Duration
	for _, pod := range active {
		if template.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeled++
		}
		if !podset.Ready(pod) {
			continue
		}
		status.Ready++
		ok, wait := podset.Available(pod, set.MinReady, now)
		if ok {
			status.Available++
		} else if wait > 0 && (soonest == 0 || wait < soonest) {
			soonest = wait
		}
	}
	switch {
	case failure == nil:
	case set.Status.Failure != "": // the first failure stays: each names another pod, and writing it would wake us again
		status.Failure, status.FailureMessage = set.Status.Failure, set.Status.FailureMessage
	default:
		status.Failure = "FailedCreate"
		if len(active) > set.Replicas {
			status.Failure = "FailedDelete"
		}
		status.FailureMessage = failure.Error()
		if answer := (*apierrors.StatusError)(nil); errors.As(failure, &answer) {
			status.FailureMessage = answer.Error()
		}
	}
	return status, soonest
}

func (s Status) equal(o Status) bool {
	same := func(a, b *int32) bool {
		if a == nil || b == nil {
			return a == b
		}
		return *a == *b
	}
	terminating := same(s.Terminating, o.Terminating)
	s.Terminating, o.Terminating = nil, nil
	return terminating && s == o
}
