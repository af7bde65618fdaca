package validation

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// jobStatus judges what a job's controller says of it, which may be anybody's (spec.managedBy). Rules that older controllers broke are
// applied to what changes only, so that jobs of then can still be updated.
func jobStatus(j, old *batchv1.Job) field.ErrorList {
	s, was := &j.Status, &old.Status
	errs := jobCounts(s)
	errs = append(errs, jobProgress(j, old)...)
	errs = append(errs, jobIndexes(j, old)...)
	errs = append(errs, jobConditions(j, old)...)
	if finished(s) && !finished(was) {
		errs = append(errs, jobFinish(s)...)
	}
	return append(errs, jobTimes(j, old)...)
}

func jobIs(s *batchv1.JobStatus, t batchv1.JobConditionType) bool {
	for _, c := range s.Conditions {
		if c.Type == t {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func finished(s *batchv1.JobStatus) bool {
	return jobIs(s, batchv1.JobComplete) || jobIs(s, batchv1.JobFailed)
}

func jobCounts(s *batchv1.JobStatus) field.ErrorList {
	errs := nonNegative(status().Child("active"), int64(s.Active))
	errs = append(errs, nonNegative(status().Child("succeeded"), int64(s.Succeeded))...)
	errs = append(errs, nonNegative(status().Child("failed"), int64(s.Failed))...)
	errs = append(errs, nonNegativePtr(status().Child("ready"), s.Ready)...)
	errs = append(errs, nonNegativePtr(status().Child("terminating"), s.Terminating)...)
	if s.UncountedTerminatedPods == nil {
		return errs
	}
	at := status().Child("uncountedTerminatedPods")
	seen := sets.New[types.UID]()
	for _, list := range []struct {
		name string
		uids []types.UID
	}{{"succeeded", s.UncountedTerminatedPods.Succeeded}, {"failed", s.UncountedTerminatedPods.Failed}} {
		for i, uid := range list.uids {
			if uid == "" {
				errs = append(errs, field.Required(at.Child(list.name).Index(i), ""))
			} else if seen.Has(uid) {
				errs = append(errs, field.Duplicate(at.Child(list.name).Index(i), uid))
			}
			seen.Insert(uid)
		}
	}
	return errs
}

// jobProgress holds that counts only rise, that no more pods are ready than active.
func jobProgress(j, old *batchv1.Job) field.ErrorList {
	var errs field.ErrorList
	s, was := &j.Status, &old.Status
	// An indexed job that shrinks forgets what its last indexes did.
	shrunk := indexed(&j.Spec)
	if s.Succeeded < was.Succeeded && !shrunk {
		errs = append(errs, field.Invalid(status().Child("succeeded"), s.Succeeded, "cannot decrease the succeeded counter"))
	}
	if s.Failed < was.Failed {
		errs = append(errs, field.Invalid(status().Child("failed"), s.Failed, "cannot decrease the failed counter"))
	}
	if s.Ready != nil && *s.Ready > s.Active && !equality.Semantic.DeepEqual(s.Ready, was.Ready) {
		errs = append(errs, field.Invalid(status().Child("ready"), *s.Ready, "cannot set more ready pods than active"))
	}
	return errs
}

func jobIndexes(j, old *batchv1.Job) field.ErrorList {
	var errs field.ErrorList
	s := &j.Status
	completedAt, failedAt := status().Child("completedIndexes"), status().Child("failedIndexes")
	if s.CompletedIndexes != old.Status.CompletedIndexes && s.CompletedIndexes != "" && !indexed(&j.Spec) {
		errs = append(errs, field.Invalid(completedAt, s.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode"))
	}
	failedChanged := !equality.Semantic.DeepEqual(s.FailedIndexes, old.Status.FailedIndexes)
	if failedChanged && s.FailedIndexes != nil && j.Spec.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Invalid(failedAt, *s.FailedIndexes, "cannot set non-null failedIndexes when backoffLimitPerIndex is null"))
	}
	if !indexed(&j.Spec) || j.Spec.Completions == nil || s.CompletedIndexes == old.Status.CompletedIndexes && !failedChanged {
		return errs
	}
	completed, err := parseIndexes(s.CompletedIndexes, *j.Spec.Completions)
	if err != nil {
		errs = append(errs, field.Invalid(completedAt, s.CompletedIndexes, fmt.Sprintf("error parsing completedIndexes: %s", err)))
	}
	if s.FailedIndexes == nil {
		return errs
	}
	failed, err := parseIndexes(*s.FailedIndexes, *j.Spec.Completions)
	if err != nil {
		errs = append(errs, field.Invalid(failedAt, *s.FailedIndexes, fmt.Sprintf("error parsing failedIndexes: %s", err)))
	}
	if i, both := completed.common(failed); both {
		errs = append(errs, field.Invalid(failedAt, *s.FailedIndexes, fmt.Sprintf("failedIndexes and completedIndexes overlap at index: %d", i)))
	}
	return errs
}

// jobConditions holds that an end is announced before it comes, that there is one end, and that it stays.
func jobConditions(j, old *batchv1.Job) field.ErrorList {
	s, was := &j.Status, &old.Status
	at := status().Child("conditions")
	var errs field.ErrorList
	refuse := func(bad bool, detail string) {
		if bad {
			errs = append(errs, field.Invalid(at, field.OmitValueType{}, detail))
		}
	}
	for _, t := range []batchv1.JobConditionType{batchv1.JobFailed, batchv1.JobComplete, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet} {
		terminal := ""
		if t == batchv1.JobFailed || t == batchv1.JobComplete {
			terminal = "terminal "
		}
		refuse(jobIs(was, t) && !jobIs(s, t), fmt.Sprintf("cannot disable the %s%s=True condition", terminal, t))
	}
	now := func(t batchv1.JobConditionType) bool { return jobIs(s, t) && !jobIs(was, t) }
	complete, failed := jobIs(s, batchv1.JobComplete), jobIs(s, batchv1.JobFailed)
	target, success := jobIs(s, batchv1.JobFailureTarget), jobIs(s, batchv1.JobSuccessCriteriaMet)
	if now(batchv1.JobComplete) || now(batchv1.JobFailed) || now(batchv1.JobFailureTarget) || now(batchv1.JobSuccessCriteriaMet) {
		refuse(complete && failed, "cannot set Complete=True and Failed=true conditions")
		refuse(complete && target, "cannot set Complete=True and FailureTarget=true conditions")
		refuse(failed && success, "cannot set Failed=True and SuccessCriteriaMet=true conditions")
		refuse(target && success && !complete && !failed, "cannot set FailureTarget=True and SuccessCriteriaMet=true conditions")
	}
	refuse(now(batchv1.JobFailed) && !target, "cannot set Failed=True condition without the FailureTarget=true condition")
	refuse(now(batchv1.JobComplete) && !success, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
	seen := sets.New[batchv1.JobConditionType]()
	for i, c := range s.Conditions {
		if seen.Has(c.Type) {
			errs = append(errs, field.Duplicate(at.Index(i).Child("type"), c.Type))
		}
		seen.Insert(c.Type)
	}
	return errs
}

// jobFinish judges a job that ends with this update.
func jobFinish(s *batchv1.JobStatus) field.ErrorList {
	var errs field.ErrorList
	if s.Active > 0 {
		errs = append(errs, field.Invalid(status().Child("active"), s.Active, "active>0 is invalid for finished job"))
	}
	if s.Terminating != nil && *s.Terminating > 0 {
		errs = append(errs, field.Invalid(status().Child("terminating"), s.Terminating, "terminating>0 is invalid for finished job"))
	}
	if s.StartTime == nil {
		errs = append(errs, field.Required(status().Child("startTime"), "startTime is required for finished job"))
	}
	if u := s.UncountedTerminatedPods; u != nil && len(u.Failed)+len(u.Succeeded) > 0 {
		errs = append(errs, field.Invalid(status().Child("uncountedTerminatedPods"), u, "uncountedTerminatedPods needs to be empty for finished job"))
	}
	if jobIs(s, batchv1.JobComplete) && s.CompletionTime == nil {
		errs = append(errs, field.Required(status().Child("completionTime"), "completionTime is required for Complete jobs"))
	}
	return errs
}

func jobTimes(j, old *batchv1.Job) field.ErrorList {
	var errs field.ErrorList
	s, was := &j.Status, &old.Status
	suspended := j.Spec.Suspend != nil && *j.Spec.Suspend
	// A job that is resumed starts anew.
	if !s.StartTime.Equal(was.StartTime) && was.StartTime != nil && !suspended && !jobIs(was, batchv1.JobSuspended) {
		if s.StartTime == nil {
			errs = append(errs, field.Required(status().Child("startTime"), "startTime cannot be removed for unsuspended job"))
		} else {
			errs = append(errs, field.Required(status().Child("startTime"), "startTime cannot be modified for unsuspended job"))
		}
	}
	at := status().Child("completionTime")
	if s.CompletionTime.Equal(was.CompletionTime) {
		return errs
	}
	if was.CompletionTime != nil && jobIs(was, batchv1.JobComplete) {
		errs = append(errs, field.Invalid(at, s.CompletionTime, "completionTime cannot be mutated"))
	}
	if s.CompletionTime != nil && !jobIs(s, batchv1.JobComplete) {
		errs = append(errs, field.Invalid(at, s.CompletionTime, "cannot set completionTime when there is no Complete=True condition"))
	}
	if s.CompletionTime != nil && s.StartTime != nil && s.CompletionTime.Before(s.StartTime) {
		errs = append(errs, field.Invalid(at, s.CompletionTime, "completionTime cannot be set before startTime"))
	}
	return errs
}
