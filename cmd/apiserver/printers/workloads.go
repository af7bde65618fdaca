package printers

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/duration"
)

func deploymentPrinter() printer {
	return newPrinter(columns("Ready", "Up-to-date", "Available", "Age", "+Containers", "+Images", "+Selector"), func(d *appsv1.Deployment, now time.Time) []any {
		names, images := layout(d.Spec.Template.Spec.Containers)
		return []any{d.Name, fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, number(d.Spec.Replicas)), int64(d.Status.UpdatedReplicas),
			int64(d.Status.AvailableReplicas), age(d, now), names, images, selector(d.Spec.Selector)}
	})
}

// selector is a workload's selector as text.
func selector(s *metav1.LabelSelector) string {
	parsed, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return "<invalid>"
	}
	return parsed.String()
}

func replicaColumns() []metav1.TableColumnDefinition {
	return columns("Desired:integer", "Current:integer", "Ready:integer", "Age", "+Containers", "+Images", "+Selector")
}

func replicaSetPrinter() printer {
	return newPrinter(replicaColumns(), func(s *appsv1.ReplicaSet, now time.Time) []any {
		names, images := layout(s.Spec.Template.Spec.Containers)
		return []any{s.Name, number(s.Spec.Replicas), int64(s.Status.Replicas), int64(s.Status.ReadyReplicas), age(s, now),
			names, images, metav1.FormatLabelSelector(s.Spec.Selector)}
	})
}

func replicationControllerPrinter() printer {
	return newPrinter(replicaColumns(), func(c *corev1.ReplicationController, now time.Time) []any {
		names, images := "", ""
		if c.Spec.Template != nil {
			names, images = layout(c.Spec.Template.Spec.Containers)
		}
		return []any{c.Name, number(c.Spec.Replicas), int64(c.Status.Replicas), int64(c.Status.ReadyReplicas), age(c, now),
			names, images, labels.FormatLabels(c.Spec.Selector)}
	})
}

func daemonSetPrinter() printer {
	return newPrinter(columns("Desired:integer", "Current:integer", "Ready:integer", "Up-to-date:integer", "Available:integer", "Node Selector", "Age", "+Containers", "+Images", "+Selector"),
		func(d *appsv1.DaemonSet, now time.Time) []any {
			names, images := layout(d.Spec.Template.Spec.Containers)
			return []any{d.Name, int64(d.Status.DesiredNumberScheduled), int64(d.Status.CurrentNumberScheduled), int64(d.Status.NumberReady),
				int64(d.Status.UpdatedNumberScheduled), int64(d.Status.NumberAvailable), labels.FormatLabels(d.Spec.Template.Spec.NodeSelector), age(d, now),
				names, images, metav1.FormatLabelSelector(d.Spec.Selector)}
		})
}

func statefulSetPrinter() printer {
	return newPrinter(columns("Ready", "Age", "+Containers", "+Images"), func(s *appsv1.StatefulSet, now time.Time) []any {
		names, images := layout(s.Spec.Template.Spec.Containers)
		return []any{s.Name, fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, number(s.Spec.Replicas)), age(s, now), names, images}
	})
}

func controllerRevisionPrinter() printer {
	return newPrinter(columns("Controller", "Revision:integer", "Age"), func(r *appsv1.ControllerRevision, now time.Time) []any {
		owner := none
		if ref := metav1.GetControllerOf(r); ref != nil {
			gv, err := schema.ParseGroupVersion(ref.APIVersion)
			if err == nil {
				owner = lowerKind(gv.WithKind(ref.Kind).GroupKind()) + "/" + ref.Name
			}
		}
		return []any{r.Name, owner, r.Revision, age(r, now)}
	})
}

func jobPrinter() printer {
	return newPrinter(columns("Status", "Completions", "Duration", "Age", "+Containers", "+Images", "+Selector"), func(j *batchv1.Job, now time.Time) []any {
		names, images := layout(j.Spec.Template.Spec.Containers)
		return []any{j.Name, jobStatus(j), completions(j), jobDuration(j, now), age(j, now), names, images, metav1.FormatLabelSelector(j.Spec.Selector)}
	})
}

func jobStatus(j *batchv1.Job) string {
	has := func(kind batchv1.JobConditionType) bool {
		for _, c := range j.Status.Conditions {
			if c.Type == kind {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	}
	switch {
	case has(batchv1.JobComplete):
		return "Complete"
	case has(batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case has(batchv1.JobSuspended):
		return "Suspended"
	case has(batchv1.JobFailureTarget):
		return "FailureTarget"
	case has(batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func completions(j *batchv1.Job) string {
	switch {
	case j.Spec.Completions != nil:
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	case number(j.Spec.Parallelism) > 1:
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, *j.Spec.Parallelism)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func jobDuration(j *batchv1.Job, now time.Time) string {
	switch {
	case j.Status.StartTime == nil:
		return ""
	case j.Status.CompletionTime == nil:
		return duration.HumanDuration(now.Sub(j.Status.StartTime.Time))
	}
	return duration.HumanDuration(j.Status.CompletionTime.Sub(j.Status.StartTime.Time))
}

func cronJobPrinter() printer {
	return newPrinter(columns("Schedule", "Timezone", "Suspend", "Active:integer", "Last Schedule", "Age", "+Containers", "+Images", "+Selector"),
		func(c *batchv1.CronJob, now time.Time) []any {
			last := none
			if c.Status.LastScheduleTime != nil {
				last = since(*c.Status.LastScheduleTime, now)
			}
			names, images := layout(c.Spec.JobTemplate.Spec.Template.Spec.Containers)
			return []any{c.Name, c.Spec.Schedule, deref(c.Spec.TimeZone, none), boolText(c.Spec.Suspend), int64(len(c.Status.Active)), last, age(c, now),
				names, images, metav1.FormatLabelSelector(c.Spec.JobTemplate.Spec.Selector)}
		})
}

func scalePrinter() printer {
	return newPrinter(columns("Desired:integer", "Available:integer", "Age"), func(s *autoscalingv1.Scale, now time.Time) []any {
		return []any{s.Name, int64(s.Spec.Replicas), int64(s.Status.Replicas), age(s, now)}
	})
}

func disruptionBudgetPrinter() printer {
	return newPrinter(columns("Min Available", "Max Unavailable", "Allowed Disruptions:integer", "Age"), func(b *policyv1.PodDisruptionBudget, now time.Time) []any {
		minAvailable, maxUnavailable := "N/A", "N/A"
		if b.Spec.MinAvailable != nil {
			minAvailable = b.Spec.MinAvailable.String()
		}
		if b.Spec.MaxUnavailable != nil {
			maxUnavailable = b.Spec.MaxUnavailable.String()
		}
		return []any{b.Name, minAvailable, maxUnavailable, int64(b.Status.DisruptionsAllowed), age(b, now)}
	})
}
