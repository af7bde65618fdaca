package simulation

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// statefulSetPlot is of one StatefulSet.
//
// What it promises is about what its controller saw when it decided: a pod that fell sick meanwhile is nobody's fault.
type statefulSetPlot struct {
	sick bool
	// most is the greatest size that was asked for since the pods were no more than that.
	most int
}

func (p *statefulSetPlot) parts() []string { return []string{"statefulset"} }

func (p *statefulSetPlot) begin(s *story) {
	n := int32(1 + s.rand.IntN(4))
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: namespace}}
	limit, most := int32(2), intstr.FromInt32(1+s.rand.Int32N(2))
	set.Spec = appsv1.StatefulSetSpec{Replicas: &n, RevisionHistoryLimit: &limit, ServiceName: "db", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
		Template: template("db", "v0"), PodManagementPolicy: appsv1.OrderedReadyPodManagement,
		UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{MaxUnavailable: &most}}}
	if s.rand.IntN(3) == 0 {
		set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
	}
	if s.rand.IntN(4) == 0 {
		set.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 2}
	}
	s.put("statefulsets", set)
	s.note("user: StatefulSet of %d, %s, unavailable %s", n, set.Spec.PodManagementPolicy, most.String())
	p.most = int(n)
}

func (p *statefulSetPlot) set(s *story) *appsv1.StatefulSet {
	return find[*appsv1.StatefulSet](s.world, "statefulsets", "db")
}

func (p *statefulSetPlot) user(s *story) {
	if pods := all[*corev1.Pod](s.world, "pods"); s.rand.IntN(6) == 0 && len(pods) > 0 {
		pod := pick(s, pods)
		s.note("user: delete pod %s", pod.Name)
		s.remove("pods", pod.Name)
		return
	}
	edit(s.world, "statefulsets", "db", func(set *appsv1.StatefulSet) {
		switch s.rand.IntN(4) {
		case 0, 1:
			set.Spec.Template.Spec.Containers[0].Image = fmt.Sprint("v", s.rand.IntN(4))
		case 2:
			n := s.rand.Int32N(5)
			set.Spec.Replicas = &n
		case 3:
			n := s.rand.Int32N(3)
			set.Spec.UpdateStrategy.RollingUpdate.Partition = &n
		}
		s.note("user: %d of %s, partition %d", *set.Spec.Replicas, set.Spec.Template.Spec.Containers[0].Image, ptr.Deref(set.Spec.UpdateStrategy.RollingUpdate.Partition, 0))
	})
	p.most = max(p.most, int(*p.set(s).Spec.Replicas))
}

func (p *statefulSetPlot) accident(s *story) {
	if !p.sick {
		return
	}
	if s.rand.IntN(4) == 0 {
		s.nodeLeaves()
		return
	}
	s.mishap()
}

func (p *statefulSetPlot) calm(s *story) {
	edit(s.world, "statefulsets", "db", func(set *appsv1.StatefulSet) { set.Spec.UpdateStrategy.RollingUpdate.Partition = nil })
	s.note("user: no partition")
}

// span are the ordinals that set wants.
func span(set *appsv1.StatefulSet) (first, end int) {
	if set.Spec.Ordinals != nil {
		first = int(set.Spec.Ordinals.Start)
	}
	return first, first + int(*set.Spec.Replicas)
}

func ordinal(name string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(name, "db-"))
	if err != nil {
		return -1
	}
	return n
}

func podName(n int) string { return fmt.Sprint("db-", n) }

// seenPod is the pod of that ordinal as the caller saw it.
func seenPod(saw sight, n int) *corev1.Pod {
	pod, _ := saw["pods"][podName(n)].(*corev1.Pod)
	return pod
}

func (p *statefulSetPlot) check(s *story, e effect) {
	if e.resource != "pods" || e.verb != "create" && e.verb != "delete" {
		return
	}
	if pods := all[*corev1.Pod](s.world, "pods"); len(pods) > p.most {
		s.fail("%d pods, where %d may be", len(pods), p.most)
	} else if set := p.set(s); len(pods) <= int(*set.Spec.Replicas) && set.Status.ObservedGeneration == set.Generation && s.everybodyKnows() {
		p.most = int(*set.Spec.Replicas)
	}
	if why := e.excused(func(saw sight) string {
		set, ok := saw["statefulsets"]["db"].(*appsv1.StatefulSet)
		n := ordinal(e.name)
		switch {
		case !ok || n < 0:
			return fmt.Sprintf("%s, of no StatefulSet", e.call)
		case e.verb == "create":
			return whyNotCreate(set, n, saw)
		}
		return s.whyNotDelete(set, n, e.before, saw)
	}); why != "" {
		s.fail("%s", why)
	}
}

func revision(pod *corev1.Pod) string { return pod.Labels[appsv1.ControllerRevisionHashLabelKey] }

// whyNotCreate says what forbids a pod of that ordinal.
func whyNotCreate(set *appsv1.StatefulSet, n int, saw sight) string {
	first, end := span(set)
	if n < first || n >= end {
		return fmt.Sprintf("created %d, where %d to %d are wanted", n, first, end-1)
	}
	for before := first; before < n && set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement; before++ {
		if !available(seenPod(saw, before)) {
			return fmt.Sprintf("created %d before %d was seen available", n, before)
		}
	}
	return ""
}

// whyNotDelete says what protected the pod of that ordinal.
func (s *story) whyNotDelete(set *appsv1.StatefulSet, n int, is object, saw sight) string {
	victim := seenPod(saw, n)
	if victim == nil || victim.UID != is.GetUID() {
		return fmt.Sprintf("deleted %d, which it had not seen", n)
	}
	if !available(victim) {
		return "" // it protected nobody
	}
	first, end := span(set)
	if n < first || n >= end { // the set shrinks
		for _, other := range saw["pods"] {
			o := ordinal(other.GetName())
			if excess := o < first || o >= end; set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement && excess && o > n {
				return fmt.Sprintf("deleted %d while %d was there", n, o)
			}
		}
		return ""
	}
	down := 0
	for o := first; o < end; o++ {
		pod := seenPod(saw, o)
		if o == n || !available(pod) {
			down++
		}
		is := find[*corev1.Pod](s.world, "pods", podName(o))
		if o > n && available(pod) && revision(pod) == revision(victim) && is != nil && is.UID == pod.UID && is.DeletionTimestamp == nil {
			return fmt.Sprintf("deleted %d before %d, which is as old", n, o)
		}
	}
	if most := set.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.IntValue(); down > most {
		return fmt.Sprintf("deleted %d: then %d were not available, of %d", n, down, most)
	}
	return ""
}

func (p *statefulSetPlot) end(s *story) {
	set := p.set(s)
	pods := all[*corev1.Pod](s.world, "pods")
	n, st := *set.Spec.Replicas, set.Status
	first, end := span(set)
	for _, pod := range pods {
		if o := ordinal(pod.Name); o < first || o >= end || !available(pod) || image(pod) != set.Spec.Template.Spec.Containers[0].Image {
			s.fail("calm, and pod %s of %d to %d: %s, available %t, runs %s, not %s", pod.Name, first, end-1, pod.Status.Phase, available(pod), image(pod), set.Spec.Template.Spec.Containers[0].Image)
		}
	}
	if len(pods) != int(n) || st.Replicas != n || st.AvailableReplicas != n || st.UpdatedReplicas != n || st.CurrentReplicas != n || st.ObservedGeneration != set.Generation || st.CurrentRevision != st.UpdateRevision {
		s.fail("calm, and yet: %d pods of %d; status %+v", len(pods), n, st)
	}
	s.checkHistory(int(*set.Spec.RevisionHistoryLimit))
	if !s.everybodyKnows() {
		s.fail("calm, and somebody does not know")
	}
}

// checkHistory tells whether old templates are forgotten.
func (s *story) checkHistory(limit int) {
	revisions := all[*appsv1.ControllerRevision](s.world, "controllerrevisions")
	inUse := map[string]bool{}
	for _, pod := range all[*corev1.Pod](s.world, "pods") {
		inUse[revision(pod)] = true
	}
	slices.SortFunc(revisions, func(a, b *appsv1.ControllerRevision) int { return int(a.Revision - b.Revision) })
	if n := len(revisions); n > 0 { // it is the present template's, whether or not it has pods yet
		newest := revisions[n-1]
		inUse[newest.Name], inUse[newest.Labels[appsv1.ControllerRevisionHashLabelKey]] = true, true
	}
	idle := 0
	for _, rev := range revisions {
		if !inUse[rev.Name] && !inUse[rev.Labels[appsv1.ControllerRevisionHashLabelKey]] {
			idle++
		}
	}
	if idle > limit {
		s.fail("calm, and %d revisions are kept that nobody uses, not %d", idle, limit)
	}
	for i := 1; i < len(revisions); i++ {
		if revisions[i].Revision == revisions[i-1].Revision {
			s.fail("calm, and two revisions are number %d", revisions[i].Revision)
		}
	}
}
