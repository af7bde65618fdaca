package simulation

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// plot is what a story is about: not every promise holds in every company.
type plot interface {
	// parts are the controllers that it needs.
	parts() []string
	begin(s *story)
	// user changes what is wanted.
	user(s *story)
	// accident is what nobody asked for.
	accident(s *story)
	// check looks at the world after an effect of one of the programs.
	check(s *story, e effect)
	// calm takes back what keeps the world from becoming what was declared.
	calm(s *story)
	// end tells whether it did.
	end(s *story)
}

var plots = []func() plot{
	func() plot { return &deploymentPlot{mode: rollouts} },
	func() plot { return &deploymentPlot{mode: accidents} },
	func() plot { return &deploymentPlot{mode: evictions} },
	func() plot { return &statefulSetPlot{} },
	func() plot { return &statefulSetPlot{sick: true} },
	func() plot { return &daemonSetPlot{} },
	func() plot { return &daemonSetPlot{sick: true} },
	func() plot { return &daemonSetPlot{sick: true, byHand: true} },
	func() plot { return &jobPlot{} },
	func() plot { return &jobPlot{sick: true} },
	func() plot { return &lifePlot{} },
	func() plot { return &nodesPlot{} },
	func() plot { return &autoscalePlot{} },
	func() plot { return &cronPlot{} },
	func() plot { return &slicesPlot{} },
	func() plot { return &volumesPlot{} },
	func() plot { return &quotaPlot{} },
	func() plot { return &quotaPlot{leaks: true} },
}

// effect is a call that was carried out.
type effect struct {
	*call
	// before is the object that it was about, as it was.
	before object
	// lost tells that the caller will not know.
	lost bool
}

// excused returns why an effect breaks a promise by all that its caller may have decided on, "" where it does not by some:
// it may have read what is wanted before it waited for an answer, and pods and nodes after.
func (e effect) excused(why func(saw sight) string) (last string) {
	for i := range e.saw {
		for _, later := range e.saw[i:] {
			saw := maps.Clone(e.saw[i])
			saw["pods"], saw["nodes"] = later["pods"], later["nodes"]
			if last = why(saw); last == "" {
				return ""
			}
		}
	}
	return last
}

// story is one seed's run.
type story struct {
	*world
	rand     *rand.Rand
	plot     plot
	programs []*program
	parts    map[string][]string
	broken   string
	// pauses counts how often everybody waited.
	pauses int
	// away is until when the API does not answer.
	away time.Time
	// contended tells that each first attempt to write is refused as a conflict.
	contended bool
	refused   map[string]bool
	// silent are the nodes whose kubelets do nothing.
	silent map[string]bool
}

// steps is how much happens before the calm.
const steps = 300

func tell(seed uint64) *story {
	s := &story{world: newWorld(), rand: rand.New(rand.NewPCG(seed, 99)), plot: plots[seed%uint64(len(plots))](), refused: map[string]bool{}}
	s.contended = s.rand.IntN(8) == 0
	s.put("namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	for i := range 3 {
		s.addNode(nodeName(i))
	}
	early := s.rand.IntN(3) > 0
	if early {
		s.plot.begin(s)
	}
	s.parts = map[string][]string{"controllers": s.plot.parts(), "scheduler": {"scheduler"}}
	if p, ok := s.plot.(interface{ discoverable() []string }); ok {
		s.kinds = p.discoverable()
	}
	for _, name := range []string{"controllers", "scheduler"} {
		s.programs = append(s.programs, start(s.world, name, s.parts[name], s.rand.Uint64()))
	}
	if !early { // the first lists are empty
		for range 30 {
			s.internal()
		}
		s.settle(time.Second)
		s.plot.begin(s)
	}
	for step := 0; step < steps && s.broken == ""; step++ {
		s.happen()
	}
	if s.broken == "" {
		s.calm()
	}
	for _, p := range s.programs {
		p.kill()
	}
	return s
}

func nodeName(i int) string { return fmt.Sprint("n", i) }

// settle lets everybody run until they wait for the story or the clock.
func (s *story) settle(d time.Duration) {
	if d > 0 {
		time.Sleep(d)
	}
	synctest.Wait()
	if s.pauses++; s.pauses > 20*steps {
		s.fail("it never comes to rest")
	}
	if p, ok := s.plot.(interface{ beat(s *story) }); ok {
		p.beat(s)
	}
	for _, p := range s.programs {
		if p.panicked != "" {
			s.fail("%s: %s", p.name, p.panicked)
		}
	}
}

func (s *story) fail(format string, args ...any) {
	if s.broken == "" {
		s.broken = fmt.Sprintf(format, args...)
		s.note("BROKEN: %s", s.broken)
	}
}

func (s *story) addNode(name string) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	n.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: quantity.MustParse("1500m"), corev1.ResourcePods: quantity.MustParse("10"),
		corev1.ResourceMemory: quantity.MustParse("4Gi")}
	n.Status.Capacity = n.Status.Allocatable
	s.put("nodes", n)
	s.note("node %s joins", name)
}

// deed is something that may happen, the more often the greater its weight. It tells whether it did.
type deed struct {
	weight int
	do     func() bool
}

func did(f func()) func() bool { return func() bool { f(); return true } }

// happen is one step: something that the seed chooses.
func (s *story) happen() {
	s.settle(time.Duration(s.rand.IntN(10)) * time.Millisecond)
	s.choose([]deed{
		{30, s.show}, {20, s.tellOne}, {30, s.begin}, {35, func() bool { return s.answer(true) }}, {25, s.kubelet},
		{5, did(func() { s.plot.user(s) })}, {3, did(func() { s.plot.accident(s) })}, {2, s.disturbWatch}, {1, s.lose}, {2, did(s.crash)},
		{3, did(func() { s.settle(time.Duration(s.rand.IntN(2500)) * time.Millisecond) })}, {1, s.goAway},
	})
}

// internal is one step of the programs alone.
func (s *story) internal() {
	s.settle(time.Duration(s.rand.IntN(10)) * time.Millisecond)
	s.choose([]deed{{1, s.show}, {1, s.tellOne}, {1, s.begin}, {1, func() bool { return s.answer(true) }}})
}

// choose does one of the deeds that can be done.
func (s *story) choose(deeds []deed) bool {
	for len(deeds) > 0 {
		total := 0
		for _, d := range deeds {
			total += d.weight
		}
		n, i := s.rand.IntN(total), 0
		for ; n >= deeds[i].weight; i++ {
			n -= deeds[i].weight
		}
		if deeds[i].do() {
			return true
		}
		deeds = slices.Delete(deeds, i, i+1)
	}
	return false
}

// pick is one of a list that is not empty.
func pick[T any](s *story, of []T) T { return of[s.rand.IntN(len(of))] }

func (s *story) isAway() bool { return time.Now().Before(s.away) }

// informers lists those that want does not leave out.
func (s *story) informers(want func(in *informer) bool) (out []*informer) {
	for _, p := range s.programs {
		for _, in := range p.caches.informers {
			if want(in) {
				out = append(out, in)
			}
		}
	}
	return out
}

// show lets one cache learn of some changes.
func (s *story) show() bool {
	behind := s.informers(func(in *informer) bool { return in.behind(s.world) })
	if len(behind) == 0 || s.isAway() {
		return false
	}
	in := pick(s, behind)
	s.learn(in, 1+s.rand.IntN(4))
	if s.rand.IntN(3) > 0 {
		s.tellAll(in)
	}
	return true
}

// learn brings at most so many changes into a cache.
func (s *story) learn(in *informer, most int) {
	if !in.listed || !in.watching && in.seen < s.table(in.resource).forgotten || !in.watching && in.missed {
		in.relist(s.world)
		s.note("%s are listed at %d", in, in.seen)
		return
	}
	in.watching = true
	for range most {
		e := in.next(s.world)
		if e == nil {
			return
		}
		s.note("%s: %s %s@%d", in, e.what, e.obj.GetName(), e.version)
		in.take(e)
		if e.what == watch.Modified && s.rand.IntN(20) == 0 {
			s.note("... and again")
			in.take(e)
		}
	}
}

// tellOne tells one handler of one change, or of all that its cache shows.
func (s *story) tellOne() bool {
	var late []*listener
	for _, in := range s.informers(func(*informer) bool { return true }) {
		late = append(late, slices.DeleteFunc(slices.Clone(in.listeners), func(l *listener) bool { return len(l.pending) == 0 })...)
	}
	if len(late) == 0 {
		return false
	}
	l := pick(s, late)
	for n := s.rand.IntN(4); len(l.pending) > 0 && n >= 0; n-- {
		l.deliver()
		s.settle(0)
	}
	return true
}

// tellAll tells all handlers of a cache all that it shows.
func (s *story) tellAll(in *informer) bool {
	busy := false
	for _, l := range in.listeners {
		for len(l.pending) > 0 {
			busy = true
			l.deliver()
			if in.from.name == "scheduler" {
				s.settle(0) // nothing holds it back
			}
		}
	}
	return busy
}

// begin lets one controller begin a sync.
func (s *story) begin() bool {
	var can []func()
	for _, p := range s.programs {
		for _, g := range p.open() {
			can = append(can, func() { p.admit(g); s.settle(0) })
		}
	}
	if len(can) == 0 {
		return false
	}
	pick(s, can)()
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
	switch again := c.String(); {
	case s.isAway():
		c.err = errAway
	case chance < 4:
		c.err = apierrors.NewInternalError(fmt.Errorf("etcdserver: request timed out"))
	case faults && s.contended && c.writes() && c.verb != "create" && c.verb != "delete" && !s.refused[again]:
		s.refused[again] = true
		c.err = stale(c.resource, c.name)
	default:
		delete(s.refused, again)
		e := effect{call: c, before: s.table(c.resource).objects[c.name]}
		c.err = c.do()
		if c.err != nil {
			s.note("%s: %s: %v", c.from.name, c, c.err)
		} else {
			s.note("%s: %s%s", c.from.name, c, brief(c.out))
		}
		e.lost = chance < 7 && c.err == nil
		if c.err == nil && c.writes() {
			s.check(e)
		}
		if e.lost {
			s.note("... and the answer is lost")
			c.err = errLost
		}
		close(c.done)
		s.settle(0)
		return true
	}
	s.note("%s: %s: refused: %v", c.from.name, c, c.err)
	close(c.done)
	s.settle(0)
	return true
}

func (s *story) crash() {
	i := s.rand.IntN(len(s.programs))
	p := s.programs[i]
	s.note("%s is killed", p.name)
	p.kill()
	s.programs[i] = start(s.world, p.name, s.parts[p.name], s.rand.Uint64())
	s.settle(0)
}

// disturbWatch ends a watch. What happened since is told to the next, or is forgotten and must be listed.
func (s *story) disturbWatch() bool {
	watching := s.informers(func(in *informer) bool { return in.watching })
	if len(watching) == 0 {
		return false
	}
	in := pick(s, watching)
	if s.rand.IntN(2) == 0 {
		s.table(in.resource).forgotten = s.version
	}
	s.note("%s: watch ends, history since %d", in, s.table(in.resource).forgotten)
	in.watching = false
	return true
}

// lose lets a cache miss a change, until it is listed anew.
func (s *story) lose() bool {
	behind := s.informers(func(in *informer) bool { return in.watching && in.next(s.world) != nil })
	if len(behind) == 0 {
		return false
	}
	in := pick(s, behind)
	e := in.next(s.world)
	s.note("%s: %s %s@%d is lost", in, e.what, e.obj.GetName(), e.version)
	in.seen, in.missed = e.version, true
	return true
}

// goAway takes the API away for about a minute: nothing is answered, no watch survives.
func (s *story) goAway() bool {
	if s.isAway() || s.rand.IntN(3) > 0 {
		return false
	}
	s.away = time.Now().Add(time.Minute)
	s.note("the API is away")
	for _, in := range s.informers(func(in *informer) bool { return in.listed }) {
		in.watching = false
	}
	for range 30 {
		s.settle(time.Duration(s.rand.IntN(4000)) * time.Millisecond)
		s.choose([]deed{{1, s.tellOne}, {3, s.begin}, {5, func() bool { return s.answer(true) }}})
	}
	s.settle(max(time.Until(s.away), 0))
	s.note("the API is back")
	return true
}

// calm ends the faults: everything that waits happens, until nothing is left to do.
func (s *story) calm() {
	s.note("calm")
	s.settle(max(time.Until(s.away), 0))
	for i := range 3 {
		if find[*corev1.Node](s.world, "nodes", nodeName(i)) == nil {
			s.addNode(nodeName(i))
		}
	}
	s.plot.calm(s)
	for _, in := range s.informers(func(in *informer) bool { return in.missed }) {
		in.watching = false
	}
	// Quiet is when nothing changes; some look again and again, which is nothing.
	for quiet := 0; quiet < 12 && s.broken == ""; {
		before := s.version
		if s.catchUp() || s.kubelet() {
			if s.version != before {
				quiet = 0
			}
			s.settle(time.Millisecond)
			continue
		}
		quiet++
		s.settle(time.Minute)
	}
	if s.broken == "" {
		s.plot.end(s)
	}
}

// catchUp lets the programs do what they can, and tells whether that was anything.
func (s *story) catchUp() (busy bool) {
	s.sweep()
	for _, in := range s.informers(func(in *informer) bool { return in.behind(s.world) }) {
		s.learn(in, 1000)
		busy = true
	}
	for _, in := range s.informers(func(*informer) bool { return true }) {
		busy = s.tellAll(in) || busy
	}
	for s.broken == "" && s.begin() {
		busy = true
	}
	for s.broken == "" && s.answer(false) {
		busy = true
	}
	return busy
}

// sweep is pod GC and the garbage collector, where the story is not about them: what is of a node or an owner that is no
// more ends.
func (s *story) sweep() {
	pods, rest := !s.has("podgc"), !s.has("garbagecollector")
	owners := map[string]bool{}
	for _, t := range s.tables {
		for _, obj := range t.objects {
			owners[string(obj.GetUID())] = true
		}
	}
	for _, resource := range slices.Sorted(maps.Keys(s.tables)) {
		for _, obj := range all[object](s.world, resource) {
			pod, _ := obj.(*corev1.Pod)
			homeless := pod != nil && pod.Spec.NodeName != "" && s.table("nodes").objects[pod.Spec.NodeName] == nil
			homeless = homeless || pod != nil && pod.Spec.NodeName == "" && pod.DeletionTimestamp != nil
			homeless = homeless && pods
			ref := metav1.GetControllerOfNoCopy(obj)
			if !homeless && (!rest || ref == nil || owners[string(ref.UID)]) {
				continue
			}
			if homeless && !ended(pod) {
				edit(s.world, resource, pod.Name, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })
			}
			if now := s.table(resource).objects[obj.GetName()]; now.GetDeletionTimestamp() != nil {
				if homeless && *now.GetDeletionGracePeriodSeconds() > 0 {
					s.note("garbage: %s ends", obj.GetName())
					s.force(pod.Name)
				}
				continue
			}
			s.note("garbage: %s", obj.GetName())
			s.remove(resource, obj.GetName())
		}
	}
}

// has tells that a controller is of the story.
func (s *story) has(part string) bool { return slices.Contains(s.parts["controllers"], part) }

// force ends a pod whose kubelet will not.
func (s *story) force(name string) {
	edit(s.world, "pods", name, func(p *corev1.Pod) { *p.DeletionGracePeriodSeconds = 0 })
}
