package conformance

import (
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// tests are the rows' subtests by short codename.
func tests() map[string]test {
	all := map[string]test{}
	for _, area := range []map[string]test{
		architectureTests(), budgetTests(), preemptionTests(), lifecycleTests(), apiTests(), containerTests(), volumeTests(), appTests(), batchTests(), statefulTests(), workloadTests(), podTests(), networkTests(), kubectlTests(), webhookTests(), crdTests(), schedulingTests(), openAPITests(), extensionTests(), resizeTests(), trustTests(), resourceTests(), semanticsTests(), imageVolumeTests(),
	} {
		maps.Copy(all, area)
	}
	return all
}

// under puts prefix before the names of an area's rows.
func under(prefix string, rows map[string]test) map[string]test {
	out := map[string]test{}
	for name, tt := range rows {
		out[prefix+name] = tt
	}
	return out
}

// quickly registers a function as a quick row, slowly as one that takes longer.
func quickly(run func(*testing.T, *clustertest.Cluster)) test { return test{quick: true, run: run} }
func slowly(run func(*testing.T, *clustertest.Cluster)) test  { return test{run: run} }

func architectureTests() map[string]test {
	return map[string]test{
		"[sig-architecture] Conformance Tests should have at least two untainted nodes": quickly(twoUntaintedNodes),
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
