package deployment

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Observe returns the status that d and its ReplicaSets give at now.
func Observe(d *appsv1.Deployment, newRS *appsv1.ReplicaSet, old []*appsv1.ReplicaSet, now time.Time) appsv1.DeploymentStatus {
	status := appsv1.DeploymentStatus{
		ObservedGeneration: d.Generation, CollisionCount: d.Status.CollisionCount,
		Conditions: slices.Clone(d.Status.Conditions),
	}
	all := slices.Clone(old)
	if newRS != nil {
		all = append(all, newRS)
		status.UpdatedReplicas = newRS.Status.Replicas
	}
	total, failure := int32(0), (*appsv1.ReplicaSetCondition)(nil)
	for _, rs := range all {
		total += deref(rs.Spec.Replicas)
		status.Replicas += rs.Status.Replicas
		status.ReadyReplicas += rs.Status.ReadyReplicas
		status.AvailableReplicas += rs.Status.AvailableReplicas
		if n := rs.Status.TerminatingReplicas; n != nil {
			if status.TerminatingReplicas == nil {
				status.TerminatingReplicas = new(int32)
			}
			*status.TerminatingReplicas += *n
		}
		for i, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure && (failure == nil || rs == newRS) {
				failure = &rs.Status.Conditions[i]
			}
		}
	}
	status.UnavailableReplicas = max(total-status.AvailableReplicas, 0)
	observeAvailability(d, &status, now)
	observeFailure(&status, failure, now)
	observePause(d, &status, now)
	if !d.Spec.Paused && d.DeletionTimestamp == nil {
		observeProgress(d, newRS, &status, now)
	}
	return status
}

func observeAvailability(d *appsv1.Deployment, status *appsv1.DeploymentStatus, now time.Time) {
	_, unavailable := limits(d)
	if int(status.AvailableReplicas) >= int(deref(d.Spec.Replicas))-unavailable {
		setCondition(status, appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.", now)
		return
	}
	setCondition(status, appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.", now)
}

func observeFailure(status *appsv1.DeploymentStatus, failure *appsv1.ReplicaSetCondition, now time.Time) {
	if failure == nil {
		status.Conditions = slices.DeleteFunc(status.Conditions, func(c appsv1.DeploymentCondition) bool {
			return c.Type == appsv1.DeploymentReplicaFailure
		})
		return
	}
	setCondition(status, appsv1.DeploymentReplicaFailure, failure.Status, failure.Reason, failure.Message, now)
}

// observePause keeps the deadline from running while the Deployment is paused.
func observePause(d *appsv1.Deployment, status *appsv1.DeploymentStatus, now time.Time) {
	if !hasDeadline(d) {
		return
	}
	c := condition(*status, appsv1.DeploymentProgressing)
	if c != nil && c.Reason == "ProgressDeadlineExceeded" {
		return
	}
	paused := c != nil && c.Reason == "DeploymentPaused"
	if d.Spec.Paused && !paused {
		setProgress(status, corev1.ConditionUnknown, "DeploymentPaused", "Deployment is paused", now)
	} else if !d.Spec.Paused && paused {
		setProgress(status, corev1.ConditionUnknown, "DeploymentResumed", "Deployment is resumed", now)
	}
}

func observeProgress(d *appsv1.Deployment, newRS *appsv1.ReplicaSet, status *appsv1.DeploymentStatus, now time.Time) {
	if !hasDeadline(d) {
		status.Conditions = slices.DeleteFunc(status.Conditions, func(c appsv1.DeploymentCondition) bool {
			return c.Type == appsv1.DeploymentProgressing
		})
		return
	}
	current := condition(*status, appsv1.DeploymentProgressing)
	if status.Replicas == status.UpdatedReplicas && current != nil && current.Reason == "NewReplicaSetAvailable" {
		return
	}
	name := fmt.Sprintf("Deployment %q", d.Name)
	if newRS != nil {
		name = fmt.Sprintf("ReplicaSet %q", newRS.Name)
	}
	switch {
	case complete(d, *status):
		setProgress(status, corev1.ConditionTrue, "NewReplicaSetAvailable", name+" has successfully progressed.", now)
	case progressing(d.Status, *status):
		setProgress(status, corev1.ConditionTrue, "ReplicaSetUpdated", name+" is progressing.", now)
	case timedOut(d, *status, now):
		setCondition(status, appsv1.DeploymentProgressing, corev1.ConditionFalse, "ProgressDeadlineExceeded", name+" has timed out progressing.", now)
	}
}

func complete(d *appsv1.Deployment, s appsv1.DeploymentStatus) bool {
	n := deref(d.Spec.Replicas)
	return s.UpdatedReplicas == n && s.Replicas == n && s.AvailableReplicas == n && s.ObservedGeneration >= d.Generation
}

func progressing(before, after appsv1.DeploymentStatus) bool {
	return after.UpdatedReplicas > before.UpdatedReplicas ||
		after.Replicas-after.UpdatedReplicas < before.Replicas-before.UpdatedReplicas ||
		after.ReadyReplicas > before.ReadyReplicas || after.AvailableReplicas > before.AvailableReplicas
}

func timedOut(d *appsv1.Deployment, s appsv1.DeploymentStatus, now time.Time) bool {
	c := condition(s, appsv1.DeploymentProgressing)
	if c == nil || c.Reason == "NewReplicaSetAvailable" {
		return false
	}
	return c.Reason == "ProgressDeadlineExceeded" || now.After(c.LastUpdateTime.Add(deadline(d)))
}

// progressDeadlineIn says when to look again whether the deadline has passed; 0 is never.
func progressDeadlineIn(d *appsv1.Deployment, s appsv1.DeploymentStatus, now time.Time) time.Duration {
	c := condition(s, appsv1.DeploymentProgressing)
	if !hasDeadline(d) || c == nil || complete(d, s) || c.Reason == "ProgressDeadlineExceeded" || d.Spec.Paused {
		return 0
	}
	return max(c.LastUpdateTime.Add(deadline(d)).Sub(now), 0) + time.Second
}

func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

func deadline(d *appsv1.Deployment) time.Duration {
	return time.Duration(*d.Spec.ProgressDeadlineSeconds) * time.Second
}

func condition(s appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == kind {
			return &s.Conditions[i]
		}
	}
	return nil
}

// setProgress sets Progressing and always renews its update time, from which the deadline runs.
func setProgress(s *appsv1.DeploymentStatus, value corev1.ConditionStatus, reason, message string, now time.Time) {
	if c := condition(*s, appsv1.DeploymentProgressing); c != nil {
		c.Reason = ""
	}
	setCondition(s, appsv1.DeploymentProgressing, value, reason, message, now)
}

func setCondition(s *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType, value corev1.ConditionStatus, reason, message string, now time.Time) {
	stamp := metav1.NewTime(now)
	next := appsv1.DeploymentCondition{Type: kind, Status: value, Reason: reason, Message: message, LastUpdateTime: stamp, LastTransitionTime: stamp}
	c := condition(*s, kind)
	if c != nil && c.Status == value && c.Reason == reason {
		return
	}
	if c != nil && c.Status == value {
		next.LastTransitionTime = c.LastTransitionTime
	}
	// What changed last is last: a rollout that is complete shows Available before Progressing.
	s.Conditions = append(slices.DeleteFunc(s.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == kind }), next)
}

func (c *Controller) writeStatus(ctx context.Context, d *appsv1.Deployment, status appsv1.DeploymentStatus) error {
	cached, err := c.deployments.Deployments(d.Namespace).Get(d.Name)
	if err == nil && cached.UID == d.UID && equality.Semantic.DeepEqual(cached.Status, status) {
		return nil
	}
	d.Status = status
	if _, err := c.client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, d, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}
