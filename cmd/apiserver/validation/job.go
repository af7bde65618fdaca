package validation

import (
	"fmt"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxIndexes is how many pods an indexed job may complete or run at a time.
const maxIndexes = 100000

func job(j *batchv1.Job) field.ErrorList {
	errs := jobSpec(&j.Spec, spec())
	if j.Spec.Selector == nil {
		errs = append(errs, field.Required(spec().Child("selector"), ""))
	} else {
		errs = append(errs, labelSelector(spec().Child("selector"), j.Spec.Selector)...)
		parsed, err := metav1.LabelSelectorAsSelector(j.Spec.Selector)
		if err == nil && !parsed.Matches(labels.Set(j.Spec.Template.Labels)) {
			errs = append(errs, field.Invalid(spec().Child("template", "metadata", "labels"), j.Spec.Template.Labels, "`selector` does not match template `labels`"))
		}
	}
	if mode := j.Spec.CompletionMode; mode != nil && *mode == batchv1.IndexedCompletion && j.Spec.Completions != nil && *j.Spec.Completions > 0 {
		// The last pod's name is the longest, and each name is a host name too.
		last := fmt.Sprintf("%s-%d", j.Name, *j.Spec.Completions-1)
		if bad := validation.IsDNS1123Label(last); len(bad) > 0 {
			errs = append(errs, field.Invalid(field.NewPath("metadata").Child("name"), j.Name, fmt.Sprintf("will not able to create pod with invalid DNS label: %s", last)))
		}
	}
	return errs
}

func jobSpec(s *batchv1.JobSpec, p *field.Path) field.ErrorList {
	errs := nonNegativePtr(p.Child("parallelism"), s.Parallelism)
	errs = append(errs, nonNegativePtr(p.Child("completions"), s.Completions)...)
	errs = append(errs, nonNegativePtr(p.Child("activeDeadlineSeconds"), s.ActiveDeadlineSeconds)...)
	errs = append(errs, nonNegativePtr(p.Child("backoffLimit"), s.BackoffLimit)...)
	errs = append(errs, nonNegativePtr(p.Child("ttlSecondsAfterFinished"), s.TTLSecondsAfterFinished)...)
	errs = append(errs, nonNegativePtr(p.Child("backoffLimitPerIndex"), s.BackoffLimitPerIndex)...)
	errs = append(errs, nonNegativePtr(p.Child("maxFailedIndexes"), s.MaxFailedIndexes)...)
	errs = append(errs, completionMode(s, p)...)
	if s.ManagedBy != nil {
		errs = append(errs, validation.IsDomainPrefixedPath(p.Child("managedBy"), *s.ManagedBy)...)
	}
	if s.PodReplacementPolicy != nil {
		errs = append(errs, oneOf(p.Child("podReplacementPolicy"), *s.PodReplacementPolicy, batchv1.Failed, batchv1.TerminatingOrFailed)...)
	}
	if s.PodFailurePolicy != nil {
		errs = append(errs, failurePolicy(s, p.Child("podFailurePolicy"))...)
	}
	errs = append(errs, podTemplate(&s.Template, p.Child("template"))...)
	if r := s.Template.Spec.RestartPolicy; r != corev1.RestartPolicyOnFailure && r != corev1.RestartPolicyNever {
		errs = append(errs, field.Required(p.Child("template", "spec", "restartPolicy"), fmt.Sprintf("valid values: %q, %q", corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)))
	}
	return errs
}

func completionMode(s *batchv1.JobSpec, p *field.Path) field.ErrorList {
	if s.CompletionMode == nil {
		return nil
	}
	errs := oneOf(p.Child("completionMode"), *s.CompletionMode, batchv1.NonIndexedCompletion, batchv1.IndexedCompletion)
	if *s.CompletionMode != batchv1.IndexedCompletion {
		for name, set := range map[string]bool{"backoffLimitPerIndex": s.BackoffLimitPerIndex != nil, "maxFailedIndexes": s.MaxFailedIndexes != nil, "successPolicy": s.SuccessPolicy != nil} {
			if set {
				errs = append(errs, field.Invalid(p.Child(name), *s.CompletionMode, "requires indexed completion mode"))
			}
		}
		return errs
	}
	if s.Completions == nil {
		return append(errs, field.Required(p.Child("completions"), fmt.Sprintf("when completion mode is %s", batchv1.IndexedCompletion)))
	}
	if s.Parallelism != nil && *s.Parallelism > maxIndexes {
		errs = append(errs, field.Invalid(p.Child("parallelism"), *s.Parallelism, fmt.Sprintf("must be less than or equal to %d when completion mode is %s", maxIndexes, batchv1.IndexedCompletion)))
	}
	if m := s.MaxFailedIndexes; m != nil && *m > *s.Completions {
		errs = append(errs, field.Invalid(p.Child("maxFailedIndexes"), *m, "must be less than or equal to completions"))
	}
	return errs
}

func failurePolicy(s *batchv1.JobSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Template.Spec.RestartPolicy != corev1.RestartPolicyNever {
		errs = append(errs, field.Invalid(spec().Child("template", "spec", "restartPolicy"), s.Template.Spec.RestartPolicy, "only \"Never\" is supported when podFailurePolicy is specified"))
	}
	for i := range s.PodFailurePolicy.Rules {
		r, at := &s.PodFailurePolicy.Rules[i], p.Child("rules").Index(i)
		errs = append(errs, oneOf(at.Child("action"), r.Action, batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore)...)
		if r.Action == batchv1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil {
			errs = append(errs, field.Invalid(at.Child("action"), r.Action, "requires the backoffLimitPerIndex to be set"))
		}
		switch {
		case r.OnExitCodes != nil && len(r.OnPodConditions) > 0:
			errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
		case r.OnExitCodes == nil && len(r.OnPodConditions) == 0:
			errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
		case r.OnExitCodes != nil:
			errs = append(errs, exitCodes(r.OnExitCodes, at.Child("onExitCodes"))...)
		}
	}
	return errs
}

func exitCodes(c *batchv1.PodFailurePolicyOnExitCodesRequirement, p *field.Path) field.ErrorList {
	errs := oneOf(p.Child("operator"), c.Operator, batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)
	if len(c.Values) == 0 {
		errs = append(errs, field.Invalid(p.Child("values"), c.Values, "at least one value is required"))
	}
	seen := sets.New[int32]()
	for i, v := range c.Values {
		if c.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && v == 0 {
			errs = append(errs, field.Invalid(p.Child("values").Index(i), v, "must not be 0 for the In operator"))
		}
		if seen.Has(v) {
			errs = append(errs, field.Duplicate(p.Child("values").Index(i), v))
		}
		seen.Insert(v)
	}
	return errs
}

// jobUpdate keeps what a running job's pods and counts rest upon. The scheduling part of the template may change while the
// job is suspended and has not begun.
func jobUpdate(j, old *batchv1.Job) field.ErrorList {
	errs := job(j)
	indexed := j.Spec.CompletionMode != nil && *j.Spec.CompletionMode == batchv1.IndexedCompletion
	if !equality.Semantic.DeepEqual(j.Spec.Completions, old.Spec.Completions) {
		elastic := indexed && j.Spec.Completions != nil && j.Spec.Parallelism != nil && *j.Spec.Completions == *j.Spec.Parallelism
		if !elastic {
			errs = append(errs, field.Invalid(spec().Child("completions"), j.Spec.Completions, "field is immutable"))
		}
	}
	errs = append(errs, immutable(spec().Child("selector"), j.Spec.Selector, old.Spec.Selector)...)
	errs = append(errs, immutable(spec().Child("completionMode"), j.Spec.CompletionMode, old.Spec.CompletionMode)...)
	errs = append(errs, immutable(spec().Child("podFailurePolicy"), j.Spec.PodFailurePolicy, old.Spec.PodFailurePolicy)...)
	errs = append(errs, immutable(spec().Child("successPolicy"), j.Spec.SuccessPolicy, old.Spec.SuccessPolicy)...)
	errs = append(errs, immutable(spec().Child("backoffLimitPerIndex"), j.Spec.BackoffLimitPerIndex, old.Spec.BackoffLimitPerIndex)...)
	errs = append(errs, immutable(spec().Child("managedBy"), j.Spec.ManagedBy, old.Spec.ManagedBy)...)
	before := old.Spec.Template.DeepCopy()
	if old.Spec.Suspend != nil && *old.Spec.Suspend && old.Status.StartTime == nil {
		t := &j.Spec.Template
		before.Annotations, before.Labels = t.Annotations, t.Labels
		before.Spec.NodeSelector, before.Spec.Tolerations, before.Spec.SchedulingGates = t.Spec.NodeSelector, t.Spec.Tolerations, t.Spec.SchedulingGates
		before.Spec.Affinity = t.Spec.Affinity
	}
	return append(errs, immutable(spec().Child("template"), &j.Spec.Template, before)...)
}

func jobStatus(j, _ *batchv1.Job) field.ErrorList {
	var errs field.ErrorList
	for name, n := range map[string]int32{"active": j.Status.Active, "succeeded": j.Status.Succeeded, "failed": j.Status.Failed} {
		errs = append(errs, nonNegative(status().Child(name), int64(n))...)
	}
	done := map[batchv1.JobConditionType]bool{}
	for _, c := range j.Status.Conditions {
		done[c.Type] = c.Status == corev1.ConditionTrue
	}
	if done[batchv1.JobComplete] && done[batchv1.JobFailed] {
		errs = append(errs, field.Invalid(status().Child("conditions"), field.OmitValueType{}, "cannot set Complete=True and Failed=true conditions"))
	}
	if j.Status.CompletionTime != nil && j.Status.StartTime != nil && j.Status.CompletionTime.Before(j.Status.StartTime) {
		errs = append(errs, field.Invalid(status().Child("completionTime"), j.Status.CompletionTime, "cannot be set before startTime"))
	}
	return errs
}

func cronJob(c *batchv1.CronJob) field.ErrorList {
	var errs field.ErrorList
	if len(c.Name) > 52 {
		// Eleven characters are added for the names of the jobs.
		errs = append(errs, field.Invalid(field.NewPath("metadata").Child("name"), c.Name, "must be no more than 52 characters"))
	}
	errs = append(errs, schedule(c)...)
	errs = append(errs, nonNegativePtr(spec().Child("startingDeadlineSeconds"), c.Spec.StartingDeadlineSeconds)...)
	errs = append(errs, oneOf(spec().Child("concurrencyPolicy"), c.Spec.ConcurrencyPolicy, batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)...)
	errs = append(errs, nonNegativePtr(spec().Child("successfulJobsHistoryLimit"), c.Spec.SuccessfulJobsHistoryLimit)...)
	errs = append(errs, nonNegativePtr(spec().Child("failedJobsHistoryLimit"), c.Spec.FailedJobsHistoryLimit)...)
	at := spec().Child("jobTemplate", "spec")
	if c.Spec.JobTemplate.Spec.ManualSelector != nil && *c.Spec.JobTemplate.Spec.ManualSelector {
		errs = append(errs, field.NotSupported(at.Child("manualSelector"), true, []string{"nil", "false"}))
	}
	return append(errs, jobSpec(&c.Spec.JobTemplate.Spec, at)...)
}

func schedule(c *batchv1.CronJob) field.ErrorList {
	at := spec().Child("schedule")
	if c.Spec.Schedule == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	if strings.HasPrefix(c.Spec.Schedule, "TZ=") || strings.HasPrefix(c.Spec.Schedule, "CRON_TZ=") {
		errs = append(errs, field.Invalid(at, c.Spec.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
	} else if err := parseCron(c.Spec.Schedule); err != nil {
		errs = append(errs, field.Invalid(at, c.Spec.Schedule, err.Error()))
	}
	if z := c.Spec.TimeZone; z != nil {
		if *z == "" {
			errs = append(errs, field.Invalid(spec().Child("timeZone"), *z, "timeZone must be nil or non-empty string"))
		} else if strings.EqualFold(*z, "Local") {
			errs = append(errs, field.Invalid(spec().Child("timeZone"), *z, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
		} else if _, err := time.LoadLocation(*z); err != nil {
			errs = append(errs, field.Invalid(spec().Child("timeZone"), *z, err.Error()))
		}
	}
	return errs
}
