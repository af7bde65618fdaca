package cronjob

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// tooMany is how many missed times deserve a warning.
const tooMany = 100

// soon is added to waits, so that the clock has passed the time when we look again.
const soon = 100 * time.Millisecond

// View is all that the decision about a CronJob rests on.
type View struct {
	CronJob *batchv1.CronJob
	// Jobs are those that the CronJob controls, with all that its status calls active and that exist.
	Jobs []*batchv1.Job
	Now  time.Time
}

// Plan is what one sync does, in this order. The status is written last: where the sync is cut off before, the next
// one finds the Job of the same time by its name.
type Plan struct {
	// Delete are finished Jobs beyond the history's limits, and active ones that the next replaces.
	Delete []*batchv1.Job
	// Start is the time whose Job is to be made, nil where there is none to make.
	Start  *time.Time
	Status batchv1.CronJobStatus
	Events []event
	// Again is when to look again though nothing happens; 0 is never.
	Again time.Duration
}

type event struct{ kind, reason, message string }

func (p *Plan) tell(kind, reason, format string, args ...any) {
	p.Events = append(p.Events, event{kind, reason, fmt.Sprintf(format, args...)})
}

// Decide returns the next step of v's CronJob.
func Decide(v View) Plan {
	p := Plan{Status: *v.CronJob.Status.DeepCopy()}
	active := p.observe(v)
	if p.noteTimes(v.Jobs, v.Now) {
		return p // first of all: once such a Job is deleted, nothing else says that its time was served
	}
	p.Delete = surplus(v.CronJob, v.Jobs)
	if v.CronJob.DeletionTimestamp != nil {
		return p
	}
	loc := time.Local
	if zone := v.CronJob.Spec.TimeZone; zone != nil {
		var err error
		if loc, err = time.LoadLocation(*zone); err != nil {
			p.tell(corev1.EventTypeWarning, "UnknownTimeZone", "invalid timeZone: %q: %s", *zone, err)
			return p
		}
	}
	if v.CronJob.Spec.Suspend != nil && *v.CronJob.Spec.Suspend {
		return p
	}
	when, loc, err := read(v.CronJob.Spec.Schedule, loc)
	if err != nil {
		p.tell(corev1.EventTypeWarning, "UnparseableSchedule", "unparseable schedule: %q : %s", v.CronJob.Spec.Schedule, err)
		return p
	}
	p.schedule(v, active, when, loc)
	return p
}

// read parses text, which older objects may begin with a zone of their own.
func read(text string, loc *time.Location) (schedule, *time.Location, error) {
	for _, prefix := range []string{"TZ=", "CRON_TZ="} {
		if rest, ok := strings.CutPrefix(text, prefix); ok {
			zone, fields, _ := strings.Cut(rest, " ")
			own, err := time.LoadLocation(zone)
			if err != nil {
				return nil, nil, fmt.Errorf("provided bad location %s: %w", zone, err)
			}
			text, loc = fields, own
		}
	}
	when, err := parse(text)
	return when, loc, err
}

// observe brings the list of active Jobs up to date and returns those Jobs.
func (p *Plan) observe(v View) (active []*batchv1.Job) {
	byUID := map[types.UID]*batchv1.Job{}
	for _, job := range v.Jobs {
		byUID[job.UID] = job
	}
	listed := map[types.UID]bool{}
	p.Status.Active = slices.DeleteFunc(p.Status.Active, func(ref corev1.ObjectReference) bool {
		listed[ref.UID] = true
		job := byUID[ref.UID]
		switch {
		case job == nil:
			p.tell(corev1.EventTypeNormal, "MissingJob", "Active job went missing: %v", ref.Name)
			return true
		case ended(job) != nil:
			p.tell(corev1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %v", job.Name, ended(job).Type)
			return true
		}
		active = append(active, job)
		return false
	})
	for _, job := range v.Jobs {
		_, ours := job.Annotations[batchv1.CronJobScheduledTimestampAnnotation]
		switch end := ended(job); {
		case end != nil && end.Type == batchv1.JobComplete && job.Status.CompletionTime != nil:
			if last := p.Status.LastSuccessfulTime; last == nil || job.Status.CompletionTime.After(last.Time) {
				p.Status.LastSuccessfulTime = job.Status.CompletionTime.DeepCopy()
			}
		case end != nil || listed[job.UID]:
		case ours: // made by us, and then we stopped before we could note it
			p.Status.Active = append(p.Status.Active, reference(job))
			active = append(active, job)
		default:
			p.tell(corev1.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", job.Name)
		}
	}
	return active
}

// noteTimes makes the last time that was served that of the newest of jobs, and tells whether it was not. The sync that made
// that one was cut off before it could say so.
func (p *Plan) noteTimes(jobs []*batchv1.Job, now time.Time) (changed bool) {
	for _, job := range jobs {
		at, err := time.Parse(time.RFC3339, job.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
		if last := p.Status.LastScheduleTime; err == nil && !at.After(now) && (last == nil || at.After(last.Time)) {
			p.Status.LastScheduleTime, changed = &metav1.Time{Time: at}, true
		}
	}
	return changed
}

// schedule decides about the newest time that has come.
func (p *Plan) schedule(v View, active []*batchv1.Job, when schedule, loc *time.Location) {
	now := v.Now.In(loc)
	next := when.next(now)
	if next.IsZero() {
		p.tell(corev1.EventTypeWarning, "InvalidSchedule", "invalid schedule: %s : time difference between two schedules is less than 1 second", v.CronJob.Spec.Schedule)
		return
	}
	p.Again = next.Sub(now) + soon
	due, missed := newest(v.CronJob, when, now)
	if missed > tooMany {
		p.tell(corev1.EventTypeWarning, "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	if due.IsZero() {
		return
	}
	if d := v.CronJob.Spec.StartingDeadlineSeconds; d != nil && due.Add(time.Duration(*d)*time.Second).Before(now) {
		p.tell(corev1.EventTypeWarning, "MissSchedule", "Missed scheduled time to start a job: %s", due.UTC().Format(time.RFC1123Z))
		return
	}
	name := nameAt(v.CronJob, due)
	if slices.ContainsFunc(v.Jobs, func(j *batchv1.Job) bool { return j.Name == name }) {
		p.Status.LastScheduleTime = &metav1.Time{Time: due} // made before; only the note is missing
		return
	}
	switch policy := v.CronJob.Spec.ConcurrencyPolicy; {
	case policy == batchv1.ForbidConcurrent && len(active) > 0:
		p.tell(corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
		return
	case policy == batchv1.ReplaceConcurrent:
		p.Delete = append(p.Delete, active...)
		p.Status.Active = nil
	}
	p.Start = &due
	p.Status.LastScheduleTime = &metav1.Time{Time: due}
}

// newest is the last time up to now that cron has not been served, zero where there is none, and about how many
// there are; those above tooMany are not told apart.
func newest(cron *batchv1.CronJob, when schedule, now time.Time) (time.Time, int) {
	since := cron.CreationTimestamp.Time
	if last := cron.Status.LastScheduleTime; last != nil {
		since = last.Time
	}
	if d := cron.Spec.StartingDeadlineSeconds; d != nil {
		if from := now.Add(-time.Duration(*d) * time.Second); from.After(since) {
			since = from
		}
	}
	since = since.In(now.Location())
	missed := 0
	for t := when.next(since); !t.IsZero() && !t.After(now) && missed <= tooMany; t = when.next(t) {
		missed++
	}
	if missed == 0 {
		return time.Time{}, 0
	}
	// Back in steps that grow, lest a year of minutes be walked through.
	from := since
	for back := time.Hour; back > 0 && now.Add(-back).After(since); back *= 4 {
		if t := when.next(now.Add(-back)); !t.IsZero() && !t.After(now) {
			if _, constant := when.(every); !constant { // an interval counts from its last time
				from = now.Add(-back)
			}
			break
		}
	}
	var last time.Time
	for t := when.next(from); !t.IsZero() && !t.After(now); t = when.next(t) {
		last = t
	}
	return last, missed
}

// nameAt is the name of cron's Job of that time.
func nameAt(cron *batchv1.CronJob, at time.Time) string {
	return fmt.Sprintf("%s-%d", cron.Name, at.Unix()/60)
}

// ended returns the condition that a Job ended with, nil where it has not.
func ended(job *batchv1.Job) *batchv1.JobCondition {
	for i, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return &job.Status.Conditions[i]
		}
	}
	return nil
}

// surplus lists the finished Jobs that the history has no room for, the oldest of each kind.
func surplus(cron *batchv1.CronJob, jobs []*batchv1.Job) (gone []*batchv1.Job) {
	for kind, limit := range map[batchv1.JobConditionType]*int32{
		batchv1.JobComplete: cron.Spec.SuccessfulJobsHistoryLimit, batchv1.JobFailed: cron.Spec.FailedJobsHistoryLimit,
	} {
		if limit == nil {
			continue
		}
		var over []*batchv1.Job
		for _, job := range jobs {
			if end := ended(job); end != nil && end.Type == kind && job.DeletionTimestamp == nil {
				over = append(over, job)
			}
		}
		slices.SortFunc(over, func(a, b *batchv1.Job) int {
			return cmp.Or(begin(a).Compare(begin(b)), cmp.Compare(a.Name, b.Name))
		})
		gone = append(gone, over[:max(len(over)-int(*limit), 0)]...)
	}
	slices.SortFunc(gone, func(a, b *batchv1.Job) int { return cmp.Compare(a.Name, b.Name) })
	return gone
}

func begin(job *batchv1.Job) time.Time {
	if job.Status.StartTime == nil {
		return job.CreationTimestamp.Time
	}
	return job.Status.StartTime.Time
}

func reference(job *batchv1.Job) corev1.ObjectReference {
	return corev1.ObjectReference{APIVersion: "batch/v1", Kind: "Job", Namespace: job.Namespace, Name: job.Name, UID: job.UID, ResourceVersion: job.ResourceVersion}
}

// jobAt is cron's Job of that time, whose location is the schedule's.
func jobAt(cron *batchv1.CronJob, at time.Time) *batchv1.Job {
	template := cron.Spec.JobTemplate.DeepCopy()
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{
		Namespace: cron.Namespace, Name: nameAt(cron, at), Labels: template.Labels, Annotations: template.Annotations,
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cron, batchv1.SchemeGroupVersion.WithKind("CronJob"))},
	}, Spec: template.Spec}
	if job.Annotations == nil {
		job.Annotations = map[string]string{}
	}
	job.Annotations[batchv1.CronJobScheduledTimestampAnnotation] = at.Format(time.RFC3339)
	return job
}
