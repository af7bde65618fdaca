package simulation

import (
	"fmt"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// bounds are between how many pods there may be. They span all that was asked for since the last time that it was there.
// As upstream, a Deployment counts what it asks of its ReplicaSets: the old one's pods may go a moment after the new one's
// came. So the ceiling is over what they are asked for, and each ReplicaSet has its own, of pods.
type bounds struct {
	floor, ceiling int
	sets           map[string]int
	// excess is how many pods may be too many: makers that were not told what they made make another.
	excess int
}

func sizes(d *appsv1.Deployment) (floor, ceiling int) {
	n := int(*d.Spec.Replicas)
	surge, _ := intstr.GetScaledValueFromIntOrPercent(d.Spec.Strategy.RollingUpdate.MaxSurge, n, true)
	unavailable, _ := intstr.GetScaledValueFromIntOrPercent(d.Spec.Strategy.RollingUpdate.MaxUnavailable, n, false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return n - min(n, unavailable), n + surge
}

func (b *bounds) reset(d *appsv1.Deployment) {
	b.floor, b.ceiling = sizes(d)
	b.excess, b.sets = 0, map[string]int{}
}

func (b *bounds) widen(d *appsv1.Deployment) {
	floor, ceiling := sizes(d)
	b.floor, b.ceiling = min(b.floor, floor), max(b.ceiling, ceiling)
}

// census is the truth about the pods.
type census struct{ active, available int }

func (w *world) look() census {
	var c census
	for _, p := range all[*corev1.Pod](w, "pods") {
		if live(p) {
			c.active++
			if ready(p) {
				c.available++
			}
		}
	}
	return c
}

func live(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded
}

func (s *story) fail(format string, args ...any) {
	if s.broken == "" {
		s.broken = fmt.Sprintf(format, args...)
	}
}

// check looks at the world after an effect of one of the programs.
// victim is the pod that it was about, as it was before.
func (s *story) check(victim object, c *call, lost bool) {
	now := s.look()
	d := s.table("deployments").objects["web"].(*appsv1.Deployment)
	if lost && strings.HasPrefix(c.label, "create pods") {
		s.bounds.excess++
	}
	if lost && strings.HasPrefix(c.label, "create replicasets") {
		s.bounds.ceiling *= 2
	}
	if *floor && s.theme == rollouts && now.available < s.bounds.floor && knew(c, victim) {
		s.fail("%d pods available, where %d must be", now.available, s.bounds.floor)
	}
	s.checkSets()
	s.checkOwners()
	s.checkNodes()
	if s.settled(d, now) {
		s.bounds.reset(d)
		for _, rs := range all[*appsv1.ReplicaSet](s.world, "replicasets") {
			s.bounds.sets[rs.Name] = int(*rs.Spec.Replicas)
		}
	}
}

// knew tells that the call ends a pod that its caller had been shown to be available. Whoever takes away what it does not
// know to be available breaks no promise.
func knew(c *call, victim object) bool {
	pod, ok := victim.(*corev1.Pod)
	if !ok || !strings.HasPrefix(c.label, "delete pods ") || !live(pod) || !ready(pod) {
		return false
	}
	version, err := strconv.ParseInt(pod.ResourceVersion, 10, 64)
	return err == nil && version <= c.shown
}

// checkSets tells whether more pods are asked for than may be.
func (s *story) checkSets() {
	asked, have := 0, map[string]int{}
	for _, p := range all[*corev1.Pod](s.world, "pods") {
		if ref := metav1.GetControllerOfNoCopy(p); live(p) && ref != nil {
			have[ref.Name]++
		}
	}
	for _, rs := range all[*appsv1.ReplicaSet](s.world, "replicasets") {
		wants := int(*rs.Spec.Replicas)
		asked += wants
		s.bounds.sets[rs.Name] = max(s.bounds.sets[rs.Name], wants)
		if most := s.bounds.sets[rs.Name] + s.bounds.excess; have[rs.Name] > most {
			s.fail("ReplicaSet %s has %d pods, where %d may be", rs.Name, have[rs.Name], most)
		}
	}
	if asked > s.bounds.ceiling {
		s.fail("ReplicaSets ask for %d pods, where %d may be", asked, s.bounds.ceiling)
	}
}

// checkOwners looks for orphans: pods whose ReplicaSet is no more, ReplicaSets whose Deployment is no more.
func (s *story) checkOwners() {
	for _, p := range all[*corev1.Pod](s.world, "pods") {
		ref := metav1.GetControllerOfNoCopy(p)
		if ref == nil {
			s.fail("pod %s has no owner", p.Name)
			continue
		}
		if rs := s.table("replicasets").objects[ref.Name]; live(p) && (rs == nil || rs.GetUID() != ref.UID) {
			s.fail("pod %s is of ReplicaSet %s, which is no more", p.Name, ref.Name)
		}
	}
	for _, rs := range all[*appsv1.ReplicaSet](s.world, "replicasets") {
		if ref := metav1.GetControllerOfNoCopy(rs); ref == nil || s.table("deployments").objects[ref.Name] == nil {
			s.fail("ReplicaSet %s has no owner", rs.Name)
		}
	}
}

// checkNodes tells whether a node has taken more than it has.
func (s *story) checkNodes() {
	used := map[string]int64{}
	for _, p := range all[*corev1.Pod](s.world, "pods") {
		if p.Spec.NodeName != "" && p.Status.Phase != corev1.PodFailed {
			used[p.Spec.NodeName] += p.Spec.Containers[0].Resources.Requests.Cpu().MilliValue()
		}
	}
	for _, n := range all[*corev1.Node](s.world, "nodes") {
		if have := n.Status.Allocatable.Cpu().MilliValue(); used[n.Name] > have {
			s.fail("node %s has %dm and pods of %dm", n.Name, have, used[n.Name])
		}
	}
}

// checkBudget follows an eviction. Only where nothing but evictions takes pods away does the status promise the truth.
func (s *story) checkBudget(b *policyv1.PodDisruptionBudget) {
	if s.theme != evictions {
		return
	}
	if healthy, least := s.look().available, s.least(b); healthy < least {
		s.fail("an eviction left %d healthy pods, where the budget wants %d", healthy, least)
	}
}

func (s *story) least(b *policyv1.PodDisruptionBudget) int {
	if b.Spec.MinAvailable != nil {
		return b.Spec.MinAvailable.IntValue()
	}
	d := s.table("deployments").objects["web"].(*appsv1.Deployment)
	return max(int(*d.Spec.Replicas)-b.Spec.MaxUnavailable.IntValue(), 0)
}

// settled tells that all is as declared, and everybody knows.
func (s *story) settled(d *appsv1.Deployment, now census) bool {
	n := *d.Spec.Replicas
	st := d.Status
	asked := int32(0)
	for _, rs := range all[*appsv1.ReplicaSet](s.world, "replicasets") {
		asked += *rs.Spec.Replicas
		if rs.Status.Replicas != *rs.Spec.Replicas || rs.Status.ObservedGeneration < rs.Generation {
			return false
		}
	}
	behind := false
	for _, v := range s.watches {
		behind = behind || v.next() != nil
	}
	return !behind && len(s.calls) == 0 && asked == n && now.active == int(n) && now.available == int(n) && st.ObservedGeneration == d.Generation && st.UpdatedReplicas == n && st.AvailableReplicas == n
}

// checkEnd tells whether all became what it was declared to be.
func (s *story) checkEnd() {
	d := s.table("deployments").objects["web"].(*appsv1.Deployment)
	now := s.look()
	if !s.settled(d, now) {
		s.fail("calm, and yet: %d wanted; %+v; status %+v; %s", *d.Spec.Replicas, now, d.Status, s.sets())
	}
	for _, p := range all[*corev1.Pod](s.world, "pods") {
		if live(p) && p.Spec.Containers[0].Image != d.Spec.Template.Spec.Containers[0].Image {
			s.fail("calm, and pod %s runs %s", p.Name, p.Spec.Containers[0].Image)
		}
	}
	if obj := s.table("poddisruptionbudgets").objects["web"]; obj != nil {
		b := obj.(*policyv1.PodDisruptionBudget)
		if int(b.Status.CurrentHealthy) != now.available || int(b.Status.DisruptionsAllowed) != max(now.available-s.least(b), 0) {
			s.fail("calm, %d healthy, and the budget says %+v", now.available, b.Status)
		}
	}
}

func (s *story) sets() string {
	var out []string
	for _, rs := range all[*appsv1.ReplicaSet](s.world, "replicasets") {
		out = append(out, fmt.Sprintf("%s %s wants %d, has %d", rs.Name, rs.Spec.Template.Spec.Containers[0].Image, *rs.Spec.Replicas, rs.Status.Replicas))
	}
	return strings.Join(out, "; ")
}
