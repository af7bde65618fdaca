package scheduler

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// perNode is how many pods each node of a benchmark holds before it begins.
const perNode = 5

// benchNode is as large as nodes are, in one of three zones.
func benchNode(i int) *corev1.Node {
	return testNode(fmt.Sprintf("node-%04d", i), func(n *corev1.Node) {
		n.Labels[corev1.LabelTopologyZone] = fmt.Sprint("zone-", i%3)
		for _, key := range []string{corev1.LabelOSStable, corev1.LabelArchStable, corev1.LabelTopologyRegion} {
			n.Labels[key] = "same"
		}
		n.Status.Allocatable = corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("256Gi"), corev1.ResourcePods: resource.MustParse("110"),
		}
	})
}

// BenchmarkSchedule is the cost of one decision; each node holds a few pods of other apps already,
// and the pods placed leave again, the oldest first, when each second node has one.
func BenchmarkSchedule(b *testing.B) {
	app := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}
	byZone := func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: app,
		}}
	}
	for _, kind := range []struct {
		name     string
		mutate   func(*corev1.Pod)
		siblings labels.Selector
		unlike   bool // the pods that are there have labels of their own each
	}{
		{"basic", func(*corev1.Pod) {}, nil, false},
		{"siblings", func(*corev1.Pod) {}, labels.SelectorFromSet(app.MatchLabels), false},
		{"spread", byZone, nil, false},
		{"spread-unlike", byZone, nil, true},
		{"antiaffinity", apart, nil, false},
		{"antiaffinity-unlike", apart, nil, true},
	} {
		for _, nodes := range []int{100, 250, 500, 1000} {
			b.Run(fmt.Sprintf("%s/nodes=%d", kind.name, nodes), func(b *testing.B) {
				c := newCluster()
				c.setNamespace("default", labels.Set{})
				for i := range nodes {
					node := benchNode(i)
					c.setNode(node)
					for j := range perNode {
						c.setPod(NewPod(testPod(fmt.Sprintf("old-%d-%d", i, j), cpu("100m"), on(node.Name), func(p *corev1.Pod) {
							if p.Labels = map[string]string{"app": "old"}; kind.unlike {
								p.Labels["name"] = p.Name
							}
						})))
					}
				}
				n, before := 0, used(b)
				for b.Loop() {
					pod := NewPod(testPod(fmt.Sprint(n), cpu("100m"), kind.mutate))
					if v, _ := c.place(&Request{Pod: pod, Siblings: kind.siblings}); v.Node == "" {
						b.Fatal(v.Message)
					}
					if n++; n > nodes/2 {
						c.dropPod(types.UID(fmt.Sprint(n - nodes/2 - 1)))
					}
				}
				b.ReportMetric(float64((used(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

// used is the processor time of the program so far: a busy machine makes it longer too, but much less than what a clock says.
func used(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
