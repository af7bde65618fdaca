package scheduler

import (
	"fmt"
	"slices"
	"strings"
)

// Verdict is the outcome of a decision.
type Verdict struct {
	// Node is where the pod goes; empty when it fits nowhere.
	Node string
	// volumes are what the pod's claims get there.
	volumes []assignment
	// Turn is where the next decision begins.
	Turn int
	// Message says why it fits nowhere, in upstream's words, and By which plugins ruled nodes out.
	Message string
	By      plugins
	// Preemption is what makes room for it, where something does.
	Preemption *Preemption
	// KeepNomination says that the room made for it is still on its way.
	KeepNomination bool
	// candidates are nodes that would fit with fewer pods on them.
	candidates []*Node
}

// decision is the working state of one Decide.
type decision struct {
	snap       *Snapshot
	req        *Request
	profile    *Profile
	near       *neighbours
	hard, soft []*constraint
	// choosy tells that the pod has affinities of its own.
	choosy bool
	// avoids are the topology keys of the pod's anti-affinity, refusedBy those of others' that rule it out somewhere.
	avoids, refusedBy []string
	// compared is how many nodes are ranked.
	compared int
	// asks are what is asked of each node.
	asks []check
	storageWants
}

func newDecision(snap *Snapshot, req *Request) *decision {
	d := &decision{snap: snap, req: req, profile: req.Profile}
	if d.profile == nil {
		d.profile = DefaultProfile(req.Spec.SchedulerName)
	}
	d.meet()
	d.spreadOut()
	d.storageWants = wantsOf(snap, req)
	d.asks = d.checks()
	return d
}

// Decide chooses the node for req among those where it fits now. Equal arguments give an equal verdict.
func Decide(snap *Snapshot, req *Request) Verdict {
	verdict, _ := decide(snap, req)
	return verdict
}

func decide(snap *Snapshot, req *Request) (Verdict, *decision) {
	total := len(snap.Nodes)
	if total == 0 {
		return Verdict{Message: "no nodes available to schedule pods", By: allPlugins}, nil
	}
	d := newDecision(snap, req)
	verdict := Verdict{Turn: snap.Turn}
	if req.Rejected != "" {
		verdict.Message, verdict.By = fmt.Sprintf("0/%d nodes are available: %s.", total, req.Rejected), byBinding
		return verdict, d
	}
	// Where others made room for it, it goes, if there is room.
	if node := snap.node(req.Status.NominatedNodeName); node != nil && d.admit(node) == nil {
		verdict.Node = node.Name
		return verdict, d
	}
	enough := enoughOf(total, d.profile.percentage)
	done := d.point(pointFilter)
	feasible, seen := d.look(&verdict, enough)
	if done(len(feasible) > 0); len(feasible) == 0 {
		return verdict, d
	}
	chosen := feasible[0]
	if len(feasible) > 1 {
		d.compared = len(feasible)
		done := d.point(pointScore)
		chosen = pick(feasible, d.rank(feasible))
		done(true)
	}
	verdict.Node, verdict.Message, verdict.candidates = chosen.Name, "", nil
	if total > enough {
		verdict.Turn = (snap.Turn + seen) % total
		return verdict, d
	}
	at, _ := slices.BinarySearchFunc(snap.Nodes, chosen.Name, func(n *Node, name string) int { return strings.Compare(n.Name, name) })
	verdict.Turn = (at + 1) % total // the next begins behind this one: equals take turns
	return verdict, d
}

// point begins an extension point.
func (d *decision) point(name string) (done func(fits bool)) {
	if d.req.Point == nil {
		return func(bool) {}
	}
	return d.req.Point(name)
}

// look finds up to enough nodes where the pod fits, and says how many it looked at. Of the
// others it notes in verdict what is wrong with them.
func (d *decision) look(verdict *Verdict, enough int) (feasible []*Node, seen int) {
	total := len(d.snap.Nodes)
	counts := map[string]int{}
	feasible = make([]*Node, 0, min(enough, total))
	for ; seen < total && len(feasible) < enough; seen++ {
		node := d.snap.Nodes[(d.snap.Turn+seen)%total]
		misfits := d.admit(node)
		if misfits == nil {
			feasible = append(feasible, node)
			continue
		}
		preemptable := true
		for _, m := range misfits {
			counts[m.reason]++
			verdict.By |= m.by
			preemptable = preemptable && m.preemptable
		}
		if preemptable {
			verdict.candidates = append(verdict.candidates, node)
		}
	}
	if len(feasible) == 0 {
		verdict.Message = explain(total, counts)
	}
	return feasible, seen
}

// pick returns the first of those with the highest score.
func pick(nodes []*Node, scores []int64) *Node {
	top := 0
	for i := range scores {
		if scores[i] > scores[top] {
			top = i
		}
	}
	return nodes[top]
}

// enoughOf says how many feasible nodes are worth comparing in a cluster of that size; percentage
// 0 chooses by the size.
func enoughOf(total, percentage int) int {
	const always = 100
	if total <= always || percentage >= 100 {
		return total
	}
	if percentage == 0 {
		percentage = max(50-total/125, 5)
	}
	return max(total*percentage/100, always)
}

// explain puts reasons and their numbers of nodes into upstream's sentence.
func explain(total int, counts map[string]int) string {
	reasons := make([]string, 0, len(counts))
	for reason, n := range counts {
		reasons = append(reasons, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(reasons)
	return fmt.Sprintf("0/%d nodes are available: %s.", total, strings.Join(reasons, ", "))
}
