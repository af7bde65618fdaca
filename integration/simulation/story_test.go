package simulation

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
)

// theme is what a story is about: not every promise holds in every company.
type theme int

const (
	rollouts  theme = iota // pods only get better: the floor holds
	accidents              // pods fail, nodes leave, pods are evicted: the ceiling holds, and it heals
	evictions              // nothing rolls: budgets hold
	themes
)

// story is one seed's run.
type story struct {
	*world
	rand     *rand.Rand
	theme    theme
	programs []*program
	builds   []build
	bounds   bounds
	budget   *policyv1.PodDisruptionBudget
	broken   string
}

const steps = 120

func tell(seed uint64) *story {
	s := &story{world: newWorld(), rand: rand.New(rand.NewPCG(seed, 99)), theme: theme(seed % uint64(themes)), builds: []build{controllers, placement}}
	s.begin()
	for i, b := range s.builds {
		s.programs = append(s.programs, start(s.world, []string{"controllers", "scheduler"}[i], b))
	}
	s.settle(time.Second)
	for step := 0; step < steps && s.broken == ""; step++ {
		s.settle(time.Duration(1+s.rand.IntN(20)) * time.Millisecond)
		s.happen()
	}
	if s.broken == "" {
		s.calm()
	}
	for _, p := range s.programs {
		p.kill(s.world)
	}
	return s
}

// settle lets everybody run until they wait for the world or the clock.
func (s *story) settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (s *story) begin() {
	s.put("namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	for i := range 3 {
		s.addNode(fmt.Sprint("n", i))
	}
	replicas := int32(1 + s.rand.IntN(6))
	surge, unavailable := intstr.FromInt32(s.rand.Int32N(3)), intstr.FromInt32(s.rand.Int32N(3))
	if s.rand.IntN(3) == 0 {
		surge, unavailable = intstr.FromString("25%"), intstr.FromString("25%")
	}
	if surge.IntVal == 0 && surge.StrVal == "" && unavailable.IntVal == 0 && unavailable.StrVal == "" {
		surge = intstr.FromInt32(1)
	}
	labels, limit := map[string]string{"app": "web"}, int32(2)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: namespace, Generation: 1}}
	d.Spec = appsv1.DeploymentSpec{
		Replicas: &replicas, RevisionHistoryLimit: &limit, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
			RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable}},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}},
	}
	d.Spec.Template.Spec = corev1.PodSpec{SchedulerName: corev1.DefaultSchedulerName, Containers: []corev1.Container{{Name: "c", Image: "v0",
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: quantity.MustParse("400m")}}}}}
	s.put("deployments", d)
	s.bounds.reset(d)
	if s.theme == rollouts {
		return
	}
	spare := intstr.FromInt32(s.rand.Int32N(2) + 1)
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: namespace, Generation: 1}}
	b.Spec = policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, MaxUnavailable: &spare}
	if s.rand.IntN(2) == 0 {
		b.Spec.MaxUnavailable, b.Spec.MinAvailable = nil, &spare
	}
	s.put("poddisruptionbudgets", b)
}

func (s *story) addNode(name string) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	n.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: quantity.MustParse("1500m"), corev1.ResourcePods: quantity.MustParse("10"),
		corev1.ResourceMemory: quantity.MustParse("4Gi")}
	n.Status.Capacity = n.Status.Allocatable
	s.put("nodes", n)
	s.note("node %s joins", name)
}

// happen is one step: something that the seed chooses.
func (s *story) happen() {
	switch n := s.rand.IntN(100); {
	case n < 35:
		s.show()
	case n < 65:
		s.answer(true)
	case n < 83:
		s.kubelet()
	case n < 88:
		s.user()
	case n < 91:
		s.disturbWatch()
	case n < 93:
		s.crash(s.rand.IntN(len(s.programs)))
	case n < 96:
		s.settle(time.Duration(s.rand.IntN(1500)) * time.Millisecond)
	default:
		s.accident()
	}
}

// show lets one watch tell of one change, or of one that it has told of already.
func (s *story) show() bool {
	behind := slices.DeleteFunc(slices.Clone(s.watches), func(v *watcher) bool { return v.next() == nil })
	if len(behind) == 0 {
		return false
	}
	v := behind[s.rand.IntN(len(behind))]
	for range 1 + s.rand.IntN(4) {
		e := v.next()
		if e == nil {
			break
		}
		s.note("%s sees %s %s %s@%d", v.from.name, e.what, v.resource, e.obj.GetName(), e.version)
		v.show(e)
		if e.what == watch.Modified && s.rand.IntN(20) == 0 {
			s.note("%s sees it again", v.from.name)
			synctest.Wait()
			v.show(e)
		}
		synctest.Wait()
	}
	return true
}

// answer lets one call happen, or fail before, or after.
func (s *story) answer(faults bool) bool {
	waiting := s.waiting()
	if len(waiting) == 0 {
		return false
	}
	i := s.rand.IntN(len(waiting))
	c := waiting[i]
	s.calls = slices.Delete(waiting, i, i+1)
	chance := 99
	if faults {
		chance = s.rand.IntN(100)
	}
	if chance < 4 {
		c.err = apierrors.NewInternalError(fmt.Errorf("etcdserver: request timed out"))
		s.note("%s: %s: refused", c.from.name, c.label)
	} else {
		victim := s.table("pods").objects[strings.TrimPrefix(c.label, "delete pods ")]
		c.err = c.do()
		s.note("%s: %s: %v", c.from.name, c.label, c.err)
		// A scheduler that is not told of its binding forgets it until it is shown, and may fill the node twice: as upstream's.
		lost := chance < 7 && c.err == nil && !strings.HasPrefix(c.label, "bind ")
		s.check(victim, c, lost)
		if lost {
			s.note("... and the answer is lost")
			c.err = errLost
		}
	}
	close(c.done)
	return true
}

func (s *story) crash(i int) {
	s.note("%s is killed", s.programs[i].name)
	s.programs[i].kill(s.world)
	s.programs[i] = start(s.world, s.programs[i].name, s.builds[i])
	s.settle(time.Second) // they look every 100 ms whether their caches are filled
}

// disturbWatch ends a watch. What happened since is told to the next, or is forgotten and must be listed.
func (s *story) disturbWatch() {
	if len(s.watches) == 0 {
		return
	}
	v := s.watches[s.rand.IntN(len(s.watches))]
	if s.rand.IntN(2) == 0 {
		s.table(v.resource).forgotten = s.version
	}
	s.note("%s: watch of %s ends, history since %d", v.from.name, v.resource, s.table(v.resource).forgotten)
	v.end()
	s.settle(5 * time.Second) // however long the pause that it draws by lot, it is over then
}

// kubelet lets one pod take one step.
func (s *story) kubelet() bool {
	var can []*corev1.Pod
	for _, p := range all[*corev1.Pod](s.world, "pods") {
		if p.Spec.NodeName != "" && (p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodPending || p.Status.Phase == corev1.PodRunning && !ready(p)) {
			can = append(can, p)
		}
	}
	if len(can) == 0 {
		return false
	}
	p := can[s.rand.IntN(len(can))].DeepCopy()
	switch {
	case p.DeletionTimestamp != nil:
		s.note("kubelet: pod %s is gone", p.Name)
		s.drop("pods", p.Name)
		return true
	case p.Status.Phase == corev1.PodPending:
		p.Status.Phase = corev1.PodRunning
	default:
		setReady(p, corev1.ConditionTrue)
	}
	s.note("kubelet: pod %s is %s, ready %t", p.Name, p.Status.Phase, ready(p))
	s.put("pods", p)
	return true
}

func ready(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func setReady(p *corev1.Pod, to corev1.ConditionStatus) {
	p.Status.Conditions = slices.DeleteFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady })
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: to, LastTransitionTime: metav1.Now()})
}

// user changes what is wanted.
func (s *story) user() {
	if s.theme == evictions {
		s.evict()
		return
	}
	d := s.table("deployments").objects["web"].(*appsv1.Deployment).DeepCopy()
	switch s.rand.IntN(5) {
	case 0, 1:
		d.Spec.Template.Spec.Containers[0].Image = fmt.Sprint("v", s.rand.IntN(4))
	case 2:
		n := 1 + s.rand.Int32N(6)
		d.Spec.Replicas = &n
	case 3:
		d.Spec.Paused = !d.Spec.Paused
	}
	if !specChanged(s.table("deployments").objects["web"], d) {
		return
	}
	d.Generation++
	s.note("user: %d of %s, paused %t", *d.Spec.Replicas, d.Spec.Template.Spec.Containers[0].Image, d.Spec.Paused)
	s.put("deployments", d)
	s.bounds.widen(d)
}

// accident is what nobody asked for.
func (s *story) accident() {
	if s.theme == evictions {
		s.evict()
	}
	if s.theme != accidents {
		return
	}
	pods := all[*corev1.Pod](s.world, "pods")
	switch s.rand.IntN(4) {
	case 0:
		s.evict()
	case 1:
		s.nodeLeaves()
	default:
		if len(pods) == 0 {
			return
		}
		p := pods[s.rand.IntN(len(pods))].DeepCopy()
		if p.Spec.NodeName == "" || p.Status.Phase != corev1.PodRunning {
			return
		}
		if setReady(p, corev1.ConditionFalse); s.rand.IntN(2) == 0 {
			p.Status.Phase = corev1.PodFailed
		}
		s.note("accident: pod %s is %s and not ready", p.Name, p.Status.Phase)
		s.put("pods", p)
	}
}

func (s *story) nodeLeaves() {
	name := fmt.Sprint("n", s.rand.IntN(3))
	if s.table("nodes").objects[name] == nil {
		s.addNode(name)
		return
	}
	s.note("node %s leaves with its pods", name)
	s.drop("nodes", name)
	s.sweep()
}

// sweep is pod GC and the garbage collector: pods of nodes and ReplicaSets that are no more end.
func (s *story) sweep() {
	for _, p := range all[*corev1.Pod](s.world, "pods") {
		ref := metav1.GetControllerOfNoCopy(p)
		if p.Spec.NodeName != "" && s.table("nodes").objects[p.Spec.NodeName] == nil || ref != nil && s.table("replicasets").objects[ref.Name] == nil {
			s.note("garbage: %s", p.Name)
			s.drop("pods", p.Name)
		}
	}
}

// evict is the eviction subresource: it spends what the budget's status allows.
func (s *story) evict() {
	b := s.table("poddisruptionbudgets").objects["web"].(*policyv1.PodDisruptionBudget)
	for _, p := range all[*corev1.Pod](s.world, "pods") {
		if !ready(p) || p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodRunning || s.rand.IntN(3) == 0 {
			continue
		}
		if b.Status.ObservedGeneration < b.Generation || b.Status.DisruptionsAllowed <= 0 {
			s.note("eviction of %s refused", p.Name)
			return
		}
		b = b.DeepCopy()
		b.Status.DisruptionsAllowed--
		if b.Status.DisruptedPods == nil {
			b.Status.DisruptedPods = map[string]metav1.Time{}
		}
		b.Status.DisruptedPods[p.Name] = metav1.Now()
		s.put("poddisruptionbudgets", b)
		s.note("eviction of %s", p.Name)
		s.remove("pods", p.Name)
		s.checkBudget(b)
		return
	}
}

// calm ends the faults: everything that waits happens, until nothing is left to do.
func (s *story) calm() {
	s.note("calm")
	for i := range 3 {
		if name := fmt.Sprint("n", i); s.table("nodes").objects[name] == nil {
			s.addNode(name)
		}
	}
	if d := s.table("deployments").objects["web"].(*appsv1.Deployment).DeepCopy(); d.Spec.Paused {
		d.Spec.Paused = false
		d.Generation++
		s.put("deployments", d)
	}
	for quiet := 0; quiet < 12 && s.broken == ""; {
		s.sweep()
		busy := false
		for range 3 {
			busy = s.show() || busy
		}
		if busy = s.answer(false) || busy; !busy {
			busy = s.kubelet()
		}
		if busy {
			quiet = 0
			s.settle(time.Millisecond)
			continue
		}
		quiet++
		s.settle(time.Minute)
	}
	if s.broken == "" {
		s.checkEnd()
	}
}
