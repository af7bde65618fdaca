package validation

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What an indexed job may have at most: pods at a time, failed indexes, and of both while it has more completions than many.
const (
	maxIndexedParallelism = 100_000
	maxFailedIndexes      = 100_000
	manyCompletions       = 100_000
	maxOfMany             = 10_000
	maxManagedBy          = 63
)

func job(j *batchv1.Job) field.ErrorList {
	errs := ownSelector(j)
	errs = append(errs, wholeJobSpec(&j.Spec)...)
	if indexed(&j.Spec) && j.Spec.Completions != nil && *j.Spec.Completions > 0 {
		// The last pod's name is the longest, and each name is a host name too.
		last := fmt.Sprintf("%s-%d", j.Name, *j.Spec.Completions-1)
		if bad := validation.IsDNS1123Label(last); len(bad) > 0 {
			errs = append(errs, field.Invalid(field.NewPath("metadata").Child("name"), j.Name, fmt.Sprintf("will not able to create pod with invalid DNS label: %s", last)))
		}
	}
	return errs
}

func indexed(s *batchv1.JobSpec) bool {
	return s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion
}

// ownSelector holds that a job which did not ask to select by itself has the selector and labels that the server makes.
func ownSelector(j *batchv1.Job) field.ErrorList {
	if j.Spec.ManualSelector != nil && *j.Spec.ManualSelector || j.Spec.Selector == nil {
		return nil
	}
	if j.UID == "" {
		return field.ErrorList{field.Required(field.NewPath("metadata").Child("uid"), "")}
	}
	var errs field.ErrorList
	uid := string(j.UID)
	at := spec().Child("template", "metadata", "labels")
	for _, l := range []struct{ key, want string }{
		{"controller-uid", uid}, {"job-name", j.Name}, {batchv1.ControllerUidLabel, uid}, {batchv1.JobNameLabel, j.Name},
	} {
		if have, ok := j.Spec.Template.Labels[l.key]; !ok {
			errs = append(errs, field.Required(at.Key(l.key), fmt.Sprintf("must be '%s'", l.want)))
		} else if have != l.want {
			errs = append(errs, field.Invalid(at.Key(l.key), have, fmt.Sprintf("must be '%s'", l.want)))
		}
	}
	if s, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !s.Matches(labels.Set{
		"controller-uid": uid, "job-name": j.Name, batchv1.ControllerUidLabel: uid, batchv1.JobNameLabel: j.Name}) {
		errs = append(errs, field.Invalid(spec().Child("selector"), j.Spec.Selector, "`selector` not auto-generated"))
	}
	return errs
}

// wholeJobSpec is jobSpec with the selector, which the template of a cron job has not.
func wholeJobSpec(s *batchv1.JobSpec) field.ErrorList {
	errs := jobSpec(s, spec())
	if s.Selector == nil {
		return append(errs, field.Required(spec().Child("selector"), ""))
	}
	errs = append(errs, labelSelector(spec().Child("selector"), s.Selector)...)
	if parsed, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !parsed.Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, field.Invalid(spec().Child("template", "metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
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
	if s.MaxFailedIndexes != nil && s.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Required(p.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
	}
	if s.ManagedBy != nil {
		errs = append(errs, validation.IsDomainPrefixedPath(p.Child("managedBy"), *s.ManagedBy)...)
		if len(*s.ManagedBy) > maxManagedBy {
			errs = append(errs, field.TooLong(p.Child("managedBy"), *s.ManagedBy, maxManagedBy))
		}
	}
	errs = append(errs, completionMode(s, p)...)
	if s.PodFailurePolicy != nil {
		errs = append(errs, failurePolicy(s, p.Child("podFailurePolicy"))...)
	}
	if s.SuccessPolicy != nil {
		errs = append(errs, successPolicy(s, p.Child("successPolicy"))...)
	}
	if r := s.PodReplacementPolicy; r != nil {
		allowed := []batchv1.PodReplacementPolicy{batchv1.Failed, batchv1.TerminatingOrFailed}
		if s.PodFailurePolicy != nil {
			allowed = allowed[:1] // a pod that is ending cannot be judged yet
		}
		errs = append(errs, supported(p.Child("podReplacementPolicy"), *r, allowed...)...)
	}
	errs = append(errs, podTemplate(&s.Template, p.Child("template"))...)
	return append(errs, jobRestartPolicy(s, p.Child("template", "spec", "restartPolicy"))...)
}

func jobRestartPolicy(s *batchv1.JobSpec, p *field.Path) field.ErrorList {
	switch r := s.Template.Spec.RestartPolicy; {
	case r == "" || r == corev1.RestartPolicyAlways:
		return field.ErrorList{field.Required(p, fmt.Sprintf("valid values: %q, %q", corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever))}
	case r != corev1.RestartPolicyOnFailure && r != corev1.RestartPolicyNever:
		return field.ErrorList{field.NotSupported(p, r, []corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever})}
	case s.PodFailurePolicy != nil && r != corev1.RestartPolicyNever:
		return field.ErrorList{field.Invalid(p, r, fmt.Sprintf("only %q is supported when podFailurePolicy is specified", corev1.RestartPolicyNever))}
	}
	return nil
}

func completionMode(s *batchv1.JobSpec, p *field.Path) field.ErrorList {
	if !indexed(s) {
		var errs field.ErrorList
		if s.CompletionMode != nil {
			errs = append(errs, supported(p.Child("completionMode"), *s.CompletionMode, batchv1.NonIndexedCompletion, batchv1.IndexedCompletion)...)
		}
		if s.BackoffLimitPerIndex != nil {
			errs = append(errs, field.Invalid(p.Child("backoffLimitPerIndex"), *s.BackoffLimitPerIndex, "requires indexed completion mode"))
		}
		if s.MaxFailedIndexes != nil {
			errs = append(errs, field.Invalid(p.Child("maxFailedIndexes"), *s.MaxFailedIndexes, "requires indexed completion mode"))
		}
		return errs
	}
	if s.Completions == nil {
		return field.ErrorList{field.Required(p.Child("completions"), fmt.Sprintf("when completion mode is %s", batchv1.IndexedCompletion))}
	}
	var errs field.ErrorList
	if s.Parallelism != nil && *s.Parallelism > maxIndexedParallelism {
		errs = append(errs, field.Invalid(p.Child("parallelism"), *s.Parallelism, fmt.Sprintf("must be less than or equal to %d when completion mode is %s", maxIndexedParallelism, batchv1.IndexedCompletion)))
	}
	if m := s.MaxFailedIndexes; m != nil && *m > *s.Completions {
		errs = append(errs, field.Invalid(p.Child("maxFailedIndexes"), *m, "must be less than or equal to completions"))
	}
	if m := s.MaxFailedIndexes; m != nil && *m > maxFailedIndexes {
		errs = append(errs, field.Invalid(p.Child("maxFailedIndexes"), *m, fmt.Sprintf("must be less than or equal to %d", maxFailedIndexes)))
	}
	if *s.Completions <= manyCompletions || s.BackoffLimitPerIndex == nil {
		return errs
	}
	tooMany := fmt.Sprintf("must be less than or equal to %d when completions are above %d and used with backoff limit per index", maxOfMany, manyCompletions)
	if s.MaxFailedIndexes == nil {
		errs = append(errs, field.Required(p.Child("maxFailedIndexes"), fmt.Sprintf("must be specified when completions are above %d", manyCompletions)))
	}
	if s.Parallelism != nil && *s.Parallelism > maxOfMany {
		errs = append(errs, field.Invalid(p.Child("parallelism"), *s.Parallelism, tooMany))
	}
	if m := s.MaxFailedIndexes; m != nil && *m > maxOfMany {
		errs = append(errs, field.Invalid(p.Child("maxFailedIndexes"), *m, tooMany))
	}
	return errs
}

// jobUpdate keeps what a running job's pods and counts rest upon.
func jobUpdate(j, old *batchv1.Job) field.ErrorList {
	s, was := &j.Spec, &old.Spec
	errs := wholeJobSpec(s)
	errs = append(errs, completionsUpdate(s, was)...)
	for _, f := range []struct {
		name     string
		now, was any
	}{
		{"selector", s.Selector, was.Selector},
		{"template", &s.Template, mutableTemplate(j, old)},
		{"completionMode", s.CompletionMode, was.CompletionMode},
		{"podFailurePolicy", s.PodFailurePolicy, was.PodFailurePolicy},
		{"backoffLimitPerIndex", s.BackoffLimitPerIndex, was.BackoffLimitPerIndex},
		{"managedBy", s.ManagedBy, was.ManagedBy},
		{"successPolicy", s.SuccessPolicy, was.SuccessPolicy},
	} {
		errs = append(errs, immutable(spec().Child(f.name), f.now, f.was)...)
	}
	return errs
}

// completionsUpdate lets an indexed job grow and shrink, if it runs all its indexes at a time.
func completionsUpdate(s, was *batchv1.JobSpec) field.ErrorList {
	at := spec().Child("completions")
	if !indexed(s) {
		return immutable(at, s.Completions, was.Completions)
	}
	if equality.Semantic.DeepEqual(s.Completions, was.Completions) {
		return nil
	}
	if s.Completions == nil || s.Parallelism == nil || *s.Completions != *s.Parallelism {
		return field.ErrorList{field.Invalid(at, s.Completions, "can only be modified in tandem with spec.parallelism")}
	}
	return nil
}

// mutableTemplate is the old template with what the new one may change: while a job is suspended and has no pods, where they
// will go and how much they will get.
func mutableTemplate(j, old *batchv1.Job) *corev1.PodTemplateSpec {
	kept := old.Spec.Template.DeepCopy()
	if old.Spec.Suspend == nil || !*old.Spec.Suspend || !withoutPods(old) {
		return kept
	}
	t := &j.Spec.Template
	kept.Annotations, kept.Labels = t.Annotations, t.Labels
	kept.Spec.NodeSelector, kept.Spec.Tolerations, kept.Spec.SchedulingGates = t.Spec.NodeSelector, t.Spec.Tolerations, t.Spec.SchedulingGates
	var affinity *corev1.NodeAffinity
	if t.Spec.Affinity != nil {
		affinity = t.Spec.Affinity.NodeAffinity
	}
	switch a := kept.Spec.Affinity; {
	case a == nil && t.Spec.Affinity != nil:
		kept.Spec.Affinity = &corev1.Affinity{NodeAffinity: affinity}
	case a != nil:
		a.NodeAffinity = affinity
		if t.Spec.Affinity == nil && a.PodAffinity == nil && a.PodAntiAffinity == nil {
			kept.Spec.Affinity = nil
		}
	}
	keepResources(kept.Spec.Containers, t.Spec.Containers)
	keepResources(kept.Spec.InitContainers, t.Spec.InitContainers)
	return kept
}

// withoutPods says whether a suspended job has none: it never started, or they are gone since.
func withoutPods(j *batchv1.Job) bool {
	if j.Status.StartTime == nil {
		return true
	}
	for _, c := range j.Status.Conditions {
		if c.Type == batchv1.JobSuspended && c.Status == corev1.ConditionTrue {
			return j.Status.Active == 0
		}
	}
	return false
}

func keepResources(to, from []corev1.Container) {
	for i := range to {
		if i < len(from) && to[i].Name == from[i].Name {
			to[i].Resources = from[i].Resources
		}
	}
}
