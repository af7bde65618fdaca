package job

import (
	"math"
	"slices"
	"strconv"
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

// uncountedLimit is the most ended pods that one status write may remember.
const uncountedLimit = 500

// tally is the Job's pods, counted and sorted.
type tally struct {
	active, leaving []*corev1.Pod
	ready           int32
	// succeeded and failed are all there ever were, with those that the status does not count yet.
	succeeded, failed int
	// done and broken are the indexes that succeeded, and that failed for good.
	done, broken indexes
	// release are ended pods that the status will remember once it is written.
	release []*corev1.Pod
	// pending tells that some ended pods are left to a later sync.
	pending bool
	// last is, by index, the failure that a successor will follow; only with back-off per index.
	last     map[int]failure
	row      row
	restarts int32
	// fatal is the message of a pod that the failure policy lets fail the Job.
	fatal string
}

// failure is how often an index has failed.
type failure struct {
	counted, ignored int
	at               time.Time
	pod              types.UID
}

func indexed(job *batchv1.Job) bool {
	return job.Spec.CompletionMode != nil && *job.Spec.CompletionMode == batchv1.IndexedCompletion && job.Spec.Completions != nil
}

// perIndex tells that each index has failures of its own to spend.
func perIndex(job *batchv1.Job) bool { return indexed(job) && job.Spec.BackoffLimitPerIndex != nil }

// completions is how many indexes there are.
func completions(job *batchv1.Job) int {
	if job.Spec.Completions == nil {
		return 0
	}
	return int(*job.Spec.Completions)
}

// indexOf returns the completion index of pod, -1 where it has no valid one.
func indexOf(job *batchv1.Job, pod *corev1.Pod) int {
	n, err := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || n < 0 || n >= completions(job) {
		return -1
	}
	return n
}

// replaceLate tells that a pod is replaced only once it has ended, not as soon as it is being deleted.
func replaceLate(job *batchv1.Job) bool {
	return job.Spec.PodReplacementPolicy != nil && *job.Spec.PodReplacementPolicy == batchv1.Failed
}

// hasFailed tells that pod counts as failed.
func hasFailed(job *batchv1.Job, pod *corev1.Pod) bool {
	if pod.Status.Phase == corev1.PodFailed {
		return true
	}
	if job.Spec.PodFailurePolicy != nil || replaceLate(job) {
		return false // its end is not known yet
	}
	return pod.DeletionTimestamp != nil && pod.Status.Phase != corev1.PodSucceeded
}

func tracked(pod *corev1.Pod) bool {
	return slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer)
}

// count sorts pods and takes those that ended into status, as uncounted or as completed indexes. Those that it
// remembered before, and that have lost their finalizer since, it counts.
func count(job *batchv1.Job, status *batchv1.JobStatus, pods []*corev1.Pod, before row) tally {
	t := tally{last: map[int]failure{}}
	settle(status, pods)
	t.done = parseIndexes(status.CompletedIndexes, completions(job))
	if status.FailedIndexes != nil {
		t.broken = parseIndexes(*status.FailedIndexes, completions(job))
	}
	var lastSuccess time.Time
	var succeeded, failed []*corev1.Pod
	for _, pod := range pods {
		switch {
		case pod.Status.Phase == corev1.PodSucceeded:
			succeeded = append(succeeded, pod)
			if end := endOf(pod); end.After(lastSuccess) {
				lastSuccess = end
			}
		case hasFailed(job, pod):
			failed = append(failed, pod)
		case pod.DeletionTimestamp == nil:
			t.active = append(t.active, pod)
			t.restarts += restarts(pod)
		}
		if podset.Ready(pod) && podset.Active(pod) {
			t.ready++
		}
		if pod.DeletionTimestamp != nil && pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded {
			t.leaving = append(t.leaving, pod)
		}
	}
	t.takeSucceeded(job, status, succeeded)
	t.row = rowOf(status, failed, lastSuccess, before)
	t.takeFailed(job, status, failed)
	return t
}

// settle counts the remembered pods that need no remembering any more.
func settle(status *batchv1.JobStatus, pods []*corev1.Pod) {
	if status.UncountedTerminatedPods == nil {
		status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	held := map[types.UID]bool{}
	for _, pod := range pods {
		held[pod.UID] = tracked(pod)
	}
	u := status.UncountedTerminatedPods
	for _, side := range []struct {
		uids    *[]types.UID
		counter *int32
	}{{&u.Succeeded, &status.Succeeded}, {&u.Failed, &status.Failed}} {
		*side.uids = slices.DeleteFunc(*side.uids, func(uid types.UID) bool {
			if held[uid] {
				return false
			}
			*side.counter++
			return true
		})
	}
}

// room tells whether one more pod may be remembered in this status write.
func (t *tally) room(u *batchv1.UncountedTerminatedPods, fresh int) bool {
	if len(u.Succeeded)+len(u.Failed)+fresh < uncountedLimit {
		return true
	}
	t.pending = true
	return false
}

func (t *tally) takeSucceeded(job *batchv1.Job, status *batchv1.JobStatus, pods []*corev1.Pod) {
	u := status.UncountedTerminatedPods
	var fresh []int
	late := 0
	for _, pod := range pods {
		if !tracked(pod) {
			continue
		}
		if indexed(job) {
			if n := indexOf(job, pod); n >= 0 && !t.done.has(n) {
				if !t.room(u, len(fresh)) {
					continue
				}
				fresh = append(fresh, n)
			}
		} else if !slices.Contains(u.Succeeded, pod.UID) {
			if !t.room(u, 0) {
				late++
				continue
			}
			u.Succeeded = append(u.Succeeded, pod.UID)
		}
		t.release = append(t.release, pod)
	}
	if t.succeeded = int(status.Succeeded) + len(u.Succeeded) + late; indexed(job) {
		t.done = t.done.union(indexesOf(fresh...))
		t.succeeded = t.done.total()
		status.CompletedIndexes, status.Succeeded = t.done.String(), int32(t.succeeded)
	}
}

func (t *tally) takeFailed(job *batchv1.Job, status *batchv1.JobStatus, pods []*corev1.Pod) {
	u := status.UncountedTerminatedPods
	rulings := make([]ruling, len(pods))
	for i, pod := range pods {
		rulings[i] = judge(job.Spec.PodFailurePolicy, pod)
		if rulings[i].action == batchv1.PodFailurePolicyActionFailJob && t.fatal == "" {
			t.fatal = rulings[i].why
		}
	}
	if perIndex(job) {
		t.breakIndexes(job, status, pods, rulings)
	}
	// Pods that the success policy ended have not failed.
	spared := announced(status, batchv1.JobSuccessCriteriaMet) != nil
	late := 0
	for i, pod := range pods {
		if !tracked(pod) {
			continue
		}
		counts := rulings[i].counts() && !spared && (!indexed(job) || indexOf(job, pod) >= 0)
		switch {
		case t.awaited(job, status, pod):
			t.pending = true
			if counts {
				late++
			}
			continue
		case counts && !slices.Contains(u.Failed, pod.UID):
			if !t.room(u, 0) {
				late++
				continue
			}
			u.Failed = append(u.Failed, pod.UID)
		}
		t.release = append(t.release, pod)
	}
	t.failed = int(status.Failed) + len(u.Failed) + late
}

// rowOf counts failures since the last success: those of pods that are there or, if that is more, those known before and
// the new ones.
func rowOf(status *batchv1.JobStatus, failed []*corev1.Pod, lastSuccess time.Time, before row) row {
	if lastSuccess.After(before.last) {
		before = row{}
	}
	now, known := row{}, before.last
	for _, pod := range failed {
		end := endOf(pod)
		if !end.After(lastSuccess) {
			continue
		}
		if now.failures++; end.After(now.last) {
			now.last = end
		}
		if tracked(pod) && end.After(known) && !slices.Contains(status.UncountedTerminatedPods.Failed, pod.UID) {
			before.failures++
		}
	}
	now.failures = max(now.failures, before.failures)
	if before.last.After(now.last) {
		now.last = before.last
	}
	return now
}

// breakIndexes finds the indexes that failed for good, and the last failure of each other.
func (t *tally) breakIndexes(job *batchv1.Job, status *batchv1.JobStatus, pods []*corev1.Pod, rulings []ruling) {
	var broken []int
	for i, pod := range pods {
		n := indexOf(job, pod)
		if n < 0 || t.done.has(n) {
			continue
		}
		f := failure{at: endOf(pod), pod: pod.UID,
			counted: number(pod, batchv1.JobIndexFailureCountAnnotation), ignored: number(pod, batchv1.JobIndexIgnoredFailureCountAnnotation)}
		if rulings[i].counts() {
			f.counted++
		} else {
			f.ignored++
		}
		if rulings[i].action == batchv1.PodFailurePolicyActionFailIndex || rulings[i].counts() && f.counted > int(*job.Spec.BackoffLimitPerIndex) {
			broken = append(broken, n)
		}
		if had, ok := t.last[n]; !ok || f.counted+f.ignored > had.counted+had.ignored {
			t.last[n] = f
		}
	}
	t.broken = t.broken.union(indexesOf(broken...))
	text := t.broken.String()
	status.FailedIndexes = &text
}

// awaited tells that pod must stay until its successor is there: the number of its index's failures is in it alone.
func (t *tally) awaited(job *batchv1.Job, status *batchv1.JobStatus, pod *corev1.Pod) bool {
	n := indexOf(job, pod)
	if !perIndex(job) || n < 0 || t.done.has(n) || t.broken.has(n) || finishing(status) || t.last[n].pod != pod.UID {
		return false
	}
	return !slices.ContainsFunc(t.active, func(p *corev1.Pod) bool { return indexOf(job, p) == n })
}

func number(pod *corev1.Pod, annotation string) int {
	n, err := strconv.Atoi(pod.Annotations[annotation])
	if err != nil || n < 0 || n > math.MaxInt32 {
		return 0
	}
	return n
}

func restarts(pod *corev1.Pod) (n int32) {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, c := range list {
			n += c.RestartCount
		}
	}
	return n
}

// endOf is when pod ended, or began to.
func endOf(pod *corev1.Pod) time.Time {
	var end time.Time
	for _, c := range pod.Status.ContainerStatuses {
		if done := c.State.Terminated; done != nil && done.FinishedAt.After(end) {
			end = done.FinishedAt.Time
		}
	}
	switch c := podset.Condition(pod, corev1.PodReady); {
	case !end.IsZero():
	case pod.DeletionTimestamp != nil:
		end = pod.DeletionTimestamp.Time
		if grace := pod.DeletionGracePeriodSeconds; grace != nil {
			end = end.Add(-time.Duration(*grace) * time.Second)
		}
	case c != nil && !c.LastTransitionTime.IsZero():
		end = c.LastTransitionTime.Time
	default:
		end = pod.CreationTimestamp.Time
	}
	return end
}

// pause is how long to wait after so many failures.
func pause(failures int) time.Duration {
	wait := firstBackoff
	for i := 1; i < failures && wait < lastBackoff; i++ {
		wait *= 2
	}
	return min(wait, lastBackoff)
}
