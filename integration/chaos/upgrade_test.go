package chaos

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

var rollouts = flag.Int("rollouts", 5, "how often the agents of a cluster are replaced under load")

// TestRollingUpgrade replaces the agent on every node, one after the other as its DaemonSet says, again and again, while pods and hosts ask pods of other nodes by their own addresses, by a
// Service and at node ports, over new connections and over kept ones: none may fail or break.
func TestRollingUpgrade(t *testing.T) {
	c, err := clustertest.Up("roll", 3)
	if c != nil {
		t.Cleanup(func() { must(t, c.Down()) }) // after the namespace's
	}
	must(t, err)
	ns := c.Namespace(t)
	var servers []*corev1.Pod
	for i, host := range c.Nodes {
		servers = append(servers, c.RunPod(t, ns, c.Pod(fmt.Sprintf("server-%d", i), []string{"netexec", "--http-port=8080", "--udp-port=-1"}, clustertest.On(host), func(p *corev1.Pod) { p.Labels = map[string]string{"app": "server"} })))
		c.RunPod(t, ns, c.Pod(fmt.Sprintf("client-%d", i), []string{"pause"}, clustertest.On(host)))
	}
	svc, err := c.Client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "server"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Selector: map[string]string{"app": "server"}, Ports: []corev1.ServicePort{{Port: 8080}}},
	}, metav1.CreateOptions{})
	must(t, err)
	other, err := c.Client.CoreV1().Nodes().Get(t.Context(), c.Nodes[1], metav1.GetOptions{})
	must(t, err)
	nodePort := fmt.Sprintf("%s:%d", other.Status.Addresses[0].Address, svc.Spec.Ports[0].NodePort)
	clusterIP := svc.Spec.ClusterIP + ":8080"
	c.Eventually(t, time.Minute, "all endpoints to be there", func(ctx context.Context) error {
		list, err := c.Client.DiscoveryV1().EndpointSlices(ns).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=server"})
		if err == nil && (len(list.Items) != 1 || len(list.Items[0].Endpoints) != len(servers)) {
			err = fmt.Errorf("%d slices", len(list.Items))
		}
		return err
	})
	time.Sleep(5 * time.Second) // connections of new pods begin past the stack

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type outcome struct{ who, out string }
	told := make(chan outcome, 32)
	started := 0
	// One load after the other, until the last rollout is over: what is asked of a load must not depend on how long a rollout takes.
	ask := func(who string, run func(target string) (string, error), target string) {
		started++
		go func() {
			for ctx.Err() == nil {
				out, err := run(target)
				if err != nil {
					out = err.Error()
				}
				told <- outcome{who + " at " + target, out}
			}
			told <- outcome{}
		}()
	}
	args := []string{"load", "--rate", "15", "--long", "5", "--for", "30s", "--target"}
	for i := range c.Nodes {
		pod := func(target string) (string, error) {
			return c.InPod(ns, fmt.Sprintf("client-%d", i), append([]string{"/testimage"}, append(args, target)...)...)
		}
		ask("a pod on "+c.Nodes[i], pod, servers[(i+1)%3].Status.PodIP+":8080")
		ask("a pod on "+c.Nodes[i], pod, clusterIP)
	}
	host := func(target string) (string, error) {
		return c.Exec(c.Nodes[2], append([]string{c.Bin + "/testimage"}, append(args, target)...)...)
	}
	ask("the host "+c.Nodes[2], host, nodePort)
	ask("the host "+c.Nodes[2], host, servers[0].Status.PodIP+":8080")

	rolled := make(chan error, 1)
	go func() {
		defer cancel()
		for range *rollouts {
			if out, err := c.Kubectl("rollout", "restart", "-n", metav1.NamespaceSystem, "daemonset/orlop-agent"); err != nil {
				rolled <- fmt.Errorf("%w: %s", err, out)
				return
			}
			if out, err := c.Kubectl("rollout", "status", "-n", metav1.NamespaceSystem, "daemonset/orlop-agent", "--timeout=5m"); err != nil {
				rolled <- fmt.Errorf("%w: %s", err, out)
				return
			}
		}
		rolled <- nil
	}()
	var tried, asked int64
	for ended := 0; ended < started; {
		o := <-told
		if o.who == "" {
			ended++
			continue
		}
		var r struct {
			Tried, Failed, Broken, Asked int64
			Error                        string
		}
		if err := json.Unmarshal([]byte(strings.TrimSpace(o.out)), &r); err != nil {
			t.Errorf("%s: %v: %s", o.who, err, o.out)
			continue
		}
		if tried, asked = tried+r.Tried, asked+r.Asked; r.Tried == 0 || r.Failed != 0 || r.Broken != 0 {
			t.Errorf("%s: %+v", o.who, r)
		}
	}
	must(t, <-rolled)
	t.Logf("%d rollouts over %d nodes: %d new connections, %d requests over kept ones", *rollouts, len(c.Nodes), tried, asked)
}
