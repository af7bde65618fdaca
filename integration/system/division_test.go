package system

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// apiServerOnlyStores stops the controllers: a Deployment is then stored and
// nothing comes of it, until they are back.
func apiServerOnlyStores(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	host := c.Nodes[0]
	move := func(from, to string) {
		t.Helper()
		if _, err := c.Exec(host, "mv", "/etc/kubernetes/"+from, "/etc/kubernetes/"+to); err != nil {
			t.Fatal(err)
		}
	}
	move("manifests/kube-controller-manager.yaml", "kube-controller-manager.yaml")
	back := false
	defer func() {
		if !back {
			move("kube-controller-manager.yaml", "manifests/kube-controller-manager.yaml")
		}
	}()
	c.Eventually(t, time.Minute, "controllers to be away", func(ctx context.Context) error {
		_, err := c.Client.CoreV1().Pods("kube-system").Get(ctx, "kube-controller-manager-"+host, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("their pod is still there"), err)
	})
	if _, err := c.Client.AppsV1().Deployments(ns).Create(t.Context(), web(c, "web", 1), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// Controllers act within milliseconds; nobody may act now.
	time.Sleep(2 * time.Second)
	sets, err := c.Client.AppsV1().ReplicaSets(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(sets.Items) != 0 {
		t.Errorf("%d ReplicaSets without controllers (%v)", len(sets.Items), err)
	}
	move("kube-controller-manager.yaml", "manifests/kube-controller-manager.yaml")
	back = true
	waitDeployment(t, c, ns, "web", 1)
}

func schedulerWritesOnlyTheNode(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	made, err := c.Client.CoreV1().Pods(ns).Create(t.Context(), c.Pod("p", []string{"pause"}), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	placed := c.WaitPod(t, ns, "p", "ready", clustertest.Ready)
	if placed.Spec.NodeName == "" {
		t.Fatal("the pod has no node")
	}
	placed.Spec.NodeName = ""
	if diff := cmp.Diff(made.Spec, placed.Spec); diff != "" {
		t.Errorf("more than the node changed:\n%s", diff)
	}
}

func addOnsAreManifests(t *testing.T, c *clustertest.Cluster) {
	d, err := c.Client.AppsV1().Deployments("kube-system").Get(t.Context(), "coredns", metav1.GetOptions{})
	if err != nil || d.Status.ReadyReplicas != 2 {
		t.Errorf("coredns: %+v (%v)", d.Status, err)
	}
	s, err := c.Client.CoreV1().Services("kube-system").Get(t.Context(), "kube-dns", metav1.GetOptions{})
	if err != nil || s.Spec.ClusterIP != "10.96.0.10" || fmt.Sprint(s.Spec.Selector) != fmt.Sprint(d.Spec.Selector.MatchLabels) {
		t.Errorf("kube-dns: %+v (%v)", s.Spec, err)
	}
}
