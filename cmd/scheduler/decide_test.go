package scheduler

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

func testNode(name string, mutate ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	n.Status.Allocatable = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("10"),
	}
	for _, m := range mutate {
		m(n)
	}
	return n
}

func taint(key string, effect corev1.TaintEffect) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect}) }
}

func testPod(name string, mutate ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "a"}}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
	for _, m := range mutate {
		m(p)
	}
	return p
}

func cpu(amount string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(amount)}
	}
}

func on(node string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = node } }

func port(n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: n, ContainerPort: n}}
	}
}

func apart(p *corev1.Pod) {
	p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
		TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}},
	}}}}
}

func together(p *corev1.Pod) {
	p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
		TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}},
	}}}}
}

func spread(p *corev1.Pod) {
	p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule,
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}},
	}}
}

func wantsRestarts(p *corev1.Pod) {
	p.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestartAllContainers}}
}

func restartsAll(n *corev1.Node) {
	n.Status.DeclaredFeatures = []string{"Other", "RestartAllContainersOnContainerExits"}
}

func clusterOf(nodes []*corev1.Node, pods []*corev1.Pod) *cluster {
	c := newCluster()
	c.setNamespace("default", labels.Set{})
	for _, n := range nodes {
		c.setNode(n)
	}
	for _, p := range pods {
		c.setPod(NewPod(p))
	}
	return c
}

func TestDecide(t *testing.T) {
	a, b := testNode("a"), testNode("b")
	both := []*corev1.Node{a, b}
	for _, tc := range []struct {
		name    string
		nodes   []*corev1.Node
		there   []*corev1.Pod
		pod     *corev1.Pod
		want    string
		message string
	}{
		{"no nodes", nil, nil, testPod("p"), "", "no nodes available to schedule pods"},
		{"the emptier node", both, []*corev1.Pod{testPod("x", cpu("1"), on("a"))}, testPod("p", cpu("1")), "b", ""},
		{"too little left", both, []*corev1.Pod{testPod("x", cpu("1500m"), on("a"))}, testPod("p", cpu("1")), "b", ""},
		{"nowhere", []*corev1.Node{testNode("a"), testNode("b", taint("k", corev1.TaintEffectNoSchedule))}, nil, testPod("p", cpu("3")), "",
			"0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s)."},
		{"taints of other names", []*corev1.Node{testNode("a", taint("k", corev1.TaintEffectNoSchedule)), testNode("b", taint("l", corev1.TaintEffectNoExecute))}, nil, testPod("p"), "",
			"0/2 nodes are available: 2 node(s) had untolerated taint(s)."},
		{"soft taint", []*corev1.Node{testNode("a", taint("k", corev1.TaintEffectPreferNoSchedule)), b}, nil, testPod("p"), "b", ""},
		{"cordoned", []*corev1.Node{testNode("a", func(n *corev1.Node) { n.Spec.Unschedulable = true })}, nil, testPod("p"), "",
			"0/1 nodes are available: 1 node(s) were unschedulable."},
		{"selector", both, nil, testPod("p", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "b"} }), "b", ""},
		{"host port taken", both, []*corev1.Pod{testPod("x", port(80), on("a"))}, testPod("p", port(80)), "b", ""},
		{"host port taken everywhere", both[:1], []*corev1.Pod{testPod("x", port(80), on("a"))}, testPod("p", port(80)), "",
			"0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."},
		{"apart", both, []*corev1.Pod{testPod("x", on("a"))}, testPod("p", apart), "b", ""},
		{"others keep apart", both, []*corev1.Pod{testPod("x", apart, on("a"))}, testPod("p"), "b", ""},
		{"apart, but nowhere", both[:1], []*corev1.Pod{testPod("x", on("a"))}, testPod("p", apart), "",
			"0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."},
		{"together", both, []*corev1.Pod{testPod("x", on("b"))}, testPod("p", together), "b", ""},
		{"the first of those together", both[:1], nil, testPod("p", together), "a", ""},
		{"together with none", both[:1], nil, testPod("p", together, func(p *corev1.Pod) { p.Labels = nil }), "",
			"0/1 nodes are available: 1 node(s) didn't match pod affinity rules."},
		{"spread", both, []*corev1.Pod{testPod("x", on("a"))}, testPod("p", spread), "b", ""},
		{"a feature that a node declares", []*corev1.Node{a, testNode("b", restartsAll)}, nil, testPod("p", wantsRestarts), "b", ""},
		{"a feature that none declares", both, nil, testPod("p", wantsRestarts), "",
			"0/2 nodes are available: 2 node declared features check failed - unsatisfied requirements: RestartAllContainersOnContainerExits."},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v, _ := clusterOf(tc.nodes, tc.there).place(&Request{Pod: NewPod(tc.pod)})
			if message, _, _ := strings.Cut(v.Message, " preemption:"); v.Node != tc.want || message != tc.message {
				t.Errorf("got %q, %q; want %q, %q", v.Node, message, tc.want, tc.message)
			}
		})
	}
}

func TestSiblingsSpreadAndEqualsTakeTurns(t *testing.T) {
	for _, siblings := range []labels.Selector{nil, labels.SelectorFromSet(labels.Set{"app": "a"})} {
		c := clusterOf([]*corev1.Node{testNode("a"), testNode("b"), testNode("c")}, nil)
		got := map[string]int{}
		for i := range 9 {
			v, _ := c.place(&Request{Pod: NewPod(testPod(fmt.Sprint("p", i))), Siblings: siblings})
			got[v.Node]++
		}
		if got["a"] != 3 || got["b"] != 3 || got["c"] != 3 {
			t.Errorf("siblings %v: %v", siblings, got)
		}
	}
}

func TestPodsLimitAndRelease(t *testing.T) {
	c := clusterOf([]*corev1.Node{testNode("a")}, nil)
	for i := range 10 {
		c.place(&Request{Pod: NewPod(testPod(fmt.Sprint("p", i)))})
	}
	v, _ := c.place(&Request{Pod: NewPod(testPod("more"))})
	if !strings.Contains(v.Message, "1 Too many pods") || v.By != byFit {
		t.Errorf("the eleventh of ten: %+v", v)
	}
	c.dropPod("p3")
	if v, _ := c.place(&Request{Pod: NewPod(testPod("more"))}); v.Node != "a" {
		t.Errorf("after one went: %+v", v)
	}
}

func BenchmarkDecide1000Nodes(b *testing.B) {
	c := newCluster()
	for i := range 1000 {
		c.setNode(testNode(fmt.Sprintf("n%04d", i)))
	}
	siblings := labels.SelectorFromSet(labels.Set{"app": "a"})
	n := 0
	for b.Loop() {
		n++
		if v, _ := c.place(&Request{Pod: NewPod(testPod(fmt.Sprint(n), cpu("1m"))), Siblings: siblings}); v.Node == "" {
			b.Fatal(v.Message)
		}
		if n >= 3000 {
			c.dropPod(types.UID(fmt.Sprint(n - 2999)))
		}
	}
}

// What is worked out of a pod is worked out again only when it may differ, and then is what it would be anew.
func TestNextPod(t *testing.T) {
	numbered := func(n int64) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Generation = n } }
	bigger := func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", Resources: &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}}}}
	}
	runs := func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }
	first := NewPod(testPod("p", cpu("1"), numbered(1)))
	for _, tc := range []struct {
		name string
		pod  *corev1.Pod
		kept bool
	}{
		{"runs", testPod("p", cpu("1"), numbered(1), on("n"), runs), true},
		{"asks for more", testPod("p", cpu("2"), numbered(2)), false},
		{"without a number", testPod("p", cpu("1")), false},
		{"another label", testPod("p", cpu("1"), numbered(1), labelled("b")), false},
		{"has more", testPod("p", cpu("1"), numbered(1), bigger), false},
	} {
		got, anew := first.next(tc.pod), NewPod(tc.pod)
		if got.Pod != tc.pod || got.requests.CPU != anew.requests.CPU || got.kind != anew.kind {
			t.Errorf("%s: %+v, want %+v", tc.name, got, anew)
		}
		if kept := got.required == first.required; tc.kept && !kept {
			t.Errorf("%s: worked out again", tc.name)
		}
	}
	if got := (*Pod)(nil).next(first.Pod); got.requests.CPU != 1000 {
		t.Errorf("%+v", got)
	}
}

// What is wrong with a pod's claims is wrong on every node, and nobody has to leave for it.
func TestRejected(t *testing.T) {
	c := clusterOf([]*corev1.Node{testNode("a"), testNode("b")}, []*corev1.Pod{testPod("low", on("a"))})
	v, _ := c.place(&Request{Pod: NewPod(testPod("p", priority(9))), Rejected: "pod has unbound immediate PersistentVolumeClaims"})
	const want = "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
	if v.Message != want || v.Node != "" || v.By.cures()&claimChanged == 0 {
		t.Errorf("%+v", v)
	}
}
