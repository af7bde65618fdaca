package chaos

import (
	"fmt"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// manyEnd ends all pods of a crowd at once, and wants others to start meanwhile in no more than ten times what starts took
// on the same node before.
func manyEnd(t *testing.T, c *clustertest.Cluster) {
	ns, others, host := c.Namespace(t), c.Namespace(t), c.Nodes[1]
	crowdOf(t, c, ns, host, *crew)
	start := func(name string) time.Duration {
		begun := time.Now()
		p := c.Pod(name, nil, clustertest.On(host))
		p.Spec.Containers[0].Image = c.Image("pause")
		create(t, c, others, p)
		c.WaitPod(t, others, name, "ready", clustertest.Ready)
		return time.Since(begun)
	}
	var alone []time.Duration
	for i := range 5 {
		alone = append(alone, start(fmt.Sprintf("alone-%d", i)))
	}
	must(t, c.Client.CoreV1().Pods(ns).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
	begun := time.Now()
	var beside []time.Duration
	for {
		list, err := c.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
		must(t, err)
		if len(list.Items) == 0 {
			break
		}
		if time.Since(begun) > 3*time.Minute {
			t.Fatalf("%d of the crowd are still there", len(list.Items))
		}
		beside = append(beside, start(fmt.Sprintf("beside-%d", len(beside))))
		must(t, nodeReady(t.Context(), c, host))
	}
	t.Logf("%d pods ended in %v; a start took %v before, and %v meanwhile", *crew, time.Since(begun), alone, beside)
	if most, slowest := 10*slices.Max(alone), slices.Max(beside); slowest > most {
		t.Errorf("a start beside %d pods that ended took %v, wanted is %v", *crew, slowest, most)
	}
}
