package disruption

import (
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// patience is how long a pod that was to be disrupted may take to show it: after that the
// eviction is taken to have failed, and the pod counts again.
const patience = 2 * time.Minute

// Demand is how many pods a budget expects, and how many of them must be healthy.
type Demand struct{ Expected, Healthy int32 }

// NeedsScale tells whether the demand depends on how many pods the owners want.
func NeedsScale(spec policyv1.PodDisruptionBudgetSpec) bool {
	return spec.MaxUnavailable != nil || spec.MinAvailable != nil && spec.MinAvailable.Type == intstr.String
}

// DemandOf works out the demand over that many pods, of which the owners want scale in all.
func DemandOf(spec policyv1.PodDisruptionBudgetSpec, pods int, scale int32) (Demand, error) {
	switch {
	case spec.MaxUnavailable != nil:
		most, err := intstr.GetScaledValueFromIntOrPercent(spec.MaxUnavailable, int(scale), true)
		if err != nil {
			return Demand{}, fmt.Errorf("read maxUnavailable: %w", err)
		}
		return Demand{scale, max(scale-int32(most), 0)}, nil
	case spec.MinAvailable == nil:
		return Demand{int32(pods), 0}, nil
	case spec.MinAvailable.Type == intstr.Int:
		return Demand{int32(pods), spec.MinAvailable.IntVal}, nil
	}
	least, err := intstr.GetScaledValueFromIntOrPercent(spec.MinAvailable, int(scale), true)
	if err != nil {
		return Demand{}, fmt.Errorf("read minAvailable: %w", err)
	}
	return Demand{scale, int32(least)}, nil
}

// Outcome is what a look at a budget comes to.
type Outcome struct {
	Status policyv1.PodDisruptionBudgetStatus
	// Again is when a pod's patience ends; zero when none runs.
	Again time.Time
	// Late are pods that were to be disrupted, and are still there after their time.
	Late []*corev1.Pod
}

// Overdue lists those of pods that were to be disrupted by b longer than patience ago, and do not show it.
func Overdue(b *policyv1.PodDisruptionBudget, pods []*corev1.Pod, now time.Time) (late []*corev1.Pod) {
	for _, pod := range pods {
		if since, ok := b.Status.DisruptedPods[pod.Name]; ok && pod.DeletionTimestamp == nil && !since.Add(patience).After(now) {
			late = append(late, pod)
		}
	}
	return late
}

// Observe works out the status of b, whose selector matches pods. going are those of Overdue that are known to be gone,
// or going: it is the cache that is late.
func Observe(b *policyv1.PodDisruptionBudget, pods []*corev1.Pod, going map[types.UID]bool, d Demand, now time.Time) Outcome {
	out := Outcome{Status: policyv1.PodDisruptionBudgetStatus{
		ObservedGeneration: b.Generation, ExpectedPods: d.Expected, DesiredHealthy: d.Healthy, Conditions: b.Status.DeepCopy().Conditions,
	}}
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil {
			continue
		}
		if since, ok := b.Status.DisruptedPods[pod.Name]; ok {
			end := since.Add(patience)
			if going[pod.UID] {
				end = now.Add(patience)
			}
			if end.After(now) {
				if out.Status.DisruptedPods == nil {
					out.Status.DisruptedPods = map[string]metav1.Time{}
				}
				out.Status.DisruptedPods[pod.Name] = since
				if out.Again.IsZero() || end.Before(out.Again) {
					out.Again = end
				}
				continue
			}
			out.Late = append(out.Late, pod)
		}
		if ready(pod) {
			out.Status.CurrentHealthy++
		}
	}
	// A budget that expects nothing allows nothing: its first pods must not come unprotected.
	if d.Expected > 0 {
		out.Status.DisruptionsAllowed = max(out.Status.CurrentHealthy-d.Healthy, 0)
	}
	c := metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason,
		ObservedGeneration: b.Generation, LastTransitionTime: metav1.NewTime(now),
	}
	if out.Status.DisruptionsAllowed > 0 {
		c.Status, c.Reason = metav1.ConditionTrue, policyv1.SufficientPodsReason
	}
	meta.SetStatusCondition(&out.Status.Conditions, c)
	return out
}

// Failed is the status of a budget that could not be worked out: it allows nothing. What it
// observed stays, so that evictions say which.
func Failed(b *policyv1.PodDisruptionBudget, err error, now time.Time) policyv1.PodDisruptionBudgetStatus {
	status := *b.Status.DeepCopy()
	status.DisruptionsAllowed, status.ObservedGeneration = 0, b.Generation
	meta.SetStatusCondition(&status.Conditions, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason,
		Message: err.Error(), ObservedGeneration: b.Generation, LastTransitionTime: metav1.NewTime(now),
	})
	return status
}

// same tells that nothing needs to be written.
func same(a, b policyv1.PodDisruptionBudgetStatus) bool {
	return a.ObservedGeneration == b.ObservedGeneration && a.CurrentHealthy == b.CurrentHealthy && a.DesiredHealthy == b.DesiredHealthy &&
		a.ExpectedPods == b.ExpectedPods && a.DisruptionsAllowed == b.DisruptionsAllowed &&
		maps.EqualFunc(a.DisruptedPods, b.DisruptedPods, func(x, y metav1.Time) bool { return x.Equal(&y) }) &&
		equality.Semantic.DeepEqual(a.Conditions, b.Conditions)
}

func ready(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// staleAt returns when pod's mark of disruption stops being believed; ok is false for pods
// that have none, or are on their way out.
func staleAt(pod *corev1.Pod) (at time.Time, ok bool) {
	if pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return time.Time{}, false
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Add(patience), true
		}
	}
	return time.Time{}, false
}
