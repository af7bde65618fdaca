package localcluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/orlop-io/orlop/cmd/localcluster/layout"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

func clientFor(name string) (kubernetes.Interface, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", layout.AdminKubeconfig(name))
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig of cluster %s: %w", name, err)
	}
	cfg.QPS, cfg.Timeout = -1, 10*time.Second // ours are few, and must not wait for each other
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("reach the API of cluster %s: %w", name, err)
	}
	return client, nil
}

// waitReady waits for every node, then for the pods that every cluster has. What waits for somebody else's plugin or proxy is not waited for.
func waitReady(ctx context.Context, c *layout.Cluster, p *Progress) error {
	client, err := clientFor(c.Name)
	if err != nil {
		return err
	}
	err = p.Step("nodes", "Waiting for nodes to be ready", func() error {
		return await(ctx, func() error { return complete(ctx, client, c) })
	})
	if err != nil || !c.Networked() {
		return err
	}
	return p.Step("addons", "Waiting for network and cluster DNS", func() error {
		return await(ctx, func() error { return addonsReady(ctx, client, len(c.Hosts)) })
	})
}

// await calls check until it finds nothing to complain of. When ctx ends, the last complaint
// says what was missing.
func await(ctx context.Context, check func() error) error {
	last := errors.New("not checked")
	err := poll(ctx, 50*time.Millisecond, func() (bool, error) {
		err := check()
		if err != nil && ctx.Err() == nil {
			last = err
		}
		return err == nil, nil
	})
	if err != nil {
		return fmt.Errorf("%w: %v", err, last)
	}
	return nil
}

// complete says what nodes lack: all that may be asked of them when pods' network is not ours is that they are there.
func complete(ctx context.Context, client kubernetes.Interface, c *layout.Cluster) error {
	if c.CNI != none {
		return nodesReady(ctx, client, len(c.Hosts))
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	if len(nodes.Items) < len(c.Hosts) {
		return fmt.Errorf("%d of %d nodes have registered", len(nodes.Items), len(c.Hosts))
	}
	return nil
}

func nodesReady(ctx context.Context, client kubernetes.Interface, want int) error {
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	if len(nodes.Items) < want {
		return fmt.Errorf("%d of %d nodes have registered", len(nodes.Items), want)
	}
	for _, n := range nodes.Items {
		if why, ok := nodeReady(n); !ok {
			return fmt.Errorf("node %s is not ready: %s", n.Name, why)
		}
	}
	return nil
}

func nodeReady(n corev1.Node) (why string, ok bool) {
	for _, cond := range n.Status.Conditions {
		if cond.Type == corev1.NodeReady {
			return cond.Message, cond.Status == corev1.ConditionTrue
		}
	}
	return "its kubelet has not said", false
}

func addonsReady(ctx context.Context, client kubernetes.Interface, nodes int) error {
	agent, err := client.AppsV1().DaemonSets("kube-system").Get(ctx, "orlop-agent", metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get the network agent: %w", err)
	}
	if int(agent.Status.NumberReady) < nodes {
		return fmt.Errorf("the network agent is ready on %d of %d nodes: %s", agent.Status.NumberReady, nodes, agentPods(ctx, client))
	}
	dns, err := client.AppsV1().Deployments("kube-system").Get(ctx, "coredns", metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get cluster DNS: %w", err)
	}
	if dns.Status.ReadyReplicas < 1 {
		return errors.New("no replica of cluster DNS is ready")
	}
	return nil
}

// agentPods says how each pod of the network agent is: whoever waits in vain for it needs to know where to look.
func agentPods(ctx context.Context, client kubernetes.Interface) string {
	pods, err := client.CoreV1().Pods("kube-system").List(ctx, metav1.ListOptions{LabelSelector: "k8s-app=orlop-agent"})
	if err != nil {
		return err.Error()
	}
	var out []string
	for i := range pods.Items {
		out = append(out, podState(&pods.Items[i]))
	}
	if len(out) == 0 {
		return "it has no pod yet"
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

func podState(p *corev1.Pod) string {
	said := "pod " + p.Name
	if p.Spec.NodeName != "" {
		said += " on " + p.Spec.NodeName
	}
	if p.DeletionTimestamp != nil {
		return said + " is being deleted"
	}
	for _, st := range p.Status.ContainerStatuses {
		if w := st.State.Waiting; w != nil {
			return strings.TrimSpace(said + " waits: " + w.Reason + " " + w.Message)
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return said + " is ready"
		}
	}
	return said + " is " + string(p.Status.Phase) + " and not ready"
}
