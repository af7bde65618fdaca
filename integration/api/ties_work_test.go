package api

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// selects is a selector that takes all templates, which have the label app=x.
func selects(g *grower) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: matchX, MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpIn, Values: []string{"x", g.word()}}}}
}

func workloadTies() []any {
	return []any{
		func(s *appsv1.DaemonSetSpec, g *grower, _ string) { s.Selector = selects(g); always(&s.Template) },
		func(s *appsv1.DaemonSetUpdateStrategy, g *grower, path string) {
			if s.Type == appsv1.OnDeleteDaemonSetStrategyType {
				s.RollingUpdate = nil
			}
			if s.RollingUpdate != nil && g.turn(path+"?", 2) == 0 {
				s.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxSurge: new(intstr.FromString("30%")), MaxUnavailable: new(intstr.FromInt32(0))}
			}
		},
		func(s *appsv1.DeploymentSpec, g *grower, _ string) { s.Selector = selects(g); always(&s.Template) },
		func(s *appsv1.DeploymentStrategy, _ *grower, _ string) {
			if s.Type == appsv1.RecreateDeploymentStrategyType {
				s.RollingUpdate = nil
			}
		},
		func(s *appsv1.ReplicaSetSpec, g *grower, _ string) { s.Selector = selects(g); always(&s.Template) },
		func(s *corev1.ReplicationControllerSpec, _ *grower, _ string) {
			s.Selector = matchX
			if s.Template != nil {
				always(s.Template)
			}
		},
		func(s *appsv1.StatefulSetSpec, g *grower, _ string) { s.Selector = selects(g); always(&s.Template) },
		func(s *appsv1.StatefulSetUpdateStrategy, _ *grower, _ string) {
			if s.Type == appsv1.OnDeleteStatefulSetStrategyType {
				s.RollingUpdate = nil
			}
		},
		func(s *batchv1.JobSpec, g *grower, path string) { jobTie(s, g, path) },
		jobStatusTie,
		func(r *batchv1.PodFailurePolicyRule, g *grower, path string) {
			if r.OnExitCodes != nil && (len(r.OnPodConditions) == 0 || g.turn(path+"?", 2) == 0) {
				r.OnPodConditions = nil
				r.OnExitCodes.Values = []int32{3, 5}
			} else {
				r.OnExitCodes = nil
			}
			for i := range r.OnPodConditions {
				r.OnPodConditions[i] = batchv1.PodFailurePolicyOnPodConditionsPattern{Type: corev1.PodConditionType("none.example/" + g.word()), Status: corev1.ConditionTrue}
			}
		},
		func(m *autoscalingv2.MetricSpec, _ *grower, _ string) {
			switch {
			case m.Object != nil:
				m.Type = autoscalingv2.ObjectMetricSourceType
			case m.Pods != nil:
				m.Type = autoscalingv2.PodsMetricSourceType
				m.Pods.Target = autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: new(apiresource.MustParse("3"))}
			case m.Resource != nil:
				m.Type = autoscalingv2.ResourceMetricSourceType
				utilization(&m.Resource.Target)
			case m.ContainerResource != nil:
				m.Type = autoscalingv2.ContainerResourceMetricSourceType
				utilization(&m.ContainerResource.Target)
			default:
				m.Type = autoscalingv2.ExternalMetricSourceType
			}
		},
		func(t *autoscalingv2.MetricTarget, g *grower, path string) {
			*t = [2]autoscalingv2.MetricTarget{{Type: autoscalingv2.ValueMetricType, Value: new(apiresource.MustParse("7"))},
				{Type: autoscalingv2.AverageValueMetricType, AverageValue: new(apiresource.MustParse("500m"))}}[g.turn(path+"?", 2)]
		},
		func(m *autoscalingv2.MetricStatus, _ *grower, _ string) {
			switch {
			case m.Object != nil:
				m.Type = autoscalingv2.ObjectMetricSourceType
			case m.Pods != nil:
				m.Type = autoscalingv2.PodsMetricSourceType
			case m.Resource != nil:
				m.Type = autoscalingv2.ResourceMetricSourceType
			case m.ContainerResource != nil:
				m.Type = autoscalingv2.ContainerResourceMetricSourceType
			default:
				m.Type = autoscalingv2.ExternalMetricSourceType
			}
		},
		func(s *policyv1.PodDisruptionBudgetSpec, g *grower, path string) {
			if s.MinAvailable != nil && g.turn(path+"?", 2) == 0 {
				s.MaxUnavailable = nil
			} else {
				s.MinAvailable = nil
			}
		},
	}
}

// utilization lets the target of a metric that counts what pods use be a share at times.
func utilization(t *autoscalingv2.MetricTarget) {
	if t.Value != nil {
		*t = autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: new(int32(60))}
	}
}

// always makes a template one whose pods never end.
func always(t *corev1.PodTemplateSpec) {
	t.Spec.RestartPolicy, t.Spec.ActiveDeadlineSeconds = corev1.RestartPolicyAlways, nil
}

func jobTie(s *batchv1.JobSpec, g *grower, path string) {
	if g.turn(path+"?runs", 2) == 0 {
		s.Suspend = nil // it may be done
	}
	s.Template.Spec.RestartPolicy = []corev1.RestartPolicy{corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure}[g.turn(path+"?restart", 2)]
	if s.PodFailurePolicy != nil || s.BackoffLimitPerIndex != nil {
		s.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	}
	if s.Completions == nil || s.CompletionMode == nil {
		s.CompletionMode = new(batchv1.NonIndexedCompletion)
	}
	if *s.CompletionMode == batchv1.NonIndexedCompletion {
		s.BackoffLimitPerIndex, s.MaxFailedIndexes, s.SuccessPolicy = nil, nil, nil
	} else {
		s.Completions = new(int32(100))
		s.Template.Spec.Hostname = ""
	}
	if s.BackoffLimitPerIndex == nil {
		s.MaxFailedIndexes = nil
	}
	if s.PodFailurePolicy != nil {
		s.PodReplacementPolicy = new(batchv1.Failed)
		for i := range s.PodFailurePolicy.Rules {
			r := &s.PodFailurePolicy.Rules[i]
			if r.OnExitCodes != nil && r.OnExitCodes.ContainerName != nil {
				r.OnExitCodes.ContainerName = new(s.Template.Spec.Containers[0].Name)
			}
			if s.BackoffLimitPerIndex != nil && i == 0 {
				r.Action = batchv1.PodFailurePolicyActionFailIndex
			}
		}
	}
	for i := range s.Template.Spec.Containers {
		noRestart(&s.Template.Spec, s.Template.Spec.Containers[i:i+1])
	}
	noRestart(&s.Template.Spec, s.Template.Spec.InitContainers)
	s.Selector, s.ManualSelector = nil, nil
	if path == "spec" && g.turn("manual", 2) == 0 {
		s.Selector, s.ManualSelector = selects(g), new(true)
	}
}

// noRestart fits containers to pods that are not restarted.
func noRestart(_ *corev1.PodSpec, list []corev1.Container) {
	for i := range list {
		for j := range list[i].ResizePolicy {
			list[i].ResizePolicy[j].RestartPolicy = corev1.NotRequired
		}
	}
}

// jobStatusTie makes the status one that the job may have.
func jobStatusTie(j *batchv1.Job, g *grower, path string) {
	if path != "status" {
		return
	}
	st := &j.Status
	begun := metav1.NewTime(time.Now().Add(-time.Hour).Truncate(time.Second))
	indexed := j.Spec.CompletionMode != nil && *j.Spec.CompletionMode == batchv1.IndexedCompletion
	if !indexed {
		st.CompletedIndexes = ""
	} else {
		st.Succeeded = 3
	}
	if j.Spec.BackoffLimitPerIndex == nil {
		st.FailedIndexes = nil
	}
	st.StartTime, st.CompletionTime, st.Conditions = &begun, nil, nil
	if g.turn("status?complete", 2) == 0 && (j.Spec.Suspend == nil || !*j.Spec.Suspend) {
		done := metav1.NewTime(begun.Add(time.Minute))
		st.CompletionTime, st.Active, st.Ready, st.Terminating, st.UncountedTerminatedPods = &done, 0, nil, nil, nil
		for _, c := range []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobComplete} {
			st.Conditions = append(st.Conditions, batchv1.JobCondition{Type: c, Status: corev1.ConditionTrue, Reason: "R", Message: g.word(), LastProbeTime: done, LastTransitionTime: done})
		}
		return
	}
	if j.Spec.Suspend != nil && *j.Spec.Suspend {
		st.StartTime = nil
	}
}
