package simulation

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// jobPlot is of one Job, whose pods succeed and fail as the seed has it.
type jobPlot struct {
	sick bool
	// parallel is the greatest parallelism since there were no more pods than that.
	parallel int
	// excess is how many pods may be too many: a maker that was not told what it made makes another.
	excess int
	// ends is how each pod ended, by UID, while the Job still counted it; done are the indexes of those that succeeded.
	ends map[types.UID]corev1.PodPhase
	done map[string]bool
	// dropped are those that need not be counted: they were let go as too many, and had succeeded unseen.
	dropped map[types.UID]bool
	// succeeded and failed are the highest counts seen.
	succeeded, failed int32
	concluded         batchv1.JobConditionType
}

func (p *jobPlot) parts() []string { return []string{"job"} }

func (p *jobPlot) begin(s *story) {
	p.dropped = map[types.UID]bool{}
	labels := map[string]string{batchv1.JobNameLabel: "work"}
	parallel, completions, limit := 1+s.rand.Int32N(3), 1+s.rand.Int32N(5), s.rand.Int32N(7)
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "work", Namespace: namespace}}
	job.Spec = batchv1.JobSpec{Parallelism: &parallel, Completions: &completions, BackoffLimit: &limit, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: template("work", "v0"), CompletionMode: ptr.To(batchv1.NonIndexedCompletion), Suspend: ptr.To(s.rand.IntN(6) == 0), PodReplacementPolicy: ptr.To(batchv1.TerminatingOrFailed)}
	job.Spec.Template.Labels = labels
	job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	if s.rand.IntN(2) == 0 {
		job.Spec.CompletionMode = ptr.To(batchv1.IndexedCompletion)
		if s.rand.IntN(3) == 0 {
			job.Spec.BackoffLimit, job.Spec.BackoffLimitPerIndex = ptr.To[int32](1<<31-1), ptr.To(s.rand.Int32N(2))
			job.Spec.PodReplacementPolicy = ptr.To(batchv1.Failed)
		} else if s.rand.IntN(3) == 0 {
			job.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededCount: ptr.To(1 + s.rand.Int32N(completions))}}}
		}
	}
	if s.rand.IntN(4) == 0 {
		job.Spec.PodReplacementPolicy = ptr.To(batchv1.Failed)
	}
	s.put("jobs", job)
	s.note("user: Job of %d, %d at a time, %s, %d failures (%v per index), suspended %t", completions, parallel, *job.Spec.CompletionMode, *job.Spec.BackoffLimit,
		ptr.Deref(job.Spec.BackoffLimitPerIndex, -1), *job.Spec.Suspend)
	p.parallel = int(parallel)
}

func (p *jobPlot) job(s *story) *batchv1.Job { return find[*batchv1.Job](s.world, "jobs", "work") }

func (p *jobPlot) user(s *story) {
	if p.concluded != "" {
		return
	}
	edit(s.world, "jobs", "work", func(job *batchv1.Job) {
		switch s.rand.IntN(3) {
		case 0:
			job.Spec.Suspend = ptr.To(!*job.Spec.Suspend)
		case 1:
			job.Spec.Parallelism = ptr.To(s.rand.Int32N(4))
		}
		s.note("user: %d at a time, suspended %t", *job.Spec.Parallelism, *job.Spec.Suspend)
	})
	p.parallel = max(p.parallel, int(*p.job(s).Spec.Parallelism))
}

func (p *jobPlot) accident(s *story) {
	if !p.sick {
		return
	}
	if pods := all[*corev1.Pod](s.world, "pods"); s.rand.IntN(3) > 0 && len(pods) > 0 {
		pod := pick(s, pods)
		s.note("user: delete pod %s", pod.Name)
		s.remove("pods", pod.Name)
		return
	}
	s.nodeLeaves()
}

func (p *jobPlot) calm(s *story) {
	edit(s.world, "jobs", "work", func(job *batchv1.Job) {
		job.Spec.Suspend, job.Spec.Parallelism = ptr.To(false), ptr.To(max(*job.Spec.Parallelism, 1))
	})
	s.note("user: go on")
}

// ledger notes how pods end, as long as they have the finalizer: from the history, so that nothing is missed.
func (p *jobPlot) ledger(s *story) {
	p.ends, p.done = map[types.UID]corev1.PodPhase{}, map[string]bool{}
	for _, e := range s.table("pods").history {
		pod := e.obj.(*corev1.Pod)
		if !slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer) {
			continue
		}
		if p.ends[pod.UID] = pod.Status.Phase; pod.Status.Phase == corev1.PodSucceeded {
			p.done[pod.Annotations[batchv1.JobCompletionIndexAnnotation]] = true
		}
	}
}

// drop notes a pod that was too many when it was let go, uncounted, and had succeeded without anybody knowing.
func (p *jobPlot) drop(s *story, e effect) {
	pod, ok := e.before.(*corev1.Pod)
	if !ok || !strings.HasPrefix(e.verb, "patch") || !ended(pod) || counted(p.job(s), pod) {
		return
	}
	unknown := e.excused(func(saw sight) string {
		if seen, _ := saw["pods"][pod.Name].(*corev1.Pod); seen != nil && !ended(seen) {
			return ""
		}
		return "it knew"
	}) == ""
	if unknown {
		p.dropped[pod.UID] = true
	}
}

// counted tells that the Job's status has pod, or its index.
func counted(job *batchv1.Job, pod *corev1.Pod) bool {
	if u := job.Status.UncountedTerminatedPods; u != nil && (slices.Contains(u.Succeeded, pod.UID) || slices.Contains(u.Failed, pod.UID)) {
		return true
	}
	index, err := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
	for part := range strings.SplitSeq(job.Status.CompletedIndexes, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.Atoi(first)
		to, err2 := strconv.Atoi(last)
		if errors.Join(err, err1, err2) == nil && from <= index && index <= to {
			return true
		}
	}
	return false
}

func (p *jobPlot) total(phase corev1.PodPhase) (n int32) {
	for end := range maps.Values(p.ends) {
		if end == phase {
			n++
		}
	}
	return n
}

func (p *jobPlot) check(s *story, e effect) {
	if e.lost && e.verb == "create" {
		p.excess++
	}
	p.drop(s, e)
	p.ledger(s)
	job, active := p.job(s), 0
	perIndex := map[string]int{}
	for _, pod := range all[*corev1.Pod](s.world, "pods") {
		if live(pod) {
			active++
			perIndex[pod.Annotations[batchv1.JobCompletionIndexAnnotation]]++
		}
	}
	if most := p.parallel + p.excess; active > most {
		s.fail("%d pods active, where %d may be", active, most)
	}
	if n := int(*job.Spec.Parallelism); active <= n && s.everybodyKnows() {
		p.parallel = n
	}
	indexed := *job.Spec.CompletionMode == batchv1.IndexedCompletion
	for index, n := range perIndex {
		if indexed && n > 1+p.excess {
			s.fail("%d pods of index %s", n, index)
		}
	}
	p.checkCounts(s, job, indexed)
}

// checkCounts tells whether a pod was counted that did not end so, or twice, or a count went back.
func (p *jobPlot) checkCounts(s *story, job *batchv1.Job, indexed bool) {
	st := job.Status
	succeeded := p.total(corev1.PodSucceeded)
	if indexed {
		succeeded = int32(len(p.done))
	}
	if st.Succeeded > succeeded {
		s.fail("%d counted as succeeded, of %d", st.Succeeded, succeeded)
	}
	if made := int32(len(p.ends)); st.Succeeded+st.Failed > made {
		s.fail("%d and %d counted, of %d pods", st.Succeeded, st.Failed, made)
	}
	if st.Succeeded < p.succeeded || st.Failed < p.failed {
		s.fail("%d and %d counted, and before %d and %d", st.Succeeded, st.Failed, p.succeeded, p.failed)
	}
	p.succeeded, p.failed = st.Succeeded, st.Failed
	for _, c := range st.Conditions {
		if c.Status != corev1.ConditionTrue || c.Type != batchv1.JobComplete && c.Type != batchv1.JobFailed {
			continue
		}
		if p.concluded != "" && p.concluded != c.Type {
			s.fail("the Job is %s, and was %s", c.Type, p.concluded)
		}
		p.concluded = c.Type
	}
}

func (p *jobPlot) end(s *story) {
	p.ledger(s)
	job := p.job(s)
	st := job.Status
	p.checkCounts(s, job, *job.Spec.CompletionMode == batchv1.IndexedCompletion)
	for _, pod := range all[*corev1.Pod](s.world, "pods") {
		if live(pod) || pod.DeletionTimestamp != nil || slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer) {
			s.fail("calm, and pod %s is %s, with finalizers %v", pod.Name, pod.Status.Phase, pod.Finalizers)
		}
	}
	if why := p.whyNotEnded(job); why != "" {
		s.fail("calm, and %s: %+v", why, st)
	}
	if u := st.UncountedTerminatedPods; st.Active != 0 || u != nil && len(u.Succeeded)+len(u.Failed) > 0 {
		s.fail("calm, and yet: %+v", st)
	}
	if !s.everybodyKnows() {
		s.fail("calm, and somebody does not know")
	}
}

// whyNotEnded says why the end that the Job came to is the wrong one.
func (p *jobPlot) whyNotEnded(job *batchv1.Job) string {
	st, completions := job.Status, *job.Spec.Completions
	enough := completions
	if policy := job.Spec.SuccessPolicy; policy != nil {
		enough = *policy.Rules[0].SucceededCount
	}
	counted := p.total(corev1.PodSucceeded)
	if *job.Spec.CompletionMode == batchv1.IndexedCompletion {
		counted = int32(len(p.done))
	}
	switch p.concluded {
	case "":
		return "the Job has not ended"
	case batchv1.JobComplete:
		if st.Succeeded < enough {
			return fmt.Sprintf("it is complete with %d of %d", st.Succeeded, enough)
		}
		if st.Succeeded > counted || int(st.Succeeded) < int(counted)-len(p.dropped) {
			return fmt.Sprintf("%d counted, and %d succeeded", st.Succeeded, counted)
		}
	case batchv1.JobFailed:
		if job.Spec.BackoffLimitPerIndex == nil && st.Failed <= *job.Spec.BackoffLimit {
			return fmt.Sprintf("it failed with %d failures of %d", st.Failed, *job.Spec.BackoffLimit)
		}
		if job.Spec.BackoffLimitPerIndex != nil && ptr.Deref(st.FailedIndexes, "") == "" {
			return "it failed with no failed index"
		}
	}
	return ""
}
