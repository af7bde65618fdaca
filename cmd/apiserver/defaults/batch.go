package defaults

import (
	"maps"
	"math"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

func addBatch(r *registry) {
	addList(r, func(l *batchv1.JobList) []batchv1.Job { return l.Items }, job)
	addList(r, func(l *batchv1.CronJobList) []batchv1.CronJob { return l.Items }, func(c *batchv1.CronJob) {
		set(&c.Spec.ConcurrencyPolicy, batchv1.AllowConcurrent)
		setPtr(&c.Spec.Suspend, false)
		setPtr(&c.Spec.SuccessfulJobsHistoryLimit, 3)
		setPtr(&c.Spec.FailedJobsHistoryLimit, 1)
		podTemplate(&c.Spec.JobTemplate.Spec.Template)
		failurePolicy(c.Spec.JobTemplate.Spec.PodFailurePolicy)
	})
}

func job(j *batchv1.Job) {
	s := &j.Spec
	// Completions alone stays unset in a work-queue job, which sets only parallelism.
	if s.Completions == nil && s.Parallelism == nil {
		setPtr(&s.Completions, 1)
	}
	setPtr(&s.Parallelism, 1)
	if s.BackoffLimit == nil {
		if s.BackoffLimitPerIndex != nil {
			setPtr(&s.BackoffLimit, math.MaxInt32)
		} else {
			setPtr(&s.BackoffLimit, 6)
		}
	}
	if len(j.Labels) == 0 && len(s.Template.Labels) > 0 {
		j.Labels = maps.Clone(s.Template.Labels)
	}
	setPtr(&s.CompletionMode, batchv1.NonIndexedCompletion)
	setPtr(&s.Suspend, false)
	setPtr(&s.ManualSelector, false)
	failurePolicy(s.PodFailurePolicy)
	if s.PodFailurePolicy != nil {
		setPtr(&s.PodReplacementPolicy, batchv1.Failed)
	} else {
		setPtr(&s.PodReplacementPolicy, batchv1.TerminatingOrFailed)
	}
	podTemplate(&s.Template)
}

func failurePolicy(p *batchv1.PodFailurePolicy) {
	if p == nil {
		return
	}
	for _, rule := range p.Rules {
		for i := range rule.OnPodConditions {
			set(&rule.OnPodConditions[i].Status, corev1.ConditionTrue)
		}
	}
}

func addAutoscaling(r *registry) {
	addList(r, func(l *autoscalingv1.HorizontalPodAutoscalerList) []autoscalingv1.HorizontalPodAutoscaler {
		return l.Items
	},
		func(h *autoscalingv1.HorizontalPodAutoscaler) { setPtr(&h.Spec.MinReplicas, 1) })
	addList(r, func(l *autoscalingv2.HorizontalPodAutoscalerList) []autoscalingv2.HorizontalPodAutoscaler {
		return l.Items
	}, autoscaler)
}

func autoscaler(h *autoscalingv2.HorizontalPodAutoscaler) {
	setPtr(&h.Spec.MinReplicas, 1)
	if len(h.Spec.Metrics) == 0 {
		utilization := int32(80)
		h.Spec.Metrics = []autoscalingv2.MetricSpec{{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricSource{
				Name:   corev1.ResourceCPU,
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &utilization},
			},
		}}
	}
	if h.Spec.Behavior == nil {
		return
	}
	setPtr(&h.Spec.Behavior.ScaleUp, autoscalingv2.HPAScalingRules{})
	setPtr(&h.Spec.Behavior.ScaleUp.StabilizationWindowSeconds, 0)
	scalingRules(h.Spec.Behavior.ScaleUp,
		autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15},
		autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15})
	setPtr(&h.Spec.Behavior.ScaleDown, autoscalingv2.HPAScalingRules{})
	scalingRules(h.Spec.Behavior.ScaleDown,
		autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15})
}

func scalingRules(r *autoscalingv2.HPAScalingRules, policies ...autoscalingv2.HPAScalingPolicy) {
	setPtr(&r.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if r.Policies == nil {
		r.Policies = policies
	}
}
