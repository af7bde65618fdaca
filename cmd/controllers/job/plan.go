package job

import (
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/cmd/controllers/podset"
)

// The pause before a failed pod's successor doubles from the one to the other.
const (
	firstBackoff = 10 * time.Second
	lastBackoff  = 10 * time.Minute
)

// Plan is what one sync does, after Status has been written: a pod is counted only once
// its UID is in the status, and let go only then.
type Plan struct {
	Status batchv1.JobStatus
	// Release are ended pods that the status remembers: their finalizer can go.
	Release []*corev1.Pod
	Delete  []*corev1.Pod
	Create  int
	// Again is when to look again though nothing happens; 0 is never.
	Again time.Duration
	// Finished is the condition that this sync adds, nil when the Job goes on.
	Finished *batchv1.JobCondition
}

// tally is the Job's pods, counted.
type tally struct {
	active, ended     []*corev1.Pod
	ready, leaving    int32
	succeeded, failed int32
	lastFailure       time.Time
	restarts          int32
}

// Decide compares job with its pods at now.
func Decide(job *batchv1.Job, pods []*corev1.Pod, now time.Time) Plan {
	status := *job.Status.DeepCopy()
	plan := Plan{}
	if status.StartTime == nil && !suspended(job) {
		start := stamp(now)
		status.StartTime = &start
	}
	t := count(&status, pods)
	for _, pod := range t.ended {
		if slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer) {
			plan.Release = append(plan.Release, pod)
		}
	}
	plan.Finished = verdict(job, status, t, now)
	switch {
	case plan.Finished != nil || job.DeletionTimestamp != nil:
		plan.Delete = t.active
	case suspended(job):
		plan.Delete = t.active
		status.StartTime = nil
	default:
		plan.scale(job, t, now)
	}
	status.Active, status.Ready, status.Terminating = int32(len(t.active)), &t.ready, &t.leaving
	if plan.Finished != nil {
		zero := int32(0)
		status.Active, status.Ready = 0, &zero
		if finish(&status, plan.Finished, now); plan.Finished.Type != batchv1.JobComplete {
			status.CompletionTime = nil
		}
	}
	plan.Status = status
	return plan
}

func suspended(job *batchv1.Job) bool { return job.Spec.Suspend != nil && *job.Spec.Suspend }

// count sorts pods, takes ended ones into status as uncounted, and counts those whose
// finalizer is gone.
func count(status *batchv1.JobStatus, pods []*corev1.Pod) tally {
	var t tally
	if status.UncountedTerminatedPods == nil {
		status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	held := map[types.UID]bool{}
	for _, pod := range pods {
		tracked := slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer)
		held[pod.UID] = tracked
		over := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		switch {
		case over || pod.DeletionTimestamp != nil && tracked && pod.Spec.NodeName == "":
			t.ended = append(t.ended, pod)
			if tracked {
				remember(status.UncountedTerminatedPods, pod)
			}
			if pod.Status.Phase == corev1.PodFailed && endOf(pod).After(t.lastFailure) {
				t.lastFailure = endOf(pod)
			}
		case pod.DeletionTimestamp != nil:
			t.leaving++
		default:
			t.active = append(t.active, pod)
			if podset.Ready(pod) {
				t.ready++
			}
			for _, c := range pod.Status.ContainerStatuses {
				t.restarts += c.RestartCount
			}
		}
	}
	u := status.UncountedTerminatedPods
	settle := func(list []types.UID, counter *int32) []types.UID {
		return slices.DeleteFunc(list, func(uid types.UID) bool {
			if held[uid] {
				return false
			}
			*counter++
			return true
		})
	}
	u.Succeeded, u.Failed = settle(u.Succeeded, &status.Succeeded), settle(u.Failed, &status.Failed)
	t.succeeded, t.failed = status.Succeeded+int32(len(u.Succeeded)), status.Failed+int32(len(u.Failed))
	return t
}

func remember(u *batchv1.UncountedTerminatedPods, pod *corev1.Pod) {
	if slices.Contains(u.Succeeded, pod.UID) || slices.Contains(u.Failed, pod.UID) {
		return
	}
	if pod.Status.Phase == corev1.PodSucceeded {
		u.Succeeded = append(u.Succeeded, pod.UID)
		return
	}
	u.Failed = append(u.Failed, pod.UID)
}

func endOf(pod *corev1.Pod) time.Time {
	end := pod.CreationTimestamp.Time
	for _, c := range pod.Status.ContainerStatuses {
		if done := c.State.Terminated; done != nil && done.FinishedAt.After(end) {
			end = done.FinishedAt.Time
		}
	}
	return end
}

// verdict says how the Job ended, nil when it did not.
func verdict(job *batchv1.Job, status batchv1.JobStatus, t tally, now time.Time) *batchv1.JobCondition {
	limit := int32(6)
	if job.Spec.BackoffLimit != nil {
		limit = *job.Spec.BackoffLimit
	}
	failed := func(reason, message string) *batchv1.JobCondition {
		return &batchv1.JobCondition{Type: batchv1.JobFailed, Status: corev1.ConditionTrue, Reason: reason, Message: message}
	}
	onFailure := job.Spec.Template.Spec.RestartPolicy == corev1.RestartPolicyOnFailure
	switch {
	case t.failed > limit, onFailure && t.restarts > 0 && t.restarts >= limit:
		return failed(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	case status.StartTime != nil && job.Spec.ActiveDeadlineSeconds != nil &&
		now.Sub(status.StartTime.Time) >= time.Duration(*job.Spec.ActiveDeadlineSeconds)*time.Second:
		return failed(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
	case job.Spec.Completions != nil && t.succeeded >= *job.Spec.Completions,
		job.Spec.Completions == nil && t.succeeded > 0 && len(t.active) == 0:
		return &batchv1.JobCondition{Type: batchv1.JobComplete, Status: corev1.ConditionTrue,
			Reason: batchv1.JobReasonCompletionsReached, Message: "Reached expected number of succeeded pods"}
	}
	return nil
}

// scale decides how many pods come or go while the Job runs.
func (p *Plan) scale(job *batchv1.Job, t tally, now time.Time) {
	parallel := int32(1)
	if job.Spec.Parallelism != nil {
		parallel = *job.Spec.Parallelism
	}
	want := parallel
	if job.Spec.Completions != nil {
		want = min(want, *job.Spec.Completions-t.succeeded)
	} else if t.succeeded > 0 {
		want = min(want, int32(len(t.active))) // one has succeeded: the others finish, no more begin
	}
	if d := job.Spec.ActiveDeadlineSeconds; d != nil && job.Status.StartTime != nil {
		p.Again = max(job.Status.StartTime.Add(time.Duration(*d)*time.Second).Sub(now), 0) + time.Millisecond
	}
	diff := int(want) - len(t.active)
	if diff < 0 {
		ranked := slices.Clone(t.active)
		podset.Rank(ranked, nil, now)
		p.Delete = ranked[:-diff]
		return
	}
	if diff == 0 {
		return
	}
	if t.failed > 0 && !t.lastFailure.IsZero() {
		pause := firstBackoff
		for i := int32(1); i < t.failed && pause < lastBackoff; i++ {
			pause *= 2
		}
		if wait := t.lastFailure.Add(min(pause, lastBackoff)).Sub(now); wait > 0 {
			if p.Again == 0 || wait < p.Again {
				p.Again = wait
			}
			return
		}
	}
	p.Create = diff
}

// unsupported names what the Job asks for and is not built, "" if there is nothing. Running such a Job without it would
// do something else than was asked for.
func unsupported(job *batchv1.Job) string {
	switch m := job.Spec.CompletionMode; {
	case m != nil && *m == batchv1.IndexedCompletion:
		return "completionMode Indexed"
	case job.Spec.PodFailurePolicy != nil:
		return "podFailurePolicy"
	}
	return ""
}
