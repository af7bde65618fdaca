package scheduler

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corehelpers "k8s.io/component-helpers/scheduling/corev1"
)

// Budget is a disruption budget, as far as preemption tries to spare its pods.
type Budget struct {
	Namespace string
	Selector  labels.Selector
	Allowed   int32
	// Disrupted are the names of pods whose end it has paid for already.
	Disrupted map[string]bool
}

// covers tells whether taking pod away costs the budget something.
func (b Budget) covers(pod *corev1.Pod) bool {
	return b.Namespace == pod.Namespace && len(pod.Labels) > 0 && !b.Selector.Empty() && b.Selector.Matches(labels.Set(pod.Labels)) && !b.Disrupted[pod.Name]
}

// Preemption is which pods have to go, and from where, so that the pod fits.
type Preemption struct {
	Node string
	// Victims are in order of importance, the least last.
	Victims []*Pod
	// violations counts the victims that their budgets cannot spare.
	violations int
}

func priorityOf(p *Pod) int32 { return corehelpers.PodPriority(p.Pod) }

// started is when the pod began to run; one that has not is the youngest.
func started(p *Pod) time.Time {
	if p.Status.StartTime == nil {
		return time.Unix(math.MaxInt32, 0)
	}
	return p.Status.StartTime.Time
}

// byImportance puts higher priorities first, and of equals the older.
func byImportance(a, b *Pod) int {
	return cmp.Or(cmp.Compare(priorityOf(b), priorityOf(a)), started(a).Compare(started(b)), cmp.Compare(a.UID, b.UID))
}

// mayPreempt says why req may take nothing away from others; empty when it may. underway tells
// that others are leaving for it already.
func mayPreempt(snap *Snapshot, req *Request) (why string, underway bool) {
	if p := req.Spec.PreemptionPolicy; p != nil && *p == corev1.PreemptNever {
		return "not eligible due to preemptionPolicy=Never.", false
	}
	node := snap.node(req.Status.NominatedNodeName)
	if node == nil {
		return "", false
	}
	for _, p := range node.pods {
		if priorityOf(p) < priorityOf(req.Pod) && leavesForAnother(p) {
			return "not eligible due to a terminating pod on the nominated node.", true
		}
	}
	return "", false
}

// leavesForAnother tells that pod ends because it was preempted.
func leavesForAnother(p *Pod) bool {
	return p.DeletionTimestamp != nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
	})
}

// preempt finds the cheapest preemption on one of candidates; nil where none helps, and then
// why, by number of nodes. Nodes are tried from the snapshot's turn on.
func (d *decision) preempt(candidates []*Node) (*Preemption, map[string]int) {
	why := map[string]int{}
	if n := len(d.snap.Nodes) - len(candidates); n > 0 {
		why["Preemption is not helpful for scheduling"] = n
	}
	var found []*Preemption
	spared := false
	enough := max(len(candidates)*d.profile.candidatesPercent/100, d.profile.candidatesMin, 1)
	for i := range candidates {
		node := candidates[(d.snap.Turn+i)%len(candidates)]
		p, misfits := d.victims(node)
		if p == nil {
			for _, m := range misfits {
				why[m.reason]++
			}
			continue
		}
		found = append(found, p)
		spared = spared || p.violations == 0
		if len(found) >= enough && spared {
			break
		}
	}
	if len(found) == 0 {
		return nil, why
	}
	return slices.MinFunc(found, cheaper), nil
}

// cheaper orders preemptions: fewer broken budgets, a lesser highest victim, a smaller sum of
// priorities, fewer victims, and the one whose most important victims have run shortest.
func cheaper(a, b *Preemption) int {
	sum := func(p *Preemption) (n int64) {
		for _, v := range p.Victims {
			n += int64(priorityOf(v)) + math.MaxInt32 + 1 // so that each victim costs something
		}
		return n
	}
	return cmp.Or(
		cmp.Compare(a.violations, b.violations),
		cmp.Compare(priorityOf(a.Victims[0]), priorityOf(b.Victims[0])),
		cmp.Compare(sum(a), sum(b)),
		cmp.Compare(len(a.Victims), len(b.Victims)),
		earliest(b).Compare(earliest(a)),
	)
}

// earliest is when the first of the most important victims started.
func earliest(p *Preemption) time.Time {
	first := started(p.Victims[0])
	for _, v := range p.Victims {
		if priorityOf(v) == priorityOf(p.Victims[0]) && started(v).Before(first) {
			first = started(v)
		}
	}
	return first
}

// victims chooses who has to leave node for the pod: all lesser pods leave, and come back in
// order of importance, those first whose budgets cannot spare them, as long as the pod still fits.
func (d *decision) victims(node *Node) (*Preemption, []misfit) {
	t := d.try(node)
	defer t.end()
	var lesser []*Pod
	for _, p := range node.pods {
		if priorityOf(p) < priorityOf(d.req.Pod) {
			lesser = append(lesser, p)
		}
	}
	if len(lesser) == 0 {
		return nil, []misfit{{reason: "No preemption victims found for incoming pod"}}
	}
	slices.SortFunc(lesser, byImportance)
	for _, p := range lesser {
		t.change(p, -1)
	}
	if m := d.admit(t.node); m != nil {
		return nil, m
	}
	result := &Preemption{Node: node.Name}
	violating, others := split(lesser, d.snap.Budgets)
	for i, p := range slices.Concat(violating, others) {
		t.change(p, 1)
		if d.admit(t.node) == nil {
			continue
		}
		t.change(p, -1)
		result.Victims = append(result.Victims, p)
		if i < len(violating) {
			result.violations++
		}
	}
	if len(result.Victims) == 0 {
		// It fits without: the snapshot changed under the queue's eyes. The next try shows.
		return nil, []misfit{{reason: "No preemption victims found for incoming pod"}}
	}
	slices.SortFunc(result.Victims, byImportance)
	return result, nil
}

// split says of which pods budgets can spare no more.
func split(pods []*Pod, budgets []Budget) (violating, others []*Pod) {
	left := make([]int32, len(budgets))
	for i, b := range budgets {
		left[i] = b.Allowed
	}
	for _, p := range pods {
		violates := false
		for i, b := range budgets {
			if b.covers(p.Pod) {
				left[i]--
				violates = violates || left[i] < 0
			}
		}
		if violates {
			violating = append(violating, p)
		} else {
			others = append(others, p)
		}
	}
	return violating, others
}

// trial is a decision over a cluster in which one node has other pods than it has.
type trial struct {
	d    *decision
	node *Node // a copy
	diff map[*Pod]int
}

// try begins a trial; end must follow before the decision is used for anything else.
func (d *decision) try(node *Node) *trial {
	return &trial{d, node.clone(), map[*Pod]int{}}
}

// change puts p on the node (by 1) or takes it off (by -1).
func (t *trial) change(p *Pod, by int) {
	if by > 0 {
		t.node.add(p)
	} else {
		t.node.remove(p)
	}
	t.d.require(t.node, p, by)
	t.d.recount(t.node, p, by)
	t.diff[p] += by
}

func (t *trial) end() {
	for p, by := range t.diff {
		if by != 0 {
			t.d.require(t.node, p, -by)
			t.d.recount(t.node, p, -by)
		}
	}
}

// admit is filter, and also sees that node keeps room for the pods that others were preempted
// for and that matter at least as much.
func (d *decision) admit(node *Node) []misfit {
	if m := d.filter(node); m != nil {
		return m
	}
	if len(d.snap.Nominated) == 0 {
		return nil // without a look at the node's name
	}
	rivals := d.snap.Nominated[node.Name]
	if len(rivals) == 0 {
		return nil
	}
	t := d.try(node)
	defer t.end()
	for _, p := range rivals {
		if p.UID != d.req.UID && priorityOf(p) >= priorityOf(d.req.Pod) && node.pods[p.UID] == nil {
			t.change(p, 1)
		}
	}
	if len(t.diff) == 0 {
		return nil
	}
	return d.filter(t.node)
}

// Schedule decides about req: a node, or the pods that must go before there is one, or why
// there is none. Equal arguments give an equal verdict.
func Schedule(snap *Snapshot, req *Request) Verdict {
	verdict, d := decide(snap, req)
	if verdict.Node != "" {
		verdict.volumes, _ = req.assign(snap.node(verdict.Node))
		return verdict
	}
	if d == nil {
		return verdict
	}
	if !d.profile.preempts {
		return verdict
	}
	if why, underway := mayPreempt(snap, req); why != "" {
		verdict.Message += " preemption: " + why
		verdict.KeepNomination = underway
		return verdict
	}
	done := d.point(pointPostFilter)
	p, why := d.preempt(verdict.candidates)
	if done(p != nil); p == nil {
		verdict.Message += fmt.Sprintf(" preemption: %s", explain(len(snap.Nodes), why))
		return verdict
	}
	verdict.Preemption = p
	return verdict
}
