package job

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// world is an API server with one Job, and kubelets.
type world struct {
	job           *batchv1.Job
	pods          []*corev1.Pod
	made, dropped int
	ran           map[int]bool // indexes that have succeeded
	now           time.Time
}

func (w *world) remove(pod *corev1.Pod) {
	w.pods = slices.DeleteFunc(w.pods, func(p *corev1.Pod) bool { return p == pod })
}

func (w *world) release(pod *corev1.Pod) {
	pod.Finalizers = nil
	if pod.DeletionTimestamp != nil && pod.Status.Phase != corev1.PodRunning {
		w.remove(pod)
	}
}

func (w *world) delete(pod *corev1.Pod) {
	if pod.DeletionTimestamp == nil {
		stamp := metav1.NewTime(w.now)
		pod.DeletionTimestamp = &stamp
	}
	if !tracked(pod) && pod.Status.Phase != corev1.PodRunning {
		w.remove(pod)
	}
}

func (w *world) create(c creation) {
	p := podFor(w.job, c)
	p.Name, p.CreationTimestamp = fmt.Sprint("p", w.made), metav1.NewTime(w.now)
	p.UID, p.Status.Phase = types.UID(p.Name), corev1.PodRunning
	w.pods = append(w.pods, p)
	w.made++
}

// effects are the plan's, each of which may be the last before a crash.
func (w *world) effects(p Plan) []func() {
	all := []func(){func() { w.job.Status = p.Status }}
	for _, pod := range p.Release {
		all = append(all, func() { w.release(pod) })
	}
	for _, pod := range p.Drop {
		all = append(all, func() { w.release(pod); w.dropped++ }, func() { w.delete(pod) })
	}
	for _, pod := range p.Kill {
		all = append(all, func() { w.delete(pod) })
	}
	for _, c := range p.Create {
		all = append(all, func() { w.create(c) })
	}
	return all
}

// happen lets a pod end, or somebody delete it.
func (w *world) happen(r *rand.Rand) {
	if len(w.pods) == 0 {
		return
	}
	pod := w.pods[r.IntN(len(w.pods))]
	switch n := r.IntN(8); {
	case n == 0:
		w.delete(pod)
	case pod.Status.Phase != corev1.PodRunning:
	case n < 4 && pod.DeletionTimestamp == nil:
		pod.Status.Phase = corev1.PodSucceeded
		if i := indexOf(w.job, pod); i >= 0 {
			w.ran[i] = true
		}
	case n < 6:
		pod.Status.Phase = corev1.PodFailed
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: int32(1 + r.IntN(3)), FinishedAt: metav1.NewTime(w.now)}}}}
		if pod.DeletionTimestamp != nil && !tracked(pod) {
			w.remove(pod)
		}
	}
}

func jobOfSeed(r *rand.Rand) *batchv1.Job {
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "j"}, Spec: batchv1.JobSpec{
		Parallelism: ptr(1 + r.Int32N(5)), Completions: ptr(1 + r.Int32N(8)), BackoffLimit: ptr(r.Int32N(12))}}
	if r.IntN(2) == 0 {
		job.Spec.CompletionMode = ptr(batchv1.IndexedCompletion)
		if r.IntN(2) == 0 {
			job.Spec.BackoffLimit, job.Spec.BackoffLimitPerIndex = ptr[int32](1<<30), ptr(r.Int32N(3))
		}
	}
	if r.IntN(3) == 0 {
		job.Spec.PodReplacementPolicy = ptr(batchv1.Failed)
	}
	return job
}

// Whatever plan is cut off at whatever effect, each pod is counted once, no index runs twice at once or again after it
// has succeeded, and the Job ends.
func TestCrashAnywhere(t *testing.T) {
	for seed := range uint64(1500) {
		r := rand.New(rand.NewPCG(seed, 7))
		w := &world{job: jobOfSeed(r), ran: map[int]bool{}, now: noon}
		var known row
		for step := 0; !done(w.job); step++ {
			if step > 5000 {
				t.Fatalf("seed %d: no end: %+v with %d pods", seed, w.job.Status, len(w.pods))
			}
			w.now = w.now.Add(time.Duration(r.IntN(30)) * time.Second)
			plan := Decide(View{Job: w.job, Pods: slices.Clone(w.pods), Row: known, Settled: true, Now: w.now})
			effects := w.effects(plan)
			if known = plan.Row; r.IntN(3) == 0 {
				effects, known = effects[:r.IntN(len(effects)+1)], row{}
			}
			for _, e := range effects {
				e()
			}
			w.check(t, seed)
			w.happen(r)
		}
		s := w.job.Status
		if indexed(w.job) {
			if got := parseIndexes(s.CompletedIndexes, completions(w.job)).total(); got != int(s.Succeeded) || got > len(w.ran) {
				t.Fatalf("seed %d: %d completed indexes, %d succeeded, %d ran", seed, got, s.Succeeded, len(w.ran))
			}
		} else if int(s.Succeeded+s.Failed) != w.made-w.dropped {
			t.Fatalf("seed %d: %d+%d counted of %d-%d", seed, s.Succeeded, s.Failed, w.made, w.dropped)
		}
	}
}

func (w *world) check(t *testing.T, seed uint64) {
	t.Helper()
	busy, active := map[int]int{}, 0
	for _, pod := range w.pods {
		if pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning {
			active++
			busy[indexOf(w.job, pod)]++
		}
	}
	if active > int(*w.job.Spec.Parallelism) {
		t.Fatalf("seed %d: %d active of %d", seed, active, *w.job.Spec.Parallelism)
	}
	if per := w.job.Spec.BackoffLimitPerIndex; per != nil && w.made > completions(w.job)*int(*per+1) {
		// Each pod that is made ends, and all ends of an index but one are failures.
		t.Fatalf("seed %d: %d pods for %d indexes with %d failures each", seed, w.made, completions(w.job), *per)
	}
	for n, pods := range busy {
		if n >= 0 && (pods > 1 || w.ran[n]) {
			t.Fatalf("seed %d: index %d runs %d times, done %t", seed, n, pods, w.ran[n])
		}
	}
}
