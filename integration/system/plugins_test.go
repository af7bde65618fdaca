package system

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// anyPlugin gives a cluster without a network Debian's bridge, host-local and portmap, as an administrator would: by files alone.
func anyPlugin(t *testing.T, _ *clustertest.Cluster) {
	c, err := clustertest.Up("plugins", 1, "--cni", "none")
	if c != nil {
		t.Cleanup(func() {
			if err := c.Down(); err != nil {
				t.Error(err)
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	host := c.Nodes[0]
	var cidr string
	ready := func(ctx context.Context) (corev1.NodeCondition, error) {
		n, err := c.Client.CoreV1().Nodes().Get(ctx, host, metav1.GetOptions{})
		if err != nil {
			return corev1.NodeCondition{}, err
		}
		cidr = n.Spec.PodCIDR
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NodeReady {
				return cond, nil
			}
		}
		return corev1.NodeCondition{}, fmt.Errorf("%s has no condition Ready", host)
	}
	c.Eventually(t, 30*time.Second, "the node to say that it has no network, and to have a pod CIDR", func(ctx context.Context) error {
		if cond, err := ready(ctx); err != nil || cidr == "" || cond.Status == corev1.ConditionTrue || !strings.Contains(cond.Message, "cni plugin not initialized") {
			return fmt.Errorf("CIDR %q, %s: %s, %w", cidr, cond.Status, cond.Message, err)
		}
		return nil
	})
	conf := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"theirs","plugins":[{"type":"bridge","bridge":"cni0","isDefaultGateway":true,"hairpinMode":true,
		"ipam":{"type":"host-local","subnet":%q}},{"type":"portmap","capabilities":{"portMappings":true}}]}`, cidr)
	if out, err := c.Exec(host, "sh", "-c", `mkdir -p /opt/cni/bin /etc/cni/net.d && cp /usr/lib/cni/* /opt/cni/bin/ && printf '%s' '`+conf+`' > /etc/cni/net.d/10-theirs.conflist`); err != nil {
		t.Fatalf("install the plugins: %v: %s", err, out)
	}
	c.Eventually(t, 30*time.Second, "the node to be ready", func(ctx context.Context) error {
		cond, err := ready(ctx)
		if err == nil && cond.Status != corev1.ConditionTrue {
			err = fmt.Errorf("%s", cond.Message)
		}
		return err
	})

	ns := c.Namespace(t)
	asker := c.RunPod(t, ns, c.Pod("asker", []string{"netexec"}))
	server := c.RunPod(t, ns, c.Pod("server", []string{"netexec"}, func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 8080, HostPort: 18088}}
	}))
	if seen, err := clientIP(c, ns, "asker", server.Status.PodIP); err != nil || seen != asker.Status.PodIP {
		t.Errorf("the asker at %s is seen as %q (%v)", asker.Status.PodIP, seen, err)
	}
	names, ip := serve(t, c, ns)
	answersFromAll(t, "a ClusterIP from a pod", names, askTen(c, ns, "http://"+ip+"/hostname"))
	answersFromAll(t, "a host port from the host", []string{"server"}, askFromHost(c, host, "http://"+nodeAddress(t, c, host)+":18088/hostname"))
	if out, err := c.Exec(host, "ip", "-o", "link", "show", "master", "cni0"); err != nil || !strings.Contains(out, "veth") {
		t.Errorf("the pods are not on the plugin's bridge (%v): %s", err, out)
	}

	now := int64(0)
	if err := c.Client.CoreV1().Pods(ns).Delete(t.Context(), "server", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	c.Eventually(t, 30*time.Second, "the plugins to give back what the pod had", func(context.Context) error {
		addresses, err := c.Exec(host, "ls", "/var/lib/cni/networks/theirs")
		if err != nil || strings.Contains(addresses, server.Status.PodIP+"\n") || !strings.Contains(addresses, asker.Status.PodIP+"\n") {
			return fmt.Errorf("addresses in use: %s, %w", addresses, err)
		}
		rules, err := c.Exec(host, "iptables-save", "-t", "nat")
		if err != nil || strings.Contains(rules, "18088") {
			return fmt.Errorf("rules of netfilter: %s, %w", rules, err)
		}
		return nil
	})
}
