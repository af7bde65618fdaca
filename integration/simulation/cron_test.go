package simulation

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// cronPlot is of one CronJob. Whatever is late, lost or killed: no time has two Jobs, and where they may not run together they
// do not, as far as anybody knew.
type cronPlot struct {
	every int64 // minutes
	// served are the Jobs that there were, by name.
	served map[string]bool
}

func (p *cronPlot) parts() []string { return []string{"cronjob", "job", "garbagecollector"} }

func (p *cronPlot) discoverable() []string { return []string{"cronjobs", "jobs", "pods"} }

func (p *cronPlot) ownerless() {}

func (p *cronPlot) begin(s *story) {
	p.every, p.served = 1+s.rand.Int64N(3), map[string]bool{}
	cron := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "tick", Namespace: namespace}}
	cron.Spec = batchv1.CronJobSpec{Schedule: fmt.Sprintf("*/%d * * * *", p.every), Suspend: ptr.To(false),
		ConcurrencyPolicy:          pick(s, []batchv1.ConcurrencyPolicy{batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent}),
		SuccessfulJobsHistoryLimit: ptr.To(s.rand.Int32N(3)), FailedJobsHistoryLimit: ptr.To(s.rand.Int32N(2))}
	cron.Spec.JobTemplate.Spec = batchv1.JobSpec{Parallelism: ptr.To[int32](1), Completions: ptr.To[int32](1), BackoffLimit: ptr.To[int32](1), Suspend: ptr.To(false),
		CompletionMode: ptr.To(batchv1.NonIndexedCompletion), PodReplacementPolicy: ptr.To(batchv1.TerminatingOrFailed), Template: template("tick", "v0"),
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "tick"}}}
	cron.Spec.JobTemplate.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	if s.rand.IntN(3) == 0 {
		cron.Spec.StartingDeadlineSeconds = ptr.To(20 + s.rand.Int64N(200))
	}
	s.put("cronjobs", cron)
	s.note("user: CronJob of %s, %s, keeps %d and %d", cron.Spec.Schedule, cron.Spec.ConcurrencyPolicy, *cron.Spec.SuccessfulJobsHistoryLimit, *cron.Spec.FailedJobsHistoryLimit)
}

func (p *cronPlot) user(s *story) {
	switch n := s.rand.IntN(10); {
	case n == 0:
		edit(s.world, "cronjobs", "tick", func(c *batchv1.CronJob) {
			c.Spec.Suspend = ptr.To(!*c.Spec.Suspend)
			s.note("user: suspended %t", *c.Spec.Suspend)
		})
	case n == 1:
		edit(s.world, "cronjobs", "tick", func(c *batchv1.CronJob) {
			c.Spec.ConcurrencyPolicy = pick(s, []batchv1.ConcurrencyPolicy{batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent})
			s.note("user: %s", c.Spec.ConcurrencyPolicy)
		})
	default:
		s.settle(time.Duration(s.rand.IntN(90)) * time.Second)
	}
}

func (p *cronPlot) accident(s *story) {
	if jobs := all[*batchv1.Job](s.world, "jobs"); len(jobs) > 0 && s.rand.IntN(4) == 0 {
		job := pick(s, jobs)
		s.note("user: delete Job %s", job.Name)
		if p.served[job.Name] { // a Job that nobody noted before it was gone is made again
			p.served[job.Name] = false
		}
		s.end("jobs", job.Name, metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)})
	}
}

func (p *cronPlot) calm(s *story) {
	edit(s.world, "cronjobs", "tick", func(c *batchv1.CronJob) { c.Spec.Suspend = ptr.To(true) })
	s.note("user: suspended")
}

// over tells that a Job has ended.
func over(job *batchv1.Job) bool {
	for _, c := range job.Status.Conditions {
		if c.Status == corev1.ConditionTrue && (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) {
			return true
		}
	}
	return false
}

func (p *cronPlot) check(s *story, e effect) {
	if e.resource != "jobs" {
		return
	}
	switch e.verb {
	case "create":
		p.checkStart(s, e)
	case "delete":
		job := e.before.(*batchv1.Job)
		if why := e.excused(func(saw sight) string { return whyNotEnd(job, saw) }); why != "" {
			s.fail("%s", why)
		}
	}
}

// checkStart tells whether a Job should have been made.
func (p *cronPlot) checkStart(s *story, e effect) {
	name := e.out.GetName()
	minute, err := strconv.ParseInt(strings.TrimPrefix(name, "tick-"), 10, 64)
	if at := time.Unix(minute*60, 0); err != nil || minute%p.every != 0 || at.After(time.Now()) {
		s.fail("a Job %s, every %d minutes, at %v", name, p.every, time.Now().UTC())
	}
	if p.served[name] {
		s.fail("a second Job %s", name)
	}
	p.served[name] = true
	if why := e.excused(func(saw sight) string {
		cron, _ := saw["cronjobs"]["tick"].(*batchv1.CronJob)
		switch {
		case cron == nil:
			return "a Job of no CronJob"
		case *cron.Spec.Suspend:
			return fmt.Sprintf("a Job %s, and it was seen suspended", name)
		case cron.Spec.ConcurrencyPolicy != batchv1.ForbidConcurrent:
			return ""
		}
		for _, obj := range saw["jobs"] {
			if job := obj.(*batchv1.Job); !over(job) {
				return fmt.Sprintf("a Job %s, and %s ran", name, job.Name)
			}
		}
		return ""
	}); why != "" {
		s.fail("%s", why)
	}
}

// whyNotEnd says why a Job should have stayed.
func whyNotEnd(job *batchv1.Job, saw sight) string {
	cron, _ := saw["cronjobs"]["tick"].(*batchv1.CronJob)
	seen, _ := saw["jobs"][job.Name].(*batchv1.Job)
	switch {
	case cron == nil:
		return "deleted a Job of no CronJob"
	case seen == nil || !over(seen):
		if cron.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent {
			return ""
		}
		return fmt.Sprintf("deleted Job %s, which ran", job.Name)
	}
	alike := 0
	for _, obj := range saw["jobs"] {
		if other := obj.(*batchv1.Job); over(other) && failedJob(other) == failedJob(seen) {
			alike++
		}
	}
	limit := *cron.Spec.SuccessfulJobsHistoryLimit
	if failedJob(seen) {
		limit = *cron.Spec.FailedJobsHistoryLimit
	}
	if int32(alike) <= limit {
		return fmt.Sprintf("deleted Job %s, one of %d, of which %d are kept", job.Name, alike, limit)
	}
	return ""
}

func failedJob(job *batchv1.Job) bool {
	for _, c := range job.Status.Conditions {
		if c.Type == batchv1.JobFailed && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

func (p *cronPlot) end(s *story) {
	cron := find[*batchv1.CronJob](s.world, "cronjobs", "tick")
	good, bad := int32(0), int32(0)
	var newest int64
	for _, job := range all[*batchv1.Job](s.world, "jobs") {
		if !over(job) || job.DeletionTimestamp != nil {
			s.fail("calm, and Job %s: %+v", job.Name, job.Status)
		}
		if failedJob(job) {
			bad++
		} else {
			good++
		}
	}
	for name, there := range p.served {
		if !there {
			continue
		}
		minute, _ := strconv.ParseInt(strings.TrimPrefix(name, "tick-"), 10, 64) // it was looked at before
		newest = max(newest, minute)
	}
	if good > *cron.Spec.SuccessfulJobsHistoryLimit || bad > *cron.Spec.FailedJobsHistoryLimit {
		s.fail("calm, and %d and %d Jobs are kept", good, bad)
	}
	if last := cron.Status.LastScheduleTime; newest > 0 && (last == nil || last.Unix()/60 < newest) || len(cron.Status.Active) > 0 {
		s.fail("calm, and the newest Job was of %v; %+v", time.Unix(newest*60, 0).UTC(), cron.Status)
	}
	for _, pod := range all[*corev1.Pod](s.world, "pods") {
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref == nil || s.byUID(ref.UID) == nil || len(pod.Finalizers) > 0 {
			s.fail("calm, and pod %s is there, of %v, with %v", pod.Name, ref, pod.Finalizers)
		}
	}
	if !s.everybodyKnows() {
		s.fail("calm, and somebody does not know")
	}
}
