package scheduler

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Each plugin's pods wake at what may help them, and sleep on at what cannot.
func TestHints(t *testing.T) {
	node := func(mutate ...func(*corev1.Node)) *corev1.Node { return testNode("n", mutate...) }
	other := func(mutate ...func(*corev1.Pod)) *Pod {
		return NewPod(testPod("o", append(mutate, on("n"))...))
	}
	cordoned := func(n *corev1.Node) { n.Spec.Unschedulable = true }
	zoned := func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"zone": "z"} }
	inZone := func(n *corev1.Node) { n.Labels["zone"] = "z" }
	claim := func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}
	}
	for _, tc := range []struct {
		name string
		by   plugins
		pod  func(*corev1.Pod)
		c    change
		want bool
	}{
		{"uncordoned", byUnschedulable, nil, change{event: nodeTainted, node: node()}, true},
		{"still cordoned", byUnschedulable, nil, change{event: nodeTainted, node: node(cordoned)}, false},
		{"a label does not uncordon", byUnschedulable, nil, change{event: nodeLabelled, node: node()}, false},
		{"another taint", byTaint, nil, change{event: nodeTainted, node: node(taint("k", corev1.TaintEffectNoSchedule))}, false},
		{"the taint is gone", byTaint, nil, change{event: nodeTainted, node: node()}, true},
		{"a pod went, the taint stays", byTaint, nil, change{event: podGone, pod: other()}, false},
		{"the label came", byNodeAffinity, zoned, change{event: nodeLabelled, node: node(inZone)}, true},
		{"another label came", byNodeAffinity, zoned, change{event: nodeLabelled, node: node()}, false},
		{"a node of another zone", byNodeAffinity, zoned, change{event: nodeAdded, node: node()}, false},
		{"the port is free", byPorts, port(80), change{event: podGone, pod: other(port(80))}, true},
		{"another port is free", byPorts, port(80), change{event: podGone, pod: other(port(81))}, false},
		{"a claim frees no port", byPorts, port(80), change{event: claimChanged, claim: "default/c"}, false},
		{"a pod made room", byFit, cpu("1"), change{event: podGone, pod: other(cpu("1"))}, true},
		{"a pod shrank", byFit, cpu("1"), change{event: podShrunk, pod: other()}, true},
		{"a pod came", byFit, cpu("1"), change{event: podBound, pod: other()}, false},
		{"a node grew", byFit, cpu("2"), change{event: nodeAllocatable, node: node()}, true},
		{"a node grew, not enough", byFit, cpu("3"), change{event: nodeAllocatable, node: node()}, false},
		{"a large node came", byFit, cpu("3"), change{event: nodeAdded, node: node(func(n *corev1.Node) {
			n.Status.Allocatable[corev1.ResourceCPU] = resource.MustParse("4")
		})}, true},
		{"the claim is let go", byRestrictions, claim, change{event: podGone, pod: other(claim)}, true},
		{"another pod went", byRestrictions, claim, change{event: podGone, pod: other()}, false},
		{"volumes are let go", byLimits, claim, change{event: podGone, pod: other(claim)}, true},
		{"a pod without volumes went", byLimits, claim, change{event: podGone, pod: other()}, false},
		{"a volume is detached", byLimits, claim, change{event: detached}, true},
		{"its claim changed", byBinding, claim, change{event: claimChanged, claim: "default/c"}, true},
		{"another's claim changed", byBinding, claim, change{event: claimChanged, claim: "default/d"}, false},
		{"a volume came", byBinding, claim, change{event: volumeChanged}, true},
		{"a volume came into the zone", byZone, claim, change{event: volumeChanged}, true},
		{"a pod went from the zone", byZone, claim, change{event: podGone, pod: other(claim)}, false},
		{"one of its kind went", bySpread, spread, change{event: podGone, pod: other()}, true},
		{"one of another kind went", bySpread, spread, change{event: podGone, pod: other(labelled("b"))}, false},
		{"it changed kind", bySpread, spread, change{event: podLabelled, pod: other(labelled("b")), past: other()}, true},
		{"a node without the label came", bySpread, spread, change{event: nodeAdded, node: node(func(n *corev1.Node) { n.Labels = nil })}, false},
		{"company came", byPodAffinity, together, change{event: podBound, pod: other()}, true},
		{"other company came", byPodAffinity, together, change{event: podBound, pod: other(labelled("b"))}, false},
		{"company went", byPodAffinity, together, change{event: podGone, pod: other()}, false},
		{"who it avoids went", byPodAffinity, apart, change{event: podGone, pod: other()}, true},
		{"who avoids it went", byPodAffinity, nil, change{event: podGone, pod: other(labelled("b"), apart)}, true},
		{"somebody went", byPodAffinity, apart, change{event: podGone, pod: other(labelled("b"))}, false},
		{"its feature is declared", byDeclared, wantsRestarts, change{event: nodeDeclared, node: node(restartsAll)}, true},
		{"another feature is declared", byDeclared, wantsRestarts, change{event: nodeDeclared, node: node()}, false},
		{"a victim went", byVictims, nil, change{event: podGone, pod: other()}, true},
		{"one of two objections", byTaint | byFit, cpu("1"), change{event: podGone, pod: other()}, true},
		{"a binding failed", byFit, nil, change{event: anything}, true},
		{"gated", 0, nil, change{event: podGone, pod: other()}, false},
	} {
		p := testPod("p")
		if tc.pod != nil {
			tc.pod(p)
		}
		if got := tc.by.helps(NewPod(p), tc.c); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestPluginsHaveNames(t *testing.T) {
	names := allPlugins.names()
	if len(names) != len(filterPlugins()) || byFit.names()[0] != resourcesFit || byDeclared.names()[0] != declaredFeatures || byVictims.names() != nil {
		t.Errorf("%q", names)
	}
	for i := range names {
		if one := plugins(1 << i); one.cures() == 0 || len(one.names()) != 1 {
			t.Errorf("nothing ends the objection of %q", one.names())
		}
	}
}

// Whoever failed while something happened that helps is tried again at once, but not for anything else.
func TestQueueLooksAtWhatATryMissed(t *testing.T) {
	for _, tc := range []struct {
		name   string
		events int
		c      change
		parked int
	}{
		{"what helps", 1, change{event: nodeTainted, node: testNode("n")}, 0},
		{"what does not", 1, change{event: podGone, pod: NewPod(testPod("o"))}, 1},
		{"more than is remembered", rememberedChanges + 1, change{event: podGone, pod: NewPod(testPod("o"))}, 0},
	} {
		q := newQueue(time.Now, 1, 1, func(string, string) {})
		q.put(NewPod(testPod("p")))
		q.next(t.Context())
		for range tc.events {
			q.happened(tc.c)
		}
		q.fail("p", byTaint)
		if got := q.sizes()[queueUnschedulable]; got != tc.parked {
			t.Errorf("%s: %d parked, want %d", tc.name, got, tc.parked)
		}
		if q.drop("p"); len(q.wanted) != 0 {
			t.Errorf("%s: %v is still waited for", tc.name, q.wanted)
		}
	}
}
