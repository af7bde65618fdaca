package job

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var noon = time.Unix(50000, 0)

func ptr[T any](v T) *T { return &v }

func pod(name string, phase corev1.PodPhase, mutate ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: metav1.Unix(1000, 0), Finalizers: []string{batchv1.JobTrackingFinalizer}}}
	p.Status.Phase = phase
	for _, m := range mutate {
		m(p)
	}
	return p
}

func at(n int) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Annotations = map[string]string{batchv1.JobCompletionIndexAnnotation: strconv.Itoa(n)}
	}
}

func exit(code int32, ago time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(noon.Add(-ago))}}}}
	}
}

func deleted(p *corev1.Pod) { p.DeletionTimestamp = ptr(metav1.NewTime(noon)) }
func free(p *corev1.Pod)    { p.Finalizers = nil }
func before(n int) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(n) }
}

// text prints what matters of a plan.
func text(p Plan) string {
	names := func(pods []*corev1.Pod) (out []string) {
		for _, pod := range pods {
			out = append(out, pod.Name)
		}
		slices.Sort(out)
		return out
	}
	s := ""
	add := func(format string, args ...any) { s += fmt.Sprintf(format, args...) + "; " }
	if len(p.Release) > 0 {
		add("release %v", names(p.Release))
	}
	if len(p.Drop) > 0 {
		add("drop %v", names(p.Drop))
	}
	if len(p.Kill) > 0 {
		add("kill %v", names(p.Kill))
	}
	for _, c := range p.Create {
		if add("create"); c.index >= 0 {
			s = s[:len(s)-2] + fmt.Sprintf(" %d after %d+%d; ", c.index, c.counted, c.ignored)
		}
	}
	u := p.Status.UncountedTerminatedPods
	if len(u.Succeeded)+len(u.Failed) > 0 {
		add("uncounted %v %v", u.Succeeded, u.Failed)
	}
	if p.Status.Succeeded+p.Status.Failed > 0 {
		add("counted %d %d", p.Status.Succeeded, p.Status.Failed)
	}
	if f := p.Status.FailedIndexes; f != nil && *f != "" {
		add("failed indexes %s", *f)
	}
	for _, c := range p.Status.Conditions {
		add("%s=%s %s", c.Type, c.Status, c.Reason)
	}
	if p.Again > 0 {
		add("again in %s", p.Again)
	}
	return s
}

func TestDecide(t *testing.T) {
	indexedJob := func(n int32, more ...func(*batchv1.Job)) func(*batchv1.Job) {
		return func(j *batchv1.Job) {
			j.Spec.CompletionMode, j.Spec.Completions, j.Spec.Parallelism = ptr(batchv1.IndexedCompletion), &n, &n
			for _, m := range more {
				m(j)
			}
		}
	}
	limit := func(n int32) func(*batchv1.Job) { return func(j *batchv1.Job) { j.Spec.BackoffLimitPerIndex = &n } }
	policy := func(rules ...batchv1.PodFailurePolicyRule) func(*batchv1.Job) {
		return func(j *batchv1.Job) { j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: rules} }
	}
	on42 := func(action batchv1.PodFailurePolicyAction) batchv1.PodFailurePolicyRule {
		return batchv1.PodFailurePolicyRule{Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: "In", Values: []int32{42}}}
	}
	disrupted := batchv1.PodFailurePolicyRule{Action: batchv1.PodFailurePolicyActionIgnore, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: "True"}}}
	target := func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}
	}
	is := func(kind batchv1.JobConditionType, reason string) func(*batchv1.Job) {
		return func(j *batchv1.Job) {
			j.Status.Conditions = append(j.Status.Conditions, batchv1.JobCondition{Type: kind, Status: corev1.ConditionTrue, Reason: reason})
		}
	}
	run, ok, bad := corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed
	long := exit(1, time.Hour)
	for _, tc := range []struct {
		name string
		job  func(*batchv1.Job)
		pods []*corev1.Pod
		want string
	}{
		{"begins", func(*batchv1.Job) {}, nil, "create; create; "},
		{"remembers before it counts", func(*batchv1.Job) {}, []*corev1.Pod{pod("a", ok)}, "release [a]; create; create; uncounted [a] []; "},
		{"no more than are left", func(*batchv1.Job) {}, []*corev1.Pod{pod("a", ok), pod("b", ok)}, "release [a b]; create; uncounted [a b] []; "},
		{"announces, and waits for the counts", func(j *batchv1.Job) { j.Spec.Completions = ptr[int32](2) }, []*corev1.Pod{pod("a", ok), pod("b", ok)},
			"release [a b]; uncounted [a b] []; SuccessCriteriaMet=True CompletionsReached; "},
		{"completes once all are counted", func(j *batchv1.Job) { j.Status.Succeeded = 3 }, nil,
			"counted 3 0; SuccessCriteriaMet=True CompletionsReached; Complete=True CompletionsReached; "},
		{"a work queue waits for the others", func(j *batchv1.Job) { j.Spec.Completions = nil }, []*corev1.Pod{pod("a", ok), pod("b", run)}, "release [a]; uncounted [a] []; "},
		{"fails at its limit and ends the others", func(j *batchv1.Job) { j.Spec.BackoffLimit = ptr[int32](0) }, []*corev1.Pod{pod("a", bad), pod("b", run)},
			"release [a]; kill [b]; uncounted [] [a]; FailureTarget=True BackoffLimitExceeded; "},
		{"has not failed while one is leaving", is(batchv1.JobFailureTarget, "X"), []*corev1.Pod{pod("a", run, deleted, free)}, "FailureTarget=True X; "},
		{"has failed when all are gone", is(batchv1.JobFailureTarget, "X"), []*corev1.Pod{pod("a", bad, free)}, "FailureTarget=True X; Failed=True X; "},
		{"pauses after a failure", func(*batchv1.Job) {}, []*corev1.Pod{pod("a", bad, exit(1, 4*time.Second), free)}, "again in 6s; "},
		{"pauses twice as long after two", func(*batchv1.Job) {}, []*corev1.Pod{pod("a", bad, exit(1, 4*time.Second), free), pod("b", bad, long, free)}, "again in 16s; "},
		{"a success ends the row", func(*batchv1.Job) {}, []*corev1.Pod{pod("a", bad, exit(1, 4*time.Second), free), pod("b", ok, exit(0, time.Second), free)}, "create; create; "},
		{"one leaving has failed, and is replaced", func(*batchv1.Job) {}, []*corev1.Pod{pod("a", run, deleted), pod("b", run)}, "release [a]; uncounted [] [a]; again in 10s; "},
		{"or not before it ended", func(j *batchv1.Job) { j.Spec.PodReplacementPolicy = ptr(batchv1.Failed) }, []*corev1.Pod{pod("a", run, deleted), pod("b", run)}, ""},
		{"too many", func(j *batchv1.Job) { j.Spec.Parallelism = ptr[int32](1) }, []*corev1.Pod{pod("a", run), pod("b", corev1.PodPending)}, "drop [b]; "},
		{"suspended", func(j *batchv1.Job) { j.Spec.Suspend = ptr(true) }, []*corev1.Pod{pod("a", run)}, "drop [a]; Suspended=True JobSuspended; "},
		{"resumed", is(batchv1.JobSuspended, "JobSuspended"), nil, "create; create; Suspended=False JobResumed; "},
		{"deadline", func(j *batchv1.Job) {
			j.Spec.ActiveDeadlineSeconds, j.Status.StartTime = ptr[int64](10), ptr(metav1.NewTime(noon.Add(-4*time.Second)))
		}, []*corev1.Pod{pod("a", run), pod("b", run)}, "again in 6.001s; "},
		{"past its deadline", func(j *batchv1.Job) {
			j.Spec.ActiveDeadlineSeconds, j.Status.StartTime = ptr[int64](10), ptr(metav1.NewTime(noon.Add(-10*time.Second)))
		}, []*corev1.Pod{pod("a", run)}, "kill [a]; FailureTarget=True DeadlineExceeded; "},
		{"exit code fails the job", policy(on42(batchv1.PodFailurePolicyActionFailJob)), []*corev1.Pod{pod("a", bad, exit(42, time.Hour))},
			"release [a]; uncounted [] [a]; FailureTarget=True PodFailurePolicy; "},
		{"a disruption is not counted", policy(disrupted), []*corev1.Pod{pod("a", bad, target, long)}, "release [a]; create; create; "},

		{"indexes", indexedJob(2), nil, "create 0 after 0+0; create 1 after 0+0; "},
		{"an index done", indexedJob(3), []*corev1.Pod{pod("a", ok, at(1)), pod("b", run, at(2))}, "release [a]; create 0 after 0+0; counted 1 0; "},
		{"an index twice", indexedJob(2), []*corev1.Pod{pod("a", run, at(1)), pod("b", corev1.PodPending, at(1))}, "drop [b]; "},
		{"an index out of range", indexedJob(2), []*corev1.Pod{pod("a", run, at(7)), pod("b", run, at(0))}, "drop [a]; "},
		{"all indexes done", indexedJob(2), []*corev1.Pod{pod("a", ok, at(0)), pod("b", ok, at(1))},
			"release [a b]; counted 2 0; SuccessCriteriaMet=True CompletionsReached; Complete=True CompletionsReached; "},
		{"a failure is kept until its successor is there", indexedJob(1, limit(1)), []*corev1.Pod{pod("a", bad, at(0), long)}, "create 0 after 1+0; "},
		{"then it is counted", indexedJob(1, limit(1)), []*corev1.Pod{pod("a", bad, at(0), long), pod("b", run, at(0), before(1))}, "release [a]; uncounted [] [a]; "},
		{"an index fails for good", indexedJob(2, limit(1)), []*corev1.Pod{pod("a", bad, at(0), before(1), long), pod("b", run, at(1))}, "release [a]; uncounted [] [a]; failed indexes 0; "},
		{"each index pauses by itself", indexedJob(2, limit(5)), []*corev1.Pod{pod("a", bad, at(0), before(1), exit(1, 5*time.Second))}, "create 1 after 0+0; again in 15s; "},
		{"FailIndex", indexedJob(2, limit(5), policy(on42(batchv1.PodFailurePolicyActionFailIndex))), []*corev1.Pod{pod("a", bad, at(1), exit(42, time.Hour)), pod("b", run, at(0))},
			"release [a]; uncounted [] [a]; failed indexes 1; "},
		{"ignored, the index pauses all the same", indexedJob(1, limit(0), policy(disrupted)), []*corev1.Pod{pod("a", bad, at(0), target, exit(1, time.Second))}, "again in 9s; "},
		{"ignored, then again", indexedJob(1, limit(0), policy(disrupted)), []*corev1.Pod{pod("a", bad, at(0), target, long)}, "create 0 after 0+1; "},
		{"all indexes have ended, some badly", indexedJob(2, limit(0)), []*corev1.Pod{pod("a", bad, at(0), long), pod("b", ok, at(1))},
			"release [a b]; uncounted [] [a]; counted 1 0; failed indexes 0; FailureTarget=True FailedIndexes; "},
		{"too many failed indexes", indexedJob(3, limit(0), func(j *batchv1.Job) { j.Spec.MaxFailedIndexes = ptr[int32](0) }), []*corev1.Pod{pod("a", bad, at(0), long), pod("b", run, at(1))},
			"release [a]; kill [b]; uncounted [] [a]; failed indexes 0; FailureTarget=True MaxFailedIndexesExceeded; "},
		{"success policy", indexedJob(3, func(j *batchv1.Job) {
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr("0,2")}, {SucceededIndexes: ptr("1-2"), SucceededCount: ptr[int32](1)}}}
		}), []*corev1.Pod{pod("a", ok, at(2)), pod("b", run, at(0)), pod("c", run, at(1))}, "release [a]; kill [b c]; counted 1 0; SuccessCriteriaMet=True SuccessPolicy; "},
		{"success policy waits for the pods to go, and counts them not", indexedJob(3, is(batchv1.JobSuccessCriteriaMet, "SuccessPolicy")),
			[]*corev1.Pod{pod("a", run, at(2), deleted)}, "release [a]; SuccessCriteriaMet=True SuccessPolicy; "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			job := &batchv1.Job{Spec: batchv1.JobSpec{Parallelism: ptr[int32](2), Completions: ptr[int32](3)}}
			tc.job(job)
			p := Decide(View{Job: job, Pods: tc.pods, Settled: true, Now: noon})
			if diff := cmp.Diff(tc.want, text(p)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNothingIsMadeOnAStaleCache(t *testing.T) {
	job := &batchv1.Job{Spec: batchv1.JobSpec{Parallelism: ptr[int32](2)}}
	if p := Decide(View{Job: job, Pods: []*corev1.Pod{pod("a", corev1.PodSucceeded, free)}, Now: noon}); text(p) != "" {
		t.Error(text(p))
	}
}

// The pause after a failure lasts though the failed pod is gone, and grows with each, until one succeeds.
func TestPausesOutlastPods(t *testing.T) {
	job := &batchv1.Job{Spec: batchv1.JobSpec{Parallelism: ptr[int32](1), Completions: ptr[int32](5)}}
	v := View{Job: job, Settled: true, Now: noon}
	look := func(pods ...*corev1.Pod) string {
		v.Pods = pods
		p := Decide(v)
		v.Row, job.Status = p.Row, p.Status
		return text(p)
	}
	for _, step := range []struct {
		pods []*corev1.Pod
		want string
	}{
		{[]*corev1.Pod{pod("a", corev1.PodFailed, exit(1, 0))}, "release [a]; uncounted [] [a]; again in 10s; "},
		{nil, "counted 0 1; again in 10s; "},
		{[]*corev1.Pod{pod("b", corev1.PodFailed, exit(1, -time.Second))}, "release [b]; uncounted [] [b]; counted 0 1; again in 21s; "},
		{[]*corev1.Pod{pod("b", corev1.PodFailed, exit(1, -time.Second))}, "release [b]; uncounted [] [b]; counted 0 1; again in 21s; "},
		{nil, "counted 0 2; again in 21s; "},
		{[]*corev1.Pod{pod("c", corev1.PodSucceeded, exit(0, -2*time.Second), free)}, "create; counted 0 2; "},
	} {
		if diff := cmp.Diff(step.want, look(step.pods...)); diff != "" {
			t.Error(diff)
		}
	}
}

func TestEndedJobsHaveBegun(t *testing.T) {
	job := &batchv1.Job{Spec: batchv1.JobSpec{Completions: ptr[int32](0), Suspend: ptr(true)}}
	p := Decide(View{Job: job, Settled: true, Now: noon})
	if announced(&p.Status, batchv1.JobComplete) == nil || p.Status.StartTime == nil {
		t.Errorf("%+v", p.Status)
	}
}

func TestIndexes(t *testing.T) {
	s := parseIndexes("7,1,3-5,x,9-20", 12)
	if s.String() != "1,3-5,7,9-11" || s.total() != 8 || !s.has(4) || s.has(2) || s.has(12) {
		t.Errorf("%s has %d", s, s.total())
	}
	if got := s.missing(4, 12); !slices.Equal(got, []int{0, 2, 6, 8}) {
		t.Errorf("missing %v", got)
	}
	if got := indexesOf(2, 3, 0).union(s).String(); got != "0-5,7,9-11" {
		t.Errorf("union %s", got)
	}
	if got := s.overlap(parseIndexes("0-3,5-9", 12)); got != 5 {
		t.Errorf("overlap %d", got)
	}
	if got := indexesOf(4, 5).String(); got != "4,5" {
		t.Errorf("a pair is %s", got)
	}
}

func TestPodOfAnIndex(t *testing.T) {
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "j"}, Spec: batchv1.JobSpec{
		CompletionMode: ptr(batchv1.IndexedCompletion), Completions: ptr[int32](3), BackoffLimitPerIndex: ptr[int32](1)}}
	job.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c"}, {Name: "own", Env: []corev1.EnvVar{{Name: indexVariable, Value: "x"}}}}
	p := podFor(job, creation{index: 2, counted: 1})
	if p.GenerateName != "j-2-" || p.Spec.Hostname != "j-2" || p.Labels[batchv1.JobCompletionIndexAnnotation] != "2" ||
		p.Annotations[batchv1.JobCompletionIndexAnnotation] != "2" || p.Annotations[batchv1.JobIndexFailureCountAnnotation] != "1" || !tracked(p) {
		t.Errorf("%+v", p.ObjectMeta)
	}
	if len(p.Spec.Containers[0].Env) != 1 || p.Spec.Containers[1].Env[0].Value != "x" || len(job.Spec.Template.Spec.Containers[0].Env) != 0 {
		t.Errorf("environment %+v", p.Spec.Containers)
	}
}
