package scheduler

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
)

func since(seconds int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.StartTime = ptr.To(metav1.NewTime(time.Unix(seconds, 0))) }
}

func never(p *corev1.Pod) { p.Spec.PreemptionPolicy = ptr.To(corev1.PreemptNever) }

func labelled(app string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels = map[string]string{"app": app} }
}

func names(pods []*Pod) string {
	var all []string
	for _, p := range pods {
		all = append(all, p.Name)
	}
	return strings.Join(all, " ")
}

func TestPreemption(t *testing.T) {
	a, b := testNode("a"), testNode("b")
	both := []*corev1.Node{a, b}
	full := func(name, node string, prio int32, more ...func(*corev1.Pod)) *corev1.Pod {
		return testPod(name, append([]func(*corev1.Pod){cpu("2"), on(node), priority(prio)}, more...)...)
	}
	protected := []Budget{{Namespace: "default", Selector: labels.SelectorFromSet(labels.Set{"app": "p"})}}
	for _, tc := range []struct {
		name    string
		nodes   []*corev1.Node
		there   []*corev1.Pod
		pod     *corev1.Pod
		budgets []Budget
		node    string
		victims string
		message string
	}{
		{name: "the lesser of two", nodes: both, there: []*corev1.Pod{full("x", "a", 5), full("y", "b", 3)}, pod: testPod("p", cpu("1"), priority(10)), node: "b", victims: "y"},
		{name: "equals stay", nodes: both[:1], there: []*corev1.Pod{full("x", "a", 5)}, pod: testPod("p", cpu("1"), priority(5)),
			message: "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		{name: "it may not", nodes: both[:1], there: []*corev1.Pod{full("x", "a", 5)}, pod: testPod("p", cpu("1"), priority(9), never),
			message: "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."},
		{name: "it would not help", nodes: []*corev1.Node{a, testNode("b", taint("k", corev1.TaintEffectNoSchedule))}, there: nil, pod: testPod("p", cpu("3"), priority(9)),
			message: "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s). preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."},
		{name: "it would not be enough", nodes: both[:1], there: []*corev1.Pod{testPod("x", cpu("1"), on("a"), priority(20)), testPod("y", cpu("1"), on("a"))}, pod: testPod("p", cpu("2"), priority(9)),
			message: "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Insufficient cpu."},
		{name: "the important ones stay if there is room", nodes: both[:1],
			there: []*corev1.Pod{testPod("x", cpu("1"), on("a"), priority(4)), testPod("y", cpu("1"), on("a"), priority(3)), testPod("z", cpu("0"), on("a"))},
			pod:   testPod("p", cpu("1"), priority(9)), node: "a", victims: "y"},
		{name: "budgets go before priorities", nodes: both, there: []*corev1.Pod{full("x", "a", 5), full("y", "b", 3, labelled("p"))}, pod: testPod("p", cpu("1"), priority(10)),
			budgets: protected, node: "a", victims: "x"},
		{name: "a budget is no veto", nodes: both[:1], there: []*corev1.Pod{full("x", "a", 5, labelled("p"))}, pod: testPod("p", cpu("1"), priority(10)), budgets: protected, node: "a", victims: "x"},
		{name: "the smaller sum", nodes: both,
			there: []*corev1.Pod{testPod("x", cpu("1"), on("a"), priority(3)), testPod("y", cpu("1"), on("a"), priority(3)), full("z", "b", 3)},
			pod:   testPod("p", cpu("2"), priority(10)), node: "b", victims: "z"},
		{name: "a lesser highest victim, though the sum is greater", nodes: both,
			there: []*corev1.Pod{full("x", "a", 5), testPod("y", cpu("1"), on("b"), priority(3)), testPod("z", cpu("1"), on("b"), priority(4))},
			pod:   testPod("p", cpu("2"), priority(10)), node: "b", victims: "z y"},
		{name: "the younger", nodes: both, there: []*corev1.Pod{full("x", "a", 3, since(10)), full("y", "b", 3, since(20))}, pod: testPod("p", cpu("1"), priority(10)), node: "b", victims: "y"},
		{name: "a host port", nodes: both[:1], there: []*corev1.Pod{testPod("x", on("a"), port(80)), testPod("y", on("a"), port(81))}, pod: testPod("p", port(80), priority(1)), node: "a", victims: "x"},
		{name: "one who keeps apart", nodes: both[:1], there: []*corev1.Pod{testPod("x", on("a"), apart)}, pod: testPod("p", priority(1)), node: "a", victims: "x"},
		{name: "too many in one place", nodes: []*corev1.Node{a, testNode("b", func(n *corev1.Node) { n.Spec.Unschedulable = true })}, there: []*corev1.Pod{testPod("x", on("a"))},
			pod: testPod("p", spread, priority(1)), node: "a", victims: "x"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := clusterOf(tc.nodes, tc.there)
			c.budgets = tc.budgets
			v, _ := c.place(&Request{Pod: NewPod(tc.pod)})
			if v.Node != "" {
				t.Fatalf("it was placed on %s", v.Node)
			}
			if tc.node == "" {
				if v.Preemption != nil || v.Message != tc.message {
					t.Errorf("got %q, %+v; want %q", v.Message, v.Preemption, tc.message)
				}
				return
			}
			if v.Preemption == nil || v.Preemption.Node != tc.node || names(v.Preemption.Victims) != tc.victims {
				t.Fatalf("got %+v (%s); want %s to leave %s", v.Preemption, v.Message, tc.victims, tc.node)
			}
		})
	}
}

// The room that victims leave is the preemptor's: a lesser pod that comes first does not get it.
func TestRoomIsKept(t *testing.T) {
	c := clusterOf([]*corev1.Node{testNode("a")}, []*corev1.Pod{testPod("x", cpu("2"), on("a"), priority(1))})
	high := &Request{Pod: NewPod(testPod("high", cpu("2"), priority(10)))}
	if v, _ := c.place(high); v.Preemption == nil {
		t.Fatalf("no preemption: %+v", v)
	}
	leaving := testPod("x", cpu("2"), on("a"), priority(1), func(p *corev1.Pod) {
		p.DeletionTimestamp = ptr.To(metav1.Now())
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler}}
	})
	c.setPod(NewPod(leaving))
	if v, _ := c.place(high); v.Preemption != nil || !v.KeepNomination || !strings.HasSuffix(v.Message, "preemption: not eligible due to a terminating pod on the nominated node.") {
		t.Errorf("while the victim leaves: %+v", v)
	}
	c.dropPod("x")
	if v, _ := c.place(&Request{Pod: NewPod(testPod("low", cpu("1"), priority(5)))}); v.Node != "" || v.Preemption != nil {
		t.Errorf("a lesser pod took the room: %+v", v)
	}
	highest := &Request{Pod: NewPod(testPod("highest", cpu("2"), priority(20)))}
	if v, _ := c.place(highest); v.Node != "a" {
		t.Errorf("a greater pod must not wait for a nomination: %+v", v)
	}
	c.dropPod("highest")
	if v, _ := c.place(high); v.Node != "a" || len(c.nominated) != 0 {
		t.Errorf("the preemptor: %+v, nominated %v", v, c.nominated)
	}
}

func TestSplitSpendsBudgets(t *testing.T) {
	var pods []*Pod
	for _, name := range []string{"a", "b", "c"} {
		pods = append(pods, NewPod(testPod(name)))
	}
	all := labels.SelectorFromSet(labels.Set{"app": "a"})
	for _, tc := range []struct {
		name      string
		budget    Budget
		violating string
	}{
		{"one may go", Budget{"default", all, 1, nil}, "b c"},
		{"one is paid for", Budget{"default", all, 1, map[string]bool{"a": true}}, "c"},
		{"another namespace", Budget{"other", all, 0, nil}, ""},
		{"a budget of all", Budget{"default", labels.Everything(), 0, nil}, ""},
	} {
		violating, others := split(slices.Clone(pods), []Budget{tc.budget})
		if names(violating) != tc.violating || len(violating)+len(others) != 3 {
			t.Errorf("%s: %s", tc.name, names(violating))
		}
	}
}
