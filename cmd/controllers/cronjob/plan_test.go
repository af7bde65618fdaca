package cronjob

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func moment(t *testing.T, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestNext(t *testing.T) {
	for _, tc := range []struct{ schedule, zone, after, want string }{
		{"*/5 * * * *", "UTC", "2026-01-01T00:02:30Z", "2026-01-01T00:05:00Z"},
		{"*/5 * * * *", "UTC", "2026-01-01T00:05:00Z", "2026-01-01T00:10:00Z"},
		{"59 23 31 12 *", "UTC", "2026-01-01T00:00:00Z", "2026-12-31T23:59:00Z"},
		{"0 0 29 2 *", "UTC", "2025-01-01T00:00:00Z", "2028-02-29T00:00:00Z"},
		{"0 0 31 2 *", "UTC", "2025-01-01T00:00:00Z", "0001-01-01T00:00:00Z"},
		{"0 9 * * mon-fri", "UTC", "2026-01-02T10:00:00Z", "2026-01-05T09:00:00Z"},
		{"0 0 13 * fri", "UTC", "2026-01-10T00:00:00Z", "2026-01-13T00:00:00Z"}, // either will do
		{"0 0 */2 * fri", "UTC", "2026-01-03T00:00:00Z", "2026-01-05T00:00:00Z"},
		{"@hourly", "UTC", "2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z"},
		{"@every 90s", "UTC", "2026-01-01T00:00:10Z", "2026-01-01T00:01:40Z"},
		{"0 9 * * *", "America/New_York", "2026-07-01T00:00:00Z", "2026-07-01T13:00:00Z"},
		{"30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z"}, // the 29th has no 2:30
		{"0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00:00-03:00", "2018-11-05T02:00:00Z"},
		{"7/20 1-3 * jan,feb *", "UTC", "2026-01-31T03:50:00Z", "2026-02-01T01:07:00Z"},
	} {
		loc, err := time.LoadLocation(tc.zone)
		if err != nil {
			t.Fatal(err)
		}
		when, err := parse(tc.schedule)
		if err != nil {
			t.Fatalf("%s: %v", tc.schedule, err)
		}
		if got := when.next(moment(t, tc.after).In(loc)); !got.Equal(moment(t, tc.want)) {
			t.Errorf("%s in %s after %s: %s, want %s", tc.schedule, tc.zone, tc.after, got.UTC(), tc.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{"", "* * * *", "60 * * * *", "* * 0 * *", "* * * * 7", "5-3 * * * *", "*/0 * * * *", "a * * * *", "@sometimes", "@every x"} {
		if _, err := parse(s); err == nil {
			t.Errorf("%q was accepted", s)
		}
	}
}

func job(name string, mutate ...func(*batchv1.Job)) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Annotations: map[string]string{batchv1.CronJobScheduledTimestampAnnotation: "x"}}}
	for _, m := range mutate {
		m(j)
	}
	return j
}

func over(kind batchv1.JobConditionType, at int64) func(*batchv1.Job) {
	return func(j *batchv1.Job) {
		end := metav1.Unix(at, 0)
		j.Status.StartTime, j.Status.CompletionTime = &end, &end
		j.Status.Conditions = []batchv1.JobCondition{{Type: kind, Status: corev1.ConditionTrue}}
	}
}

func text(p Plan) string {
	var s strings.Builder
	if p.Start != nil {
		fmt.Fprintf(&s, "start %s; ", p.Start.UTC().Format("15:04"))
	}
	for _, j := range p.Delete {
		fmt.Fprintf(&s, "delete %s; ", j.Name)
	}
	for _, a := range p.Status.Active {
		fmt.Fprintf(&s, "active %s; ", a.Name)
	}
	if t := p.Status.LastScheduleTime; t != nil {
		fmt.Fprintf(&s, "last %s; ", t.UTC().Format("15:04"))
	}
	for _, e := range p.Events {
		s.WriteString(e.reason + "; ")
	}
	return s.String()
}

func TestDecide(t *testing.T) {
	now := moment(t, "2026-01-01T10:00:30Z")
	minute := now.Unix()/60 + 0
	manual := func(j *batchv1.Job) { j.Annotations = nil }
	active := func(names ...string) func(*batchv1.CronJob) {
		return func(c *batchv1.CronJob) {
			for _, n := range names {
				c.Status.Active = append(c.Status.Active, corev1.ObjectReference{Name: n, UID: types.UID(n)})
			}
		}
	}
	for _, tc := range []struct {
		name string
		cron func(*batchv1.CronJob)
		jobs []*batchv1.Job
		want string
	}{
		{"due", func(*batchv1.CronJob) {}, nil, "start 10:00; last 10:00; "},
		{"not due", func(c *batchv1.CronJob) { c.Status.LastScheduleTime = &metav1.Time{Time: now.Add(-30 * time.Second)} }, nil, "last 10:00; "},
		{"the newest of several", func(c *batchv1.CronJob) { c.CreationTimestamp = metav1.NewTime(now.Add(-10 * time.Minute)) }, nil, "start 10:00; last 10:00; "},
		{"the newest of very many", func(c *batchv1.CronJob) { c.CreationTimestamp = metav1.NewTime(now.Add(-90 * 24 * time.Hour)) }, nil, "start 10:00; last 10:00; TooManyMissedTimes; "},
		{"past its deadline", func(c *batchv1.CronJob) {
			c.Spec.StartingDeadlineSeconds = new(int64)
			*c.Spec.StartingDeadlineSeconds = 20
		}, nil, ""},
		{"suspended", func(c *batchv1.CronJob) { c.Spec.Suspend = new(bool); *c.Spec.Suspend = true }, nil, ""},
		{"allowed beside another", active("c-1"), []*batchv1.Job{job("c-1")}, "start 10:00; active c-1; last 10:00; "},
		{"forbidden beside another", func(c *batchv1.CronJob) { active("c-1")(c); c.Spec.ConcurrencyPolicy = batchv1.ForbidConcurrent }, []*batchv1.Job{job("c-1")}, "active c-1; JobAlreadyActive; "},
		{"replaces another", func(c *batchv1.CronJob) { active("c-1")(c); c.Spec.ConcurrencyPolicy = batchv1.ReplaceConcurrent }, []*batchv1.Job{job("c-1")}, "start 10:00; delete c-1; last 10:00; "},
		{"made, but not noted", func(c *batchv1.CronJob) { c.Spec.ConcurrencyPolicy = batchv1.ReplaceConcurrent }, []*batchv1.Job{job(fmt.Sprintf("c-%d", minute))},
			fmt.Sprintf("active c-%d; last 10:00; ", minute)},
		{"by hand", func(c *batchv1.CronJob) { c.Spec.ConcurrencyPolicy = batchv1.ForbidConcurrent }, []*batchv1.Job{job("hand", manual)}, "start 10:00; last 10:00; UnexpectedJob; "},
		{"gone", func(c *batchv1.CronJob) { active("c-1")(c); c.Spec.Suspend = new(bool); *c.Spec.Suspend = true }, nil, "MissingJob; "},
		{"ended", active("c-1"), []*batchv1.Job{job("c-1", over(batchv1.JobComplete, 1))}, "start 10:00; last 10:00; SawCompletedJob; "},
		{"history", func(c *batchv1.CronJob) {
			c.Spec.Schedule, c.Spec.SuccessfulJobsHistoryLimit, c.Spec.FailedJobsHistoryLimit = "0 0 1 1 *", new(int32), new(int32)
			*c.Spec.FailedJobsHistoryLimit = 1
			c.Status.LastScheduleTime = &metav1.Time{Time: now}
		}, []*batchv1.Job{job("a", over(batchv1.JobComplete, 5)), job("b", over(batchv1.JobFailed, 6)), job("c", over(batchv1.JobFailed, 4)), job("d")}, "delete a; delete c; active d; last 10:00; "},
		{"zone", func(c *batchv1.CronJob) { z := "Asia/Tokyo"; c.Spec.TimeZone, c.Spec.Schedule = &z, "0 19 * * *" }, nil, "start 10:00; last 10:00; "},
		{"no such zone", func(c *batchv1.CronJob) { z := "Middle/Earth"; c.Spec.TimeZone = &z }, nil, "UnknownTimeZone; "},
		{"no schedule", func(c *batchv1.CronJob) { c.Spec.Schedule = "x" }, nil, "UnparseableSchedule; "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "c", CreationTimestamp: metav1.NewTime(now.Add(-50 * time.Second))}, Spec: batchv1.CronJobSpec{Schedule: "* * * * *"}}
			tc.cron(c)
			if diff := cmp.Diff(tc.want, text(Decide(View{CronJob: c, Jobs: tc.jobs, Now: now}))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Cut off between any two effects, no minute is served twice, and under Forbid and Replace no two Jobs run at once.
func TestCrashAnywhere(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 3))
		policy := []batchv1.ConcurrencyPolicy{batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent}[r.IntN(3)]
		c := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "c", UID: "c", CreationTimestamp: metav1.Unix(0, 0)}, Spec: batchv1.CronJobSpec{Schedule: "* * * * *", ConcurrencyPolicy: policy}}
		jobs, served := map[string]*batchv1.Job{}, map[string]int{}
		for now := time.Unix(0, 0); now.Before(time.Unix(3600, 0)); now = now.Add(time.Duration(5+r.IntN(20)) * time.Second) {
			var list []*batchv1.Job
			for _, j := range jobs {
				list = append(list, j)
			}
			p := Decide(View{CronJob: c, Jobs: list, Now: now})
			var effects []func()
			for _, j := range p.Delete {
				effects = append(effects, func() { delete(jobs, j.Name) })
			}
			if p.Start != nil {
				made := jobAt(c, *p.Start)
				made.UID = types.UID(made.Name)
				p.Status.Active = append(p.Status.Active, reference(made))
				effects = append(effects, func() { jobs[made.Name] = made; served[made.Name]++ })
			}
			effects = append(effects, func() { c.Status = p.Status })
			if r.IntN(3) == 0 {
				effects = effects[:r.IntN(len(effects)+1)]
			}
			for _, e := range effects {
				e()
			}
			running := 0
			for _, j := range jobs {
				if ended(j) == nil {
					if running++; r.IntN(6) == 0 {
						over(batchv1.JobComplete, now.Unix())(j)
					}
				}
			}
			if running > 1 && policy != batchv1.AllowConcurrent {
				t.Fatalf("seed %d: %d run at once under %s", seed, running, policy)
			}
		}
		for name, n := range served {
			if n > 1 {
				t.Fatalf("seed %d: %s was made %d times", seed, name, n)
			}
		}
		if policy == batchv1.AllowConcurrent && len(served) < 40 {
			t.Fatalf("seed %d: only %d minutes served", seed, len(served))
		}
	}
}
