package job

import (
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/cmd/controllers/podset"
)

// burst is the most pods made or deleted in one sync.
const burst = 500

// View is all that the decision about a Job rests on.
type View struct {
	Job *batchv1.Job
	// Pods are those that the Job controls.
	Pods []*corev1.Pod
	// Row is what the last plan said of failures, as their pods may be gone since.
	Row row
	// Settled tells that Pods shows all that was done to them. Otherwise none is made or deleted.
	Settled bool
	Now     time.Time
}

// Plan is what one sync does, in this order. A pod is counted only once its UID (or index) is in the status, and let
// go only then; so the plan may be cut off anywhere, and the next sync goes on.
type Plan struct {
	Status batchv1.JobStatus
	// Release are ended pods that the status remembers: their finalizer can go.
	Release []*corev1.Pod
	// Drop are active pods too many. They end uncounted: they lose their finalizer first.
	Drop []*corev1.Pod
	// Kill are active pods of a Job that is ending. They are counted as they end.
	Kill   []*corev1.Pod
	Create []creation
	// Again is when to look again though nothing happens; 0 is never.
	Again time.Duration
	// Events are told once Status is written.
	Events []event
	// Row is for the next View.
	Row row
}

// creation is a pod to make.
type creation struct {
	index            int // -1 for a Job that has none
	counted, ignored int // failures of that index so far
}

type event struct{ kind, reason, message string }

// Decide returns the next step of v's Job.
func Decide(v View) Plan {
	status := v.Job.Status.DeepCopy()
	p := &planner{View: v, status: status, tally: count(v.Job, status, v.Pods, v.Row)}
	resumed := p.observeSuspension()
	if status.StartTime == nil && !suspended(v.Job) || resumed {
		start := metav1.NewTime(v.Now)
		status.StartTime = &start
	}
	if p.announce(); !finishing(status) {
		p.lookAtDeadline()
		if v.Settled {
			p.scale()
		}
	} else if v.Settled {
		p.plan.Kill = p.active
	}
	status.Active, status.Ready = int32(len(p.active)), &p.ready
	leaving := int32(len(p.leaving))
	status.Terminating = &leaving
	p.conclude()
	p.plan.Status, p.plan.Release, p.plan.Row = *status, p.release, p.row
	return p.plan
}

// planner gathers a Plan.
type planner struct {
	View
	tally
	status *batchv1.JobStatus
	plan   Plan
}

func suspended(job *batchv1.Job) bool { return job.Spec.Suspend != nil && *job.Spec.Suspend }

// announced returns the condition of that type, where it is true.
func announced(status *batchv1.JobStatus, kind batchv1.JobConditionType) *batchv1.JobCondition {
	for i, c := range status.Conditions {
		if c.Type == kind && c.Status == corev1.ConditionTrue {
			return &status.Conditions[i]
		}
	}
	return nil
}

// finishing tells that it is decided how the Job ends.
func finishing(status *batchv1.JobStatus) bool {
	return announced(status, batchv1.JobSuccessCriteriaMet) != nil || announced(status, batchv1.JobFailureTarget) != nil
}

func (p *planner) condition(kind batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string) {
	now := metav1.NewTime(p.Now)
	c := batchv1.JobCondition{Type: kind, Status: status, Reason: reason, Message: message, LastProbeTime: now, LastTransitionTime: now}
	if i := slices.IndexFunc(p.status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == kind }); i >= 0 {
		p.status.Conditions[i] = c
		return
	}
	p.status.Conditions = append(p.status.Conditions, c)
}

// observeSuspension keeps the Suspended condition, and tells whether the Job goes on again.
func (p *planner) observeSuspension() (resumed bool) {
	was := announced(p.status, batchv1.JobSuspended) != nil
	switch {
	case suspended(p.Job) && !was && !finishing(p.status):
		p.condition(batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended")
		p.plan.Events = append(p.plan.Events, event{corev1.EventTypeNormal, "Suspended", "Job suspended"})
	case !suspended(p.Job) && was:
		p.condition(batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed")
		p.plan.Events = append(p.plan.Events, event{corev1.EventTypeNormal, "Resumed", "Job resumed"})
		return true
	}
	return false
}

// announce adds the condition that says how the Job will end, where that is decided now.
func (p *planner) announce() {
	if finishing(p.status) {
		return
	}
	if reason, message := p.failed(); reason != "" {
		p.condition(batchv1.JobFailureTarget, corev1.ConditionTrue, reason, message)
		return
	}
	if rule, met := enough(p.Job.Spec.SuccessPolicy, p.done, completions(p.Job)); met && indexed(p.Job) {
		p.condition(batchv1.JobSuccessCriteriaMet, corev1.ConditionTrue, batchv1.JobReasonSuccessPolicy, fmt.Sprintf("Matched rules at index %d", rule))
		return
	}
	complete := p.succeeded > 0 && !suspended(p.Job) // a work queue is done when one has succeeded and all have ended
	if p.Job.Spec.Completions != nil {
		complete = p.succeeded >= completions(p.Job)
	}
	if complete && p.Settled && len(p.active) == 0 {
		p.condition(batchv1.JobSuccessCriteriaMet, corev1.ConditionTrue, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
	}
}

// failed says why the Job has failed, "" where it has not.
func (p *planner) failed() (reason, message string) {
	limit := int32(6)
	if p.Job.Spec.BackoffLimit != nil {
		limit = *p.Job.Spec.BackoffLimit
	}
	inPlace := p.Job.Spec.Template.Spec.RestartPolicy == corev1.RestartPolicyOnFailure && p.restarts > 0 && p.restarts >= limit
	switch most := p.Job.Spec.MaxFailedIndexes; {
	case p.fatal != "":
		return batchv1.JobReasonPodFailurePolicy, p.fatal
	case p.tally.failed > int(limit) || inPlace:
		return batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit"
	case p.deadlineIn() == 0:
		return batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline"
	case perIndex(p.Job) && most != nil && p.broken.total() > int(*most):
		return batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes"
	case perIndex(p.Job) && p.broken.total() > 0 && p.broken.total()+p.succeeded >= completions(p.Job):
		return batchv1.JobReasonFailedIndexes, "Job has failed indexes"
	}
	return "", ""
}

// deadlineIn is how long the Job may still be active, at least 0; -1 where it has no deadline.
func (p *planner) deadlineIn() time.Duration {
	if p.Job.Spec.ActiveDeadlineSeconds == nil || p.status.StartTime == nil || suspended(p.Job) {
		return -1
	}
	end := p.status.StartTime.Add(time.Duration(*p.Job.Spec.ActiveDeadlineSeconds) * time.Second)
	return max(end.Sub(p.Now), 0)
}

func (p *planner) lookAtDeadline() {
	if left := p.deadlineIn(); left >= 0 {
		p.again(left + time.Millisecond)
	}
}

func (p *planner) again(in time.Duration) {
	if p.plan.Again == 0 || in < p.plan.Again {
		p.plan.Again = in
	}
}

// conclude adds the last condition once no pod is left that could change a count.
func (p *planner) conclude() {
	u := p.status.UncountedTerminatedPods
	if len(p.active)+len(p.leaving)+len(u.Succeeded)+len(u.Failed) > 0 || p.pending || !p.Settled || !finishing(p.status) {
		return
	}
	end := metav1.NewTime(p.Now)
	if p.status.StartTime == nil { // suspended from its creation to its end
		p.status.StartTime = &end
	}
	if c := announced(p.status, batchv1.JobSuccessCriteriaMet); c != nil {
		p.status.CompletionTime = &end
		p.condition(batchv1.JobComplete, corev1.ConditionTrue, c.Reason, c.Message)
		p.plan.Events = append(p.plan.Events, event{corev1.EventTypeNormal, "Completed", "Job completed"})
	} else if c := announced(p.status, batchv1.JobFailureTarget); c != nil {
		p.condition(batchv1.JobFailed, corev1.ConditionTrue, c.Reason, c.Message)
		p.plan.Events = append(p.plan.Events, event{corev1.EventTypeWarning, c.Reason, c.Message})
	}
}

// scale decides which pods come or go while the Job runs.
func (p *planner) scale() {
	if suspended(p.Job) {
		p.plan.Drop = p.active[:min(len(p.active), burst)]
		return
	}
	want := p.wanted()
	if drop := p.tooMany(want); len(drop) > 0 {
		p.plan.Drop = drop[:min(len(drop), burst)]
		return
	}
	missing := want - len(p.active)
	if replaceLate(p.Job) {
		missing -= len(p.leaving)
	}
	if missing <= 0 {
		return
	}
	missing = min(missing, burst)
	if perIndex(p.Job) {
		p.createWithPauses(missing)
		return
	}
	if wait := p.row.last.Add(pause(p.row.failures)).Sub(p.Now); p.row.failures > 0 && wait > 0 {
		p.again(wait)
		return
	}
	if !indexed(p.Job) {
		p.plan.Create = slices.Repeat([]creation{{index: -1}}, missing)
		return
	}
	for _, n := range p.taken().missing(missing, completions(p.Job)) {
		p.plan.Create = append(p.plan.Create, creation{index: n})
	}
}

// wanted is how many pods should be active.
func (p *planner) wanted() int {
	parallel := 1
	if p.Job.Spec.Parallelism != nil {
		parallel = int(*p.Job.Spec.Parallelism)
	}
	if p.Job.Spec.Completions != nil {
		return max(min(parallel, completions(p.Job)-p.succeeded-p.broken.total()), 0)
	}
	if p.succeeded > 0 {
		return min(parallel, len(p.active)) // one has succeeded: the others finish, no more begin
	}
	return parallel
}

// tooMany lists the active pods beyond want, and those whose index is another's, done, or none.
func (p *planner) tooMany(want int) []*corev1.Pod {
	ranked := slices.Clone(p.active)
	podset.Rank(ranked, nil, p.Now)
	var drop []*corev1.Pod
	if indexed(p.Job) {
		over, seen := p.done.union(p.broken), map[int]bool{}
		var keep []*corev1.Pod
		for _, pod := range slices.Backward(ranked) { // the best of an index stays
			n := indexOf(p.Job, pod)
			if n < 0 || seen[n] || over.has(n) {
				drop = append(drop, pod)
				continue
			}
			seen[n] = true
			keep = append(keep, pod)
		}
		slices.Reverse(keep)
		ranked = keep
	}
	return append(drop, ranked[:max(len(ranked)-want, 0)]...)
}

// taken are the indexes that need no pod now.
func (p *planner) taken() indexes {
	var busy []int
	note := func(pods []*corev1.Pod) {
		for _, pod := range pods {
			if n := indexOf(p.Job, pod); n >= 0 {
				busy = append(busy, n)
			}
		}
	}
	if note(p.active); replaceLate(p.Job) {
		note(p.leaving)
	}
	return indexesOf(busy...).union(p.done, p.broken)
}

// createWithPauses makes pods for indexes that have paused for long enough since they failed.
func (p *planner) createWithPauses(missing int) {
	end := completions(p.Job)
	taken := p.taken()
	var resting []int
	for n, f := range p.last {
		if wait := f.at.Add(pause(f.counted + f.ignored)).Sub(p.Now); wait > 0 && !taken.has(n) {
			p.again(wait)
			resting = append(resting, n)
		}
	}
	for _, n := range taken.union(indexesOf(resting...)).missing(missing, end) {
		f := p.last[n]
		p.plan.Create = append(p.plan.Create, creation{index: n, counted: f.counted, ignored: f.ignored})
	}
}
