package daemonset

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/orlop-io/orlop/cmd/controllers/podset"
)

func node(name string, taints ...corev1.Taint) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Taints: taints}}
}

func pod(name, hash string, ready bool) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{appsv1.ControllerRevisionHashLabelKey: hash}}}
	if ready {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	return p
}

func TestDecide(t *testing.T) {
	tainted := corev1.Taint{Key: "k", Effect: corev1.TaintEffectNoSchedule}
	out := corev1.Taint{Key: "k", Effect: corev1.TaintEffectNoExecute}
	cordoned := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	failed := pod("failed", "h", false)
	failed.Status.Phase = corev1.PodFailed
	leaving := pod("leaving", "old", true)
	leaving.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	type pods = map[string][]*corev1.Pod
	for _, tc := range []struct {
		name   string
		nodes  []*corev1.Node
		pods   pods
		create []string
		del    []string
	}{
		{"one a node", []*corev1.Node{node("a"), node("b")}, pods{"a": {pod("x", "h", true)}}, []string{"b"}, nil},
		{"not where tainted", []*corev1.Node{node("a", tainted)}, nil, nil, nil},
		{"stays where tainted", []*corev1.Node{node("a", tainted)}, pods{"a": {pod("x", "h", true)}}, nil, nil},
		{"leaves for NoExecute", []*corev1.Node{node("a", out)}, pods{"a": {pod("x", "h", true)}}, nil, []string{"x"}},
		{"runs where cordoned", []*corev1.Node{node("a", cordoned)}, nil, []string{"a"}, nil},
		{"failed goes before the next comes", []*corev1.Node{node("a")}, pods{"a": {failed}}, nil, []string{"failed"}},
		{"one too many", []*corev1.Node{node("a")}, pods{"a": {pod("x", "h", true), pod("y", "h", true)}}, nil, []string{"y"}},
		{"updated one by one", []*corev1.Node{node("a"), node("b")}, pods{"a": {pod("x", "old", true)}, "b": {pod("y", "old", true)}}, nil, []string{"x"}},
		{"not while one is missing", []*corev1.Node{node("a"), node("b")}, pods{"b": {pod("y", "old", true)}}, []string{"a"}, nil},
		{"not while one is not ready", []*corev1.Node{node("a"), node("b")}, pods{"a": {pod("x", "h", false)}, "b": {pod("y", "old", true)}}, nil, nil},
		{"broken old ones go at once", []*corev1.Node{node("a"), node("b")}, pods{"a": {pod("x", "old", false)}, "b": {pod("y", "old", false)}}, nil, []string{"x", "y"}},
		{"not while one is leaving", []*corev1.Node{node("a"), node("b")}, pods{"a": {leaving}, "b": {pod("y", "old", true)}}, nil, nil},
		{"a second one that is not ready counts, and the first goes", []*corev1.Node{node("a"), node("b")},
			pods{"a": {pod("w", "old", false), pod("x", "h", false)}, "b": {pod("y", "old", true)}}, nil, []string{"w"}},
		{"the one that does the work stays", []*corev1.Node{node("a"), node("b")},
			pods{"a": {pod("w", "old", true), pod("x", "h", false)}, "b": {}}, []string{"b"}, []string{"x"}},
		{"waits for a node that is gone", []*corev1.Node{node("a")}, pods{"a": {pod("x", "h", true)}, "gone": {pod("y", "h", false)}}, nil, []string{"y"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := Decide(&appsv1.DaemonSet{}, tc.nodes, tc.pods, "h", time.Now())
			var del []string
			for _, pod := range p.Delete {
				del = append(del, pod.Name)
			}
			if diff := cmp.Diff(tc.create, p.Create) + cmp.Diff(tc.del, del); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPodsArePinnedToTheirNode(t *testing.T) {
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{appsv1.DeprecatedTemplateGeneration: "4"}}}
	ds.Spec.Template.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	p := podFor(ds, "n1", "h")
	if got := nodeOf(p); got != "n1" {
		t.Errorf("pinned to %q", got)
	}
	if p.Labels[appsv1.ControllerRevisionHashLabelKey] != "h" || p.Labels["pod-template-generation"] != "4" || ds.Spec.Template.Spec.Affinity != nil {
		t.Errorf("labels %v, template's affinity %v", p.Labels, ds.Spec.Template.Spec.Affinity)
	}
	if run, _ := Fit(ds, node("n1")); run {
		t.Error("runs on a node that its selector does not match")
	}
}

// Whatever its template says, a pod of a DaemonSet stays on a node that does not answer.
func TestPodsStandADeadNodeForever(t *testing.T) {
	ds := &appsv1.DaemonSet{}
	seconds := int64(300)
	ds.Spec.Template.Spec.Tolerations = []corev1.Toleration{
		{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds},
		{Key: "own", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds},
	}
	var limited []string
	seen := map[string]int{}
	for _, toleration := range podFor(ds, "n", "h").Spec.Tolerations {
		if seen[toleration.Key]++; toleration.TolerationSeconds != nil {
			limited = append(limited, toleration.Key)
		}
	}
	if !slices.Equal(limited, []string{"own"}) || seen[corev1.TaintNodeUnreachable] != 1 {
		t.Errorf("limited are %v, of %v", limited, seen)
	}
}

func TestANodeIsUpdatedWhenTheOldPodIsGone(t *testing.T) {
	old, fresh := pod("a", "old", true), pod("b", "h", false)
	fresh.CreationTimestamp = metav1.Unix(9, 0)
	for want, pods := range [][]*corev1.Pod{{old, fresh}, {fresh}} {
		s, _ := Observe(&appsv1.DaemonSet{}, []*corev1.Node{node("a")}, map[string][]*corev1.Pod{"a": pods}, "h", time.Now())
		if s.UpdatedNumberScheduled != int32(want) || s.NumberReady != int32(1-want) {
			t.Errorf("%d pods: %+v", len(pods), s)
		}
	}
}

func on(node string, p *corev1.Pod) *corev1.Pod {
	p.Spec.NodeName = node
	return p
}

// Where the template changes while a node has a second pod, that one goes before a third comes; and of two, the one that
// does its work stays.
func TestSurgesOnceANode(t *testing.T) {
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "d"}}
	none, one := intstr.FromInt32(0), intstr.FromInt32(1)
	ds.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &none, MaxSurge: &one}
	for _, tc := range []struct{ firstReady, secondReady bool }{{true, false}, {false, true}} {
		first, second := on("a", pod("first", "old", tc.firstReady)), on("a", pod("second", "older", tc.secondReady))
		p := Decide(ds, []*corev1.Node{node("a")}, map[string][]*corev1.Pod{"a": {first, second}}, "h", time.Now())
		if len(p.Create) != 0 || len(p.Delete) != 1 || podset.Ready(p.Delete[0]) {
			t.Errorf("%+v: create on %v, delete %v", tc, p.Create, p.Delete)
		}
	}
}

// A rollout that is cut off anywhere ends with one new pod on each node. On the way no more nodes are without an
// available pod than maxUnavailable, and no more have two than maxSurge.
func TestRolloutConverges(t *testing.T) {
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 11))
		ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "d"}}
		unavailable, surge := intstr.FromInt32(1+r.Int32N(3)), intstr.FromInt32(0)
		if r.IntN(2) == 0 {
			unavailable, surge = intstr.FromInt32(0), intstr.FromInt32(1+r.Int32N(3))
		}
		ds.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &unavailable, MaxSurge: &surge}
		var nodes []*corev1.Node
		byNode := map[string][]*corev1.Pod{}
		for i := range 1 + r.IntN(6) {
			n := node(string(rune('a' + i)))
			nodes, byNode[n.Name] = append(nodes, n), []*corev1.Pod{on(n.Name, pod("old-"+n.Name, "old", true))}
		}
		made := 0
		for step := 0; ; step++ {
			if step > 500 {
				t.Fatalf("seed %d: no end; %s %s", seed, unavailable.String(), surge.String())
			}
			down, twice, done := 0, 0, 0
			for _, n := range nodes {
				available, live := false, 0
				for _, p := range byNode[n.Name] {
					if p.DeletionTimestamp == nil {
						live++
						available = available || podset.Ready(p)
					}
				}
				if live > 1 {
					twice++
				}
				if !available {
					down++
				}
				if pods := byNode[n.Name]; len(pods) == 1 && pods[0].Labels[appsv1.ControllerRevisionHashLabelKey] == "h" && available {
					done++
				}
			}
			if down > unavailable.IntValue() || twice > surge.IntValue() {
				t.Fatalf("seed %d: %d nodes down of %s, %d with two pods of %s", seed, down, unavailable.String(), twice, surge.String())
			}
			if done == len(nodes) {
				break
			}
			p := Decide(ds, nodes, byNode, "h", time.Now())
			for _, name := range p.Create[:r.IntN(len(p.Create)+1)] {
				byNode[name] = append(byNode[name], on(name, pod(fmt.Sprint("new-", made), "h", false)))
				made++
			}
			for _, gone := range p.Delete[:r.IntN(len(p.Delete)+1)] {
				gone.DeletionTimestamp = &metav1.Time{Time: time.Now()}
			}
			for name, pods := range byNode {
				byNode[name] = slices.DeleteFunc(pods, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil && r.IntN(2) == 0 })
				for i, p := range byNode[name] {
					if p.DeletionTimestamp == nil && !podset.Ready(p) && r.IntN(3) == 0 {
						byNode[name][i] = on(name, pod(p.Name, p.Labels[appsv1.ControllerRevisionHashLabelKey], true))
					}
				}
			}
		}
	}
}

// Equal pods are deleted in the same order each time, though nodes come and go in none.
func TestPodsOfLostNodesGoInOrder(t *testing.T) {
	byNode := map[string][]*corev1.Pod{}
	for _, name := range []string{"c", "a", "e", "b", "d", "g", "f"} {
		byNode[name] = []*corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Name: name}}}
	}
	names := ""
	for _, p := range Decide(&appsv1.DaemonSet{}, nil, byNode, "h", time.Time{}).Delete {
		names += p.Name
	}
	if names != "abcdefg" {
		t.Errorf("deleted %s", names)
	}
}
