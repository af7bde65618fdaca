package simulation

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	rollouts  = iota // pods only get better: the floor holds
	accidents        // pods fail, nodes leave, pods are evicted: the ceiling holds, and it heals
	evictions        // nothing rolls: budgets hold
)

// deploymentPlot is of one Deployment, and its budget.
//
// The bounds are between how many pods there may be. They span all that was asked for since the last time that it was there.
// As upstream, a Deployment counts what it asks of its ReplicaSets: the old one's pods may go a moment after the new one's
// came. So the ceiling is over what they are asked for, and each ReplicaSet has its own, of pods.
type deploymentPlot struct {
	mode           int
	floor, ceiling int
	sets           map[string]int
	// counted is how many pods of each ReplicaSet were seen available when it was last made smaller: one that becomes
	// available after that may be among those that go.
	counted map[string]int
	// excess is how many pods may be too many: makers that were not told what they made make another.
	excess int
}

func (p *deploymentPlot) parts() []string { return []string{"deployment", "replicaset", "disruption"} }

func (p *deploymentPlot) begin(s *story) {
	replicas := int32(1 + s.rand.IntN(6))
	surge, unavailable := intstr.FromInt32(s.rand.Int32N(3)), intstr.FromInt32(s.rand.Int32N(3))
	if s.rand.IntN(3) == 0 {
		surge, unavailable = intstr.FromString("25%"), intstr.FromString("25%")
	}
	if surge.IntVal == 0 && surge.StrVal == "" && unavailable.IntVal == 0 && unavailable.StrVal == "" {
		surge = intstr.FromInt32(1)
	}
	labels, limit := map[string]string{"app": "web"}, int32(2)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: namespace}}
	d.Spec = appsv1.DeploymentSpec{
		Replicas: &replicas, RevisionHistoryLimit: &limit, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
			RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable}},
		Template: template("web", "v0"),
	}
	s.put("deployments", d)
	s.note("user: Deployment of %d, surge %s, unavailable %s", replicas, surge.String(), unavailable.String())
	p.reset(d)
	if p.mode == rollouts {
		return
	}
	spare := intstr.FromInt32(s.rand.Int32N(2) + 1)
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: namespace}}
	b.Spec = policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, MaxUnavailable: &spare}
	if s.rand.IntN(2) == 0 {
		b.Spec.MaxUnavailable, b.Spec.MinAvailable = nil, &spare
	}
	s.put("poddisruptionbudgets", b)
}

func (p *deploymentPlot) deployment(s *story) *appsv1.Deployment {
	return find[*appsv1.Deployment](s.world, "deployments", "web")
}

func (p *deploymentPlot) user(s *story) {
	if p.mode == evictions {
		p.evict(s)
		return
	}
	edit(s.world, "deployments", "web", func(d *appsv1.Deployment) {
		switch s.rand.IntN(5) {
		case 0, 1:
			d.Spec.Template.Spec.Containers[0].Image = fmt.Sprint("v", s.rand.IntN(4))
		case 2:
			n := 1 + s.rand.Int32N(6)
			d.Spec.Replicas = &n
		case 3:
			d.Spec.Paused = !d.Spec.Paused
		}
		s.note("user: %d of %s, paused %t", *d.Spec.Replicas, d.Spec.Template.Spec.Containers[0].Image, d.Spec.Paused)
	})
	floor, ceiling := sizes(p.deployment(s))
	p.floor, p.ceiling = min(p.floor, floor), max(p.ceiling, ceiling)
}

func (p *deploymentPlot) accident(s *story) {
	if p.mode == rollouts {
		return
	}
	n := s.rand.IntN(4)
	switch {
	case p.mode == evictions || n == 0:
		p.evict(s)
	case n == 1:
		s.nodeLeaves()
	default:
		s.mishap()
	}
}

func (p *deploymentPlot) calm(s *story) {
	if p.deployment(s).Spec.Paused {
		edit(s.world, "deployments", "web", func(d *appsv1.Deployment) { d.Spec.Paused = false })
	}
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

func (p *deploymentPlot) reset(d *appsv1.Deployment) {
	p.floor, p.ceiling = sizes(d)
	p.excess, p.sets, p.counted = 0, map[string]int{}, map[string]int{}
}

// census is the truth about the pods.
type census struct{ active, available int }

func (w *world) census() census {
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

func (p *deploymentPlot) check(s *story, e effect) {
	have := s.census()
	if e.lost && e.verb == "create" && e.resource == "pods" {
		p.excess++
	}
	p.count(e)
	// Whoever takes away what it does not know to be available breaks no promise.
	if victim, ok := e.before.(*corev1.Pod); ok && p.mode == rollouts && e.verb == "delete" && available(victim) && have.available < p.floor {
		if why := e.excused(func(saw sight) string {
			if seen := saw["pods"][e.name]; seen == nil || seen.GetResourceVersion() != victim.ResourceVersion {
				return ""
			}
			set := metav1.GetControllerOfNoCopy(victim).Name
			if counted, shrunk := p.counted[set]; shrunk && availableOf(s.table("pods").objects, set) >= counted {
				return ""
			}
			return fmt.Sprintf("%d pods available, where %d must be", have.available, p.floor)
		}); why != "" {
			s.fail("%s", why)
		}
	}
	p.checkSets(s)
	if d := p.deployment(s); p.settled(s, d, have) {
		p.reset(d)
		for _, rs := range all[*appsv1.ReplicaSet](s.world, "replicasets") {
			p.sets[rs.Name] = int(*rs.Spec.Replicas)
		}
	}
}

// count notes what a ReplicaSet that is made smaller was known to have.
func (p *deploymentPlot) count(e effect) {
	before, ok := e.before.(*appsv1.ReplicaSet)
	if !ok || e.verb != "update" {
		return
	}
	if *e.out.(*appsv1.ReplicaSet).Spec.Replicas >= *before.Spec.Replicas {
		return
	}
	least, known := p.counted[before.Name]
	for _, saw := range e.saw {
		if n := availableOf(saw["pods"], before.Name); !known || n < least {
			least, known = n, true
		}
	}
	p.counted[before.Name] = least
}

// availableOf counts the available pods of a ReplicaSet.
func availableOf(pods map[string]object, set string) (n int) {
	for _, obj := range pods {
		pod := obj.(*corev1.Pod)
		if ref := metav1.GetControllerOfNoCopy(pod); available(pod) && ref != nil && ref.Name == set {
			n++
		}
	}
	return n
}

// checkSets tells whether more pods are asked for than may be.
func (p *deploymentPlot) checkSets(s *story) {
	asked, have := 0, map[string]int{}
	for _, pod := range all[*corev1.Pod](s.world, "pods") {
		if ref := metav1.GetControllerOfNoCopy(pod); live(pod) && ref != nil {
			have[ref.Name]++
		}
	}
	for _, rs := range all[*appsv1.ReplicaSet](s.world, "replicasets") {
		wants := int(*rs.Spec.Replicas)
		asked += wants
		p.sets[rs.Name] = max(p.sets[rs.Name], wants)
		if most := p.sets[rs.Name] + p.excess; have[rs.Name] > most {
			s.fail("ReplicaSet %s has %d pods, where %d may be", rs.Name, have[rs.Name], most)
		}
	}
	if asked > p.ceiling {
		s.fail("ReplicaSets ask for %d pods, where %d may be", asked, p.ceiling)
	}
}

// evict is the eviction subresource: it spends what the budget's status allows.
func (p *deploymentPlot) evict(s *story) {
	b := find[*policyv1.PodDisruptionBudget](s.world, "poddisruptionbudgets", "web")
	for _, pod := range all[*corev1.Pod](s.world, "pods") {
		if !available(pod) || pod.Status.Phase != corev1.PodRunning || s.rand.IntN(3) == 0 {
			continue
		}
		if b.Status.ObservedGeneration < b.Generation || b.Status.DisruptionsAllowed <= 0 {
			s.note("eviction of %s refused", pod.Name)
			return
		}
		edit(s.world, "poddisruptionbudgets", "web", func(b *policyv1.PodDisruptionBudget) {
			b.Status.DisruptionsAllowed--
			if b.Status.DisruptedPods == nil {
				b.Status.DisruptedPods = map[string]metav1.Time{}
			}
			b.Status.DisruptedPods[pod.Name] = now()
		})
		s.note("eviction of %s", pod.Name)
		s.remove("pods", pod.Name)
		// Only where nothing but evictions takes pods away does the status promise the truth, and so not where one was too many.
		trusted := p.mode == evictions && p.excess == 0
		if healthy, least := s.census().available, p.least(s, b); trusted && healthy < least {
			s.fail("an eviction left %d healthy pods, where the budget wants %d", healthy, least)
		}
		return
	}
}

func (p *deploymentPlot) least(s *story, b *policyv1.PodDisruptionBudget) int {
	if b.Spec.MinAvailable != nil {
		return b.Spec.MinAvailable.IntValue()
	}
	return max(int(*p.deployment(s).Spec.Replicas)-b.Spec.MaxUnavailable.IntValue(), 0)
}

// settled tells that all is as declared, and everybody knows.
func (p *deploymentPlot) settled(s *story, d *appsv1.Deployment, have census) bool {
	n, st := *d.Spec.Replicas, d.Status
	asked := int32(0)
	for _, rs := range all[*appsv1.ReplicaSet](s.world, "replicasets") {
		asked += *rs.Spec.Replicas
		if rs.Status.Replicas != *rs.Spec.Replicas || rs.Status.ObservedGeneration < rs.Generation {
			return false
		}
	}
	return asked == n && have.active == int(n) && have.available == int(n) && st.ObservedGeneration == d.Generation && st.UpdatedReplicas == n &&
		st.AvailableReplicas == n && s.everybodyKnows()
}

func (p *deploymentPlot) end(s *story) {
	d, have := p.deployment(s), s.census()
	if !p.settled(s, d, have) {
		var sets []string
		for _, rs := range all[*appsv1.ReplicaSet](s.world, "replicasets") {
			sets = append(sets, fmt.Sprintf("%s %s wants %d, has %d", rs.Name, rs.Spec.Template.Spec.Containers[0].Image, *rs.Spec.Replicas, rs.Status.Replicas))
		}
		s.fail("calm, and yet: %d wanted; %+v; status %+v; %s", *d.Spec.Replicas, have, d.Status, strings.Join(sets, "; "))
	}
	for _, pod := range all[*corev1.Pod](s.world, "pods") {
		if live(pod) && image(pod) != d.Spec.Template.Spec.Containers[0].Image {
			s.fail("calm, and pod %s runs %s", pod.Name, image(pod))
		}
	}
	if b := find[*policyv1.PodDisruptionBudget](s.world, "poddisruptionbudgets", "web"); b != nil {
		if int(b.Status.CurrentHealthy) != have.available || int(b.Status.DisruptionsAllowed) != max(have.available-p.least(s, b), 0) {
			s.fail("calm, %d healthy, and the budget says %+v", have.available, b.Status)
		}
	}
}

// everybodyKnows tells that no cache is behind, no handler is late and no call waits.
func (s *story) everybodyKnows() bool {
	return len(s.calls) == 0 && len(s.informers(func(in *informer) bool {
		for _, l := range in.listeners {
			if len(l.pending) > 0 {
				return true
			}
		}
		return in.missed || in.behind(s.world)
	})) == 0
}
