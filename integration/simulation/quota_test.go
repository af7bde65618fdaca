package simulation

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
)

// quotaPlot is of one ReplicationController whose namespace has a quota of pods, which may be less than it wants.
type quotaPlot struct {
	// leaks tells that pods are charged that are never made: only a full count finds out.
	leaks bool
	// most is the greatest number of replicas that was wanted since they were all there.
	most int
	// excess is how many pods may be too many: a maker that was not told what it made makes another.
	excess int
	// known are the pods that the controllers' cache has shown. One that came and went while no watch told of it stays
	// charged until the next full count.
	known map[string]bool
}

func (p *quotaPlot) parts() []string {
	if p.leaks {
		return []string{"replicationcontroller", "resourcequota, counting often"}
	}
	return []string{"replicationcontroller", "resourcequota"}
}

func (p *quotaPlot) begin(s *story) {
	p.most, p.known = 1+s.rand.IntN(5), map[string]bool{}
	rc := &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "old", Namespace: namespace}}
	rc.Spec = corev1.ReplicationControllerSpec{Replicas: ptr.To(int32(p.most)), Selector: map[string]string{"app": "old"}, Template: ptr.To(template("old", "v0"))}
	s.put("replicationcontrollers", rc)
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "few", Namespace: namespace}}
	q.Spec.Hard = pods(s.rand.IntN(7))
	s.put("resourcequotas", q)
	s.admit = func(pod *corev1.Pod) error { return p.charge(s, pod) }
	s.note("user: ReplicationController of %d, quota of %d", p.most, amount(q.Spec.Hard))
}

func pods(n int) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourcePods: *quantity.NewQuantity(int64(n), quantity.DecimalSI)}
}

func amount(l corev1.ResourceList) int { n := l[corev1.ResourcePods]; return int(n.Value()) }

func (p *quotaPlot) quota(s *story) *corev1.ResourceQuota {
	return find[*corev1.ResourceQuota](s.world, "resourcequotas", "few")
}

func (p *quotaPlot) set(s *story) *corev1.ReplicationController {
	return find[*corev1.ReplicationController](s.world, "replicationcontrollers", "old")
}

// charge is what admission does before a pod is stored.
func (p *quotaPlot) charge(s *story, pod *corev1.Pod) error {
	q := p.quota(s)
	_, counted := q.Status.Used[corev1.ResourcePods]
	refuse := func(why string) error {
		return apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, pod.Name, fmt.Errorf("%s: %s", why, q.Name))
	}
	if !counted {
		return refuse("status unknown for quota")
	}
	if amount(q.Status.Used) >= amount(q.Status.Hard) {
		return refuse("exceeded quota")
	}
	edit(s.world, "resourcequotas", q.Name, func(q *corev1.ResourceQuota) { q.Status.Used = pods(amount(q.Status.Used) + 1) })
	if p.leaks && s.rand.IntN(10) == 0 {
		return apierrors.NewInternalError(fmt.Errorf("etcdserver: leader changed"))
	}
	return nil
}

// beat remembers what the controllers can see.
func (p *quotaPlot) beat(s *story) {
	for _, in := range s.informers(func(in *informer) bool { return in.from.name == "controllers" && in.resource == "pods" }) {
		for name := range in.objects() {
			p.known[name] = true
		}
	}
}

// forgotten is how many pods came and went unseen.
func (p *quotaPlot) forgotten(s *story) (n int) {
	for _, e := range s.table("pods").history {
		if e.what == watch.Added && !p.known[e.obj.GetName()] {
			n++
		}
	}
	return n
}

func (p *quotaPlot) user(s *story) {
	switch s.rand.IntN(3) {
	case 0:
		n := s.rand.IntN(7)
		edit(s.world, "resourcequotas", "few", func(q *corev1.ResourceQuota) { q.Spec.Hard = pods(n) })
		s.note("user: quota of %d", n)
	case 1:
		n := s.rand.IntN(6)
		edit(s.world, "replicationcontrollers", "old", func(rc *corev1.ReplicationController) { rc.Spec.Replicas = ptr.To(int32(n)) })
		p.most = max(p.most, n)
		s.note("user: ReplicationController of %d", n)
	default:
		if pods := all[*corev1.Pod](s.world, "pods"); len(pods) > 0 {
			pod := pick(s, pods)
			s.note("user: delete pod %s", pod.Name)
			s.remove("pods", pod.Name)
		}
	}
}

func (p *quotaPlot) accident(s *story) {
	if s.rand.IntN(3) == 0 {
		s.nodeLeaves()
	} else {
		s.mishap()
	}
}

func (p *quotaPlot) calm(s *story) {
	if s.rand.IntN(2) == 0 {
		edit(s.world, "resourcequotas", "few", func(q *corev1.ResourceQuota) { q.Spec.Hard = pods(6) })
		s.note("user: quota of 6")
	}
}

// charged is how many pods a quota counts.
func charged(objs map[string]object) (n int) {
	for _, obj := range objs {
		if !ended(obj.(*corev1.Pod)) {
			n++
		}
	}
	return n
}

func (p *quotaPlot) check(s *story, e effect) {
	if e.lost && e.verb == "create" && e.resource == "pods" {
		p.excess++
	}
	have := s.census().active
	if have > p.most+p.excess {
		s.fail("%d pods, where at most %d were wanted and %d may be too many", have, p.most, p.excess)
	}
	if rc := p.set(s); have == int(*rc.Spec.Replicas) && s.everybodyKnows() {
		p.most, p.excess = have, 0
	}
	if e.resource != "resourcequotas" {
		return
	}
	q := e.out.(*corev1.ResourceQuota)
	if why := e.excused(func(saw sight) string {
		old, _ := saw["resourcequotas"][q.Name].(*corev1.ResourceQuota)
		if old == nil || amount(q.Status.Hard) != amount(old.Spec.Hard) {
			return fmt.Sprintf("the quota's status says %d, of %v", amount(q.Status.Hard), old)
		}
		if most, is := charged(saw["pods"]), amount(q.Status.Used); is > most {
			return fmt.Sprintf("%d pods are counted of %d", is, most)
		}
		return ""
	}); why != "" {
		s.fail("%s", why)
	}
	for _, pod := range all[*corev1.Pod](s.world, "pods") { // what everybody has seen and nobody deletes counts
		if seen := e.saw[0]["pods"][pod.Name]; live(pod) && seen == nil {
			return
		}
	}
	if is := amount(q.Status.Used); is < have {
		s.fail("%d pods are counted, and %d are there and known", is, have)
	}
}

func (p *quotaPlot) end(s *story) {
	rc, q, have := p.set(s), p.quota(s), s.census()
	wanted, most := int(*rc.Spec.Replicas), amount(q.Spec.Hard)
	extra := 0
	if !p.leaks {
		extra = p.forgotten(s)
	}
	if n := len(s.table("pods").objects); n != have.active {
		for _, pod := range all[*corev1.Pod](s.world, "pods") {
			if pod.DeletionTimestamp != nil {
				s.fail("calm, and pod %s never goes", pod.Name)
			}
		}
	}
	if have.active > wanted || have.active < min(wanted, most-extra) {
		s.fail("calm, and %d pods, where %d are wanted and %d may be", have.active, wanted, most)
	}
	if is, hard := amount(q.Status.Used), amount(q.Status.Hard); is < have.active || is > have.active+extra || hard != most {
		s.fail("calm, and %d pods of at most %d; the quota says %d of %d", have.active, most, is, hard)
	}
	failed := len(rc.Status.Conditions) > 0
	if failed != (have.active < wanted) {
		s.fail("calm, %d pods, where %d are wanted, and conditions %v", have.active, wanted, rc.Status.Conditions)
	}
	if st := rc.Status; int(st.Replicas) != have.active || int(st.AvailableReplicas) != have.available || have.available != have.active || st.ObservedGeneration != rc.Generation {
		s.fail("calm, %+v, and the status says %+v", have, st)
	}
	if !s.everybodyKnows() && have.active == wanted {
		s.fail("calm, and somebody does not know")
	}
}
