package cronjob

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A sync that made a Job and was killed before it wrote so leaves one trace: the Job. It must not be deleted, as the history
// has no room for it, before its time is noted: that time would be served again.
func TestTimesAreNotedBeforeJobsGo(t *testing.T) {
	now := moment(t, "2026-01-01T10:00:30Z")
	none, suspended := int32(0), true
	cron := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "c", CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))}}
	cron.Spec = batchv1.CronJobSpec{Schedule: "* * * * *", Suspend: &suspended, SuccessfulJobsHistoryLimit: &none, FailedJobsHistoryLimit: &none}
	at := func(when string) func(*batchv1.Job) {
		return func(j *batchv1.Job) { j.Annotations[batchv1.CronJobScheduledTimestampAnnotation] = when }
	}
	jobs := []*batchv1.Job{job("c-1", over(batchv1.JobComplete, now.Unix()), at("2026-01-01T10:00:00Z")), job("c-2", over(batchv1.JobComplete, now.Unix()), at("2036-01-01T10:00:00Z"))}
	p := Decide(View{CronJob: cron, Jobs: jobs, Now: now})
	if got := text(p); got != "last 10:00; " {
		t.Errorf("at first: %s", got)
	}
	cron.Status = p.Status
	if got := text(Decide(View{CronJob: cron, Jobs: jobs, Now: now})); got != "delete c-1; delete c-2; last 10:00; " {
		t.Errorf("and then: %s", got)
	}
}
