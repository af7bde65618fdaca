package daemonset

import (
	"cmp"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	extensionsv1beta1 "k8s.io/api/extensions/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	corehelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/cmd/controllers/podset"
)

// Plan is what one sync does.
type Plan struct {
	// Create names the nodes that need a pod.
	Create []string
	// Delete are the pods that must go, and Failed those of them that ended, which no pod of a DaemonSet should.
	Delete, Failed []*corev1.Pod
}

// fit says what a node is to the DaemonSet.
type fit struct{ run, stay bool }

// Fit tells whether a new pod of ds should run on node, and whether one that is there may stay.
func Fit(ds *appsv1.DaemonSet, node *corev1.Node) (run, stay bool) {
	pod := podFor(ds, node.Name, "")
	if ds.Spec.Template.Spec.NodeName != "" && ds.Spec.Template.Spec.NodeName != node.Name {
		return false, false
	}
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !ok {
		return false, false
	}
	untolerated := func(effects ...corev1.TaintEffect) bool {
		_, found := corehelpers.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, pod.Spec.Tolerations,
			func(t *corev1.Taint) bool { return slices.Contains(effects, t.Effect) }, true)
		return found
	}
	if untolerated(corev1.TaintEffectNoExecute) {
		return false, false
	}
	return !untolerated(corev1.TaintEffectNoSchedule), true
}

// Decide compares ds's pods, by node, with the nodes there are. hash is of the present
// template; pods with another are replaced as the update strategy allows.
func Decide(ds *appsv1.DaemonSet, nodes []*corev1.Node, byNode map[string][]*corev1.Pod, hash string, now time.Time) Plan {
	var plan Plan
	fits := make(map[string]fit, len(nodes))
	wanted := 0
	for _, node := range nodes {
		run, stay := Fit(ds, node)
		fits[node.Name] = fit{run, stay}
		if run {
			wanted++
		}
	}
	roll := newRollout(ds, wanted, hash, now)
	names := make([]string, 0, len(nodes))
	for _, node := range nodes {
		names = append(names, node.Name)
	}
	slices.Sort(names)
	for _, name := range names {
		pods := byNode[name]
		live, failed := triage(pods)
		plan.Failed = append(plan.Failed, failed...)
		plan.Delete = append(plan.Delete, failed...)
		switch f := fits[name]; {
		case !f.stay:
			plan.Delete = append(plan.Delete, live...)
		case f.run && len(live) == 0 && len(failed) == 0 && !anyTerminating(pods):
			plan.Create = append(plan.Create, name)
			roll.missing++
		case f.run && len(live) == 0: // it comes when the last one is gone
			roll.missing++
		case f.run:
			plan.Delete = append(plan.Delete, roll.consider(live)...)
		case len(live) > 1:
			plan.Delete = append(plan.Delete, live[1:]...)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byNode)) { // pinned to a node that went before they were bound
		if _, there := fits[name]; !there {
			plan.Delete = append(plan.Delete, slices.DeleteFunc(slices.Clone(byNode[name]), func(p *corev1.Pod) bool {
				return p.Spec.NodeName != "" || p.DeletionTimestamp != nil
			})...)
		}
	}
	create, del := roll.decide()
	plan.Create, plan.Delete = append(plan.Create, create...), append(plan.Delete, del...)
	return plan
}

// triage parts pods that count from those that ended; oldest first. Pods that are being
// deleted are in neither.
func triage(pods []*corev1.Pod) (live, failed []*corev1.Pod) {
	for _, pod := range pods {
		switch {
		case pod.DeletionTimestamp != nil:
		case pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded:
			failed = append(failed, pod)
		default:
			live = append(live, pod)
		}
	}
	slices.SortFunc(live, func(a, b *corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return live, failed
}

func anyTerminating(pods []*corev1.Pod) bool {
	return slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

// rollout counts what may be unavailable or doubled while pods are replaced.
type rollout struct {
	on                         bool
	hash                       string
	minReady                   time.Duration
	now                        time.Time
	maxUnavailable, maxSurge   int
	missing, unavailable       int
	surging                    int
	replaceable, surgeable     []*corev1.Pod
	alreadyBroken, replacedOld []*corev1.Pod
}

func newRollout(ds *appsv1.DaemonSet, wanted int, hash string, now time.Time) *rollout {
	r := &rollout{hash: hash, now: now, minReady: time.Duration(ds.Spec.MinReadySeconds) * time.Second}
	r.on = ds.Spec.UpdateStrategy.Type != appsv1.OnDeleteDaemonSetStrategyType && ds.DeletionTimestamp == nil
	r.maxUnavailable = 1
	if u := ds.Spec.UpdateStrategy.RollingUpdate; u != nil {
		if u.MaxUnavailable != nil {
			r.maxUnavailable, _ = intstr.GetScaledValueFromIntOrPercent(u.MaxUnavailable, wanted, true)
		}
		if u.MaxSurge != nil {
			r.maxSurge, _ = intstr.GetScaledValueFromIntOrPercent(u.MaxSurge, wanted, true)
		}
	}
	if r.maxSurge == 0 && r.maxUnavailable == 0 {
		r.maxUnavailable = 1
	}
	return r
}

// consider takes one node's live pods in, and returns those that are too many whatever happens.
func (r *rollout) consider(live []*corev1.Pod) (extra []*corev1.Pod) {
	available := func(pod *corev1.Pod) bool {
		ok, _ := podset.Available(pod, r.minReady, r.now)
		return ok
	}
	best := slices.Clone(live) // of two of a kind, the one that does its work stays
	slices.SortStableFunc(best, func(a, b *corev1.Pod) int {
		switch {
		case available(a) == available(b):
			return 0
		case available(a):
			return -1
		}
		return 1
	})
	var fresh, old *corev1.Pod
	for _, pod := range best {
		switch isFresh := pod.Labels[appsv1.ControllerRevisionHashLabelKey] == r.hash; {
		case isFresh && fresh == nil:
			fresh = pod
		case !isFresh && old == nil:
			old = pod
		default:
			extra = append(extra, pod)
		}
	}
	switch {
	case fresh != nil && old != nil && r.on && r.maxSurge > 0:
		r.surging++ // also where the old one goes now: it may be that it stays
		if available(fresh) || !available(old) {
			r.replacedOld = append(r.replacedOld, old)
		}
	case fresh != nil && old != nil && available(old) && !available(fresh):
		extra = append(extra, fresh) // the old one does the node's work; it is replaced in its turn
		r.replaceable = append(r.replaceable, old)
	case fresh != nil && old != nil:
		extra = append(extra, old)
		if !available(fresh) {
			r.unavailable++
		}
	case fresh != nil:
		if !available(fresh) {
			r.unavailable++
		}
	case old != nil && !available(old):
		r.unavailable++
		r.alreadyBroken = append(r.alreadyBroken, old)
	case old != nil && r.maxSurge > 0 && len(extra) > 0:
		r.surging++ // one that surged for another template goes first
	case old != nil && r.maxSurge > 0:
		r.surgeable = append(r.surgeable, old)
	case old != nil:
		r.replaceable = append(r.replaceable, old)
	}
	return extra
}

// decide returns the nodes that get a second pod, and the old pods that go.
func (r *rollout) decide() (create []string, del []*corev1.Pod) {
	if !r.on {
		return nil, nil
	}
	del = append(del, r.replacedOld...)
	del = append(del, r.alreadyBroken...) // nobody loses anything by these
	if r.maxSurge > 0 {
		for _, pod := range r.surgeable[:min(len(r.surgeable), max(r.maxSurge-r.surging, 0))] {
			create = append(create, nodeOf(pod))
		}
		return create, del
	}
	room := max(r.maxUnavailable-r.unavailable-r.missing, 0)
	return nil, append(del, r.replaceable[:min(len(r.replaceable), room)]...)
}

// Observe returns the status that pods and nodes give ds, and when to look again (0 is never).
func Observe(ds *appsv1.DaemonSet, nodes []*corev1.Node, byNode map[string][]*corev1.Pod, hash string, now time.Time) (appsv1.DaemonSetStatus, time.Duration) {
	s := appsv1.DaemonSetStatus{ObservedGeneration: ds.Generation, CollisionCount: ds.Status.CollisionCount, Conditions: ds.Status.Conditions}
	var soonest time.Duration
	for _, node := range nodes {
		run, _ := Fit(ds, node)
		live, _ := triage(byNode[node.Name])
		if !run {
			if len(live) > 0 {
				s.NumberMisscheduled++
			}
			continue
		}
		s.DesiredNumberScheduled++
		if len(live) == 0 {
			continue
		}
		s.CurrentNumberScheduled++
		// Any ready pod counts for its node; where two are there, it is updated once the older one is gone.
		pod := live[0]
		if i := slices.IndexFunc(live, podset.Ready); i >= 0 {
			pod = live[i]
			s.NumberReady++
			ok, wait := podset.Available(pod, time.Duration(ds.Spec.MinReadySeconds)*time.Second, now)
			if ok {
				s.NumberAvailable++
			} else if wait > 0 && (soonest == 0 || wait < soonest) {
				soonest = wait
			}
		}
		if live[0].Labels[appsv1.ControllerRevisionHashLabelKey] == hash {
			s.UpdatedNumberScheduled++
		}
	}
	s.NumberUnavailable = s.DesiredNumberScheduled - s.NumberAvailable
	return s, soonest
}

// podFor returns ds's pod for the node of that name.
func podFor(ds *appsv1.DaemonSet, node, hash string) *corev1.Pod {
	ref := metav1.NewControllerRef(ds, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))
	pod := podset.FromTemplate(&ds.Spec.Template, ds, ref)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	if number := ds.Annotations[appsv1.DeprecatedTemplateGeneration]; number != "" {
		pod.Labels[extensionsv1beta1.DaemonSetTemplateGenerationKey] = number
	}
	if hash != "" {
		pod.Labels[appsv1.ControllerRevisionHashLabelKey] = hash
	}
	pin(&pod.Spec, node)
	tolerate := func(key string, effect corev1.TaintEffect) {
		always := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: effect}
		// The template's own of that kind would limit it: a pod goes when the first of its tolerations ends.
		pod.Spec.Tolerations = append(slices.DeleteFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool { return t.MatchToleration(&always) }), always)
	}
	tolerate(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute)
	tolerate(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute)
	tolerate(corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule)
	tolerate(corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule)
	tolerate(corev1.TaintNodePIDPressure, corev1.TaintEffectNoSchedule)
	tolerate(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	if pod.Spec.HostNetwork {
		tolerate(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule)
	}
	return pod
}

// pin lets the scheduler put the pod on that node only, whatever else its affinity asks.
func pin(spec *corev1.PodSpec, node string) {
	field := corev1.NodeSelectorRequirement{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}
	if spec.Affinity == nil {
		spec.Affinity = &corev1.Affinity{}
	}
	if spec.Affinity.NodeAffinity == nil {
		spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	required := spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if required == nil || len(required.NodeSelectorTerms) == 0 {
		required = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{}}}
	}
	for i := range required.NodeSelectorTerms {
		required.NodeSelectorTerms[i].MatchFields = []corev1.NodeSelectorRequirement{field}
	}
	spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = required
}

// nodeOf returns the node a pod is on or pinned to.
func nodeOf(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" {
		return pod.Spec.NodeName
	}
	if pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil ||
		pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, f := range term.MatchFields {
			if f.Key == metav1.ObjectNameField && f.Operator == corev1.NodeSelectorOpIn && len(f.Values) == 1 {
				return f.Values[0]
			}
		}
	}
	return ""
}
