package conformance

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// tests are the rows' subtests by codename.
func tests() map[string]test {
	return map[string]test{
		"[sig-architecture] Conformance Tests should have at least two untainted nodes [Conformance]": {quick: true, run: twoUntaintedNodes},
	}
}

func twoUntaintedNodes(t *testing.T, c *clustertest.Cluster) {
	nodes, err := c.Client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	free := 0
	for _, n := range nodes.Items {
		ready := false
		for _, cond := range n.Status.Conditions {
			ready = ready || cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue
		}
		tainted := false
		for _, taint := range n.Spec.Taints {
			tainted = tainted || taint.Effect == corev1.TaintEffectNoSchedule || taint.Effect == corev1.TaintEffectNoExecute
		}
		if ready && !tainted && !n.Spec.Unschedulable {
			free++
		}
	}
	if free < 2 {
		t.Errorf("%d schedulable untainted nodes, want at least 2", free)
	}
}
