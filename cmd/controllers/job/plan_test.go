package job

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func pod(name string, phase corev1.PodPhase, tracked bool) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: metav1.Unix(1000, 0)}}
	p.Status.Phase = phase
	if tracked {
		p.Finalizers = []string{batchv1.JobTrackingFinalizer}
	}
	return p
}

func TestDecide(t *testing.T) {
	three, two, none := int32(3), int32(2), int32(0)
	now := time.Unix(5000, 0)
	for _, tc := range []struct {
		name            string
		completions     *int32
		limit           *int32
		pods            []*corev1.Pod
		create, release int
		succeeded       int32
		finished        batchv1.JobConditionType
	}{
		{"begins", &three, nil, nil, 2, 0, 0, ""},
		{"remembers before it counts", &three, nil, []*corev1.Pod{pod("a", corev1.PodSucceeded, true)}, 2, 1, 0, ""},
		{"no more than are left", &three, nil, []*corev1.Pod{pod("a", corev1.PodSucceeded, true), pod("b", corev1.PodSucceeded, true)}, 1, 2, 0, ""},
		{"all done", &two, nil, []*corev1.Pod{pod("a", corev1.PodSucceeded, true), pod("b", corev1.PodSucceeded, true)}, 0, 2, 2, batchv1.JobComplete},
		{"work queue waits for the others", nil, nil, []*corev1.Pod{pod("a", corev1.PodSucceeded, true), pod("b", corev1.PodRunning, true)}, 0, 1, 0, ""},
		{"fails at its limit", &two, &none, []*corev1.Pod{pod("a", corev1.PodFailed, true)}, 0, 1, 0, batchv1.JobFailed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			job := &batchv1.Job{Spec: batchv1.JobSpec{Parallelism: &two, Completions: tc.completions, BackoffLimit: tc.limit}}
			p := Decide(job, tc.pods, now)
			got := batchv1.JobConditionType("")
			if p.Finished != nil {
				got = p.Finished.Type
			}
			if p.Create != tc.create || len(p.Release) != tc.release || p.Status.Succeeded != tc.succeeded || got != tc.finished {
				t.Errorf("create %d, release %d, succeeded %d, finished %q", p.Create, len(p.Release), p.Status.Succeeded, got)
			}
		})
	}
}

func TestEachEndIsCountedOnce(t *testing.T) {
	three, one := int32(3), int32(1)
	job := &batchv1.Job{Spec: batchv1.JobSpec{Parallelism: &one, Completions: &three}}
	a := pod("a", corev1.PodSucceeded, true)
	for range 2 { // seen twice before its finalizer went
		job.Status = Decide(job, []*corev1.Pod{a}, time.Unix(5000, 0)).Status
	}
	a.Finalizers = nil
	for range 2 { // and twice after
		job.Status = Decide(job, []*corev1.Pod{a}, time.Unix(5000, 0)).Status
	}
	job.Status = Decide(job, nil, time.Unix(5000, 0)).Status // then somebody deleted it
	if job.Status.Succeeded != 1 {
		t.Errorf("counted %d times", job.Status.Succeeded)
	}
}

func TestUnsupportedIsNamed(t *testing.T) {
	indexed := batchv1.IndexedCompletion
	for want, spec := range map[string]batchv1.JobSpec{
		"":                       {},
		"completionMode Indexed": {CompletionMode: &indexed},
		"podFailurePolicy":       {PodFailurePolicy: &batchv1.PodFailurePolicy{}},
	} {
		if got := unsupported(&batchv1.Job{Spec: spec}); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
