package system

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// TestKubectlOperates is what an operator does with the newest kubectl, and reads there.
func TestKubectlOperates(t *testing.T) {
	ns := cluster.Namespace(t)
	k := client{t, []string{filepath.Join(cluster.Bin, "orlop"), "kubectl", "--name", cluster.Name, "-n", ns}}
	k.must(fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: %s, command: [sleep, "1000"], resources: {requests: {cpu: 10m}}}]
      topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: web}}}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 2, selector: {matchLabels: {app: web}}}
`, cluster.Image("busybox")), "apply", "-f", "-")
	k.prints(k.must("", "rollout", "status", "deployment/web", "--timeout=60s"), `deployment "web" successfully rolled out`)
	t.Run("pause", func(t *testing.T) { pausedRollout(client{t, k.program}) })
	t.Run("autoscale", func(t *testing.T) { autoscaled(client{t, k.program}) })
	t.Run("drain", func(t *testing.T) { drained(client{t, k.program}, ns, cluster.Nodes[1]) })
}

// soon waits until the command prints all words.
func (c client) soon(words []string, args ...string) {
	c.t.Helper()
	cluster.Eventually(c.t, 30*time.Second, strings.Join(args, " "), func(context.Context) error {
		out, err := c.run("", args...)
		for _, w := range words {
			if err == nil && !strings.Contains(out, w) {
				err = fmt.Errorf("no %q in\n%s", w, out)
			}
		}
		return err
	})
}

func pausedRollout(k client) {
	k.must("", "rollout", "pause", "deployment/web")
	k.must("", "set", "env", "deployment/web", "GENERATION=2")
	k.soon([]string{"DeploymentPaused"}, "describe", "deployment", "web")
	if sets := k.must("", "get", "replicasets", "-o", "name"); strings.Count(sets, "replicaset") != 1 {
		k.t.Errorf("a paused rollout has made %s", sets)
	}
	k.must("", "rollout", "resume", "deployment/web")
	k.prints(k.must("", "rollout", "status", "deployment/web", "--timeout=60s"), "successfully rolled out")
	k.prints(k.must("", "rollout", "history", "deployment/web", "--revision=2"), "GENERATION:", "pod-template-hash=")
	k.prints(k.must("", "describe", "deployment", "web"), "2 desired | 2 updated | 2 total | 2 available | 0 unavailable",
		"MinimumReplicasAvailable", "NewReplicaSetAvailable", "OldReplicaSets:", "(0/0 replicas created)", "(2/2 replicas created)",
		"deployment-controller  Scaled up replica set web-", " from 0 to 2", "Scaled down replica set web-", " from 1 to 0")
}

func autoscaled(k client) {
	k.prints(k.must("", "autoscale", "deployment", "web", "--min=3", "--max=4", "--cpu-percent=50"), "horizontalpodautoscaler.autoscaling/web autoscaled")
	k.soon([]string{"Deployment pods:", "(as a percentage of request)", "/ 50%", "AbleToScale ", // the next look is in 15 s
		"SuccessfulRescale", "horizontal-pod-autoscaler  New size: 3; reason: Current number of replicas below Spec.MinReplicas"}, "describe", "hpa", "web")
	k.must("", "delete", "hpa", "web")
	k.must("", "scale", "deployment", "web", "--replicas=2")
	k.prints(k.must("", "rollout", "status", "deployment/web", "--timeout=60s"), "successfully rolled out")
}

func drained(k client, ns, node string) {
	k.t.Cleanup(func() { k.run("", "uncordon", node); k.run("", "taint", "node", node, "example.com/k-") })
	k.prints(k.must("", "cordon", node), "node/"+node+" cordoned")
	k.soon([]string{"Unschedulable:      true", "node.kubernetes.io/unschedulable:NoSchedule", "Allocated resources:", "PodCIDR:", "Non-terminated Pods:"}, "describe", "node", node)
	k.must("", "patch", "pdb", "web", "-p", `{"spec":{"minAvailable":3}}`)
	// Bound by hand: it is there to be drained, whatever else runs where.
	cluster.RunPod(k.t, ns, cluster.Pod("there", []string{"pause"}, clustertest.On(node), func(p *corev1.Pod) { p.Labels = map[string]string{"app": "web"} }))
	k.soon([]string{"Allowed disruptions:  0", "Current:              3"}, "describe", "pdb", "web")
	drain := []string{"drain", node, "--ignore-daemonsets", "--force", "--pod-selector=app=web"}
	brief := client{k.t, append([]string{"timeout", "2"}, k.program...)} // it would try again after 5 s
	if out, err := brief.run("", drain...); err == nil || !strings.Contains(err.Error(), "Cannot evict pod as it would violate the pod's disruption budget.") {
		k.t.Errorf("the budget did not hold: %v %s", err, out)
	}
	k.must("", "delete", "pdb", "web")
	k.prints(k.must("", append(drain, "--timeout=60s")...), "pod/there evicted", "node/"+node+" drained")
	k.must("", "taint", "node", node, "example.com/k=v:NoSchedule")
	k.must(fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: late}, spec: {nodeSelector: {kubernetes.io/hostname: %s}, tolerations: [{key: node.kubernetes.io/unschedulable, operator: Exists}],
terminationGracePeriodSeconds: 0, containers: [{name: c, image: %s, command: [sleep, "1000"]}]}}`, node, cluster.Image("busybox")), "apply", "-f", "-")
	k.soon([]string{"FailedScheduling", "default-scheduler  0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated taint(s).",
		"preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."}, "describe", "pod", "late")
	k.prints(k.must("", "taint", "node", node, "example.com/k-"), "node/"+node+" untainted")
	k.prints(k.must("", "uncordon", node), "node/"+node+" uncordoned")
	k.prints(k.must("", "wait", "--for=condition=Ready", "pod/late", "--timeout=60s"), "condition met")
	k.prints(k.must("", "describe", "pod", "late"), "Scheduled", "Successfully assigned "+ns+"/late to "+node, "QoS Class:                   BestEffort")
}
