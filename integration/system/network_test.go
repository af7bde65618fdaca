package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// twoPods runs a server on each host and returns them.
func twoPods(t *testing.T, c *clustertest.Cluster, ns string) [2]*corev1.Pod {
	t.Helper()
	var pods [2]*corev1.Pod
	for i := range pods {
		pods[i] = c.RunPod(t, ns, c.Pod(fmt.Sprintf("p%d", i), []string{"netexec"}, clustertest.On(c.Nodes[i])))
	}
	return pods
}

// clientIP is the address that the server at addr sees, asked from a pod.
func clientIP(c *clustertest.Cluster, ns, pod, addr string) (string, error) {
	out, err := c.InPod(ns, pod, "wget", "-q", "-O", "-", "http://"+addr+":8080/clientip")
	host, _, _ := strings.Cut(strings.TrimSpace(out), ":")
	return host, err
}

func podAddresses(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	pods := twoPods(t, c, ns)
	for _, from := range pods {
		for _, to := range pods {
			seen, err := clientIP(c, ns, from.Name, to.Status.PodIP)
			if err != nil {
				t.Error(err)
			} else if seen != from.Status.PodIP {
				t.Errorf("pod %s at %s is seen by %s as %s", from.Name, from.Status.PodIP, to.Name, seen)
			}
		}
	}
	// From a moment after their start on, the nodes' connection tracking sees nothing of what they say to each other.
	c.Eventually(t, 20*time.Second, "a connection past the nodes' stacks", func(context.Context) error {
		port := 20000 + time.Now().UnixMilli()%10000
		addr := fmt.Sprintf("%s:%d", pods[1].Status.PodIP, port)
		if out, err := c.InPod(ns, pods[0].Name, "wget", "-q", "-O", "-", "http://"+addr); err == nil {
			return fmt.Errorf("somebody answers at %s: %s", addr, out)
		}
		for _, host := range c.Nodes[:2] {
			seen, err := c.Exec(host, "cat", "/proc/net/nf_conntrack")
			if err != nil {
				return err
			}
			if strings.Contains(seen, fmt.Sprintf("dport=%d ", port)) {
				why, _ := c.Exec(host, c.Bin+"/testimage", "wget", "-q", "-O", "-", "http://127.0.0.1:10249/proxyMode?verbose")
				return fmt.Errorf("%s tracks what pods of two nodes say to each other: %s", host, why)
			}
		}
		return nil
	})
}

func nodeAddress(t *testing.T, c *clustertest.Cluster, name string) string {
	t.Helper()
	n, err := c.Client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	t.Fatalf("node %s has no InternalIP", name)
	return ""
}

func podNodeAddresses(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	pod := c.RunPod(t, ns, c.Pod("p", []string{"netexec"}, clustertest.On(c.Nodes[0])))
	host := c.RunPod(t, ns, c.Pod("h", []string{"netexec", "--http-port=18080", "--udp-port=-1"}, clustertest.On(c.Nodes[1]), func(p *corev1.Pod) { p.Spec.HostNetwork = true }))
	address := nodeAddress(t, c, c.Nodes[1])
	if host.Status.PodIP != address {
		t.Errorf("the pod on the host's network has %s, the host %s", host.Status.PodIP, address)
	}
	out, err := c.InPod(ns, "p", "wget", "-q", "-O", "-", "http://"+address+":18080/clientip")
	if err != nil || !strings.HasPrefix(out, pod.Status.PodIP+":") {
		t.Errorf("the host sees the pod %s as %s (%v)", pod.Status.PodIP, out, err)
	}
	seen, err := clientIP(c, ns, "h", pod.Status.PodIP)
	if err != nil || seen != address {
		t.Errorf("the pod sees the host %s as %s (%v)", address, seen, err)
	}
}

func vethOnBridge(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	pods := twoPods(t, c, ns)
	for _, p := range pods {
		link, err := c.InPod(ns, p.Name, "cat", "/sys/class/net/eth0/iflink")
		if err != nil {
			t.Error(err)
			continue
		}
		out, err := c.Exec(p.Spec.NodeName, "ip", "-o", "link", "show", "master", "orlop0")
		if err != nil {
			t.Error(err)
		} else if !strings.Contains("\n"+out, "\n"+strings.TrimSpace(link)+": ") {
			t.Errorf("the peer %s of pod %s is not on the bridge:\n%s", strings.TrimSpace(link), p.Name, out)
		}
	}
}

func routedRanges(t *testing.T, c *clustertest.Cluster) {
	ranges := map[string]string{}
	for _, name := range c.Nodes {
		n, err := c.Client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		prefix, err := netip.ParsePrefix(n.Spec.PodCIDR)
		if err != nil || prefix.Bits() != 24 {
			t.Errorf("node %s has the range %q", name, n.Spec.PodCIDR)
		}
		for other, r := range ranges {
			if r == n.Spec.PodCIDR {
				t.Errorf("%s and %s both have %s", name, other, r)
			}
		}
		ranges[name] = n.Spec.PodCIDR
	}
	for _, name := range c.Nodes {
		routes, err := c.Exec(name, "ip", "route")
		if err != nil {
			t.Fatal(err)
		}
		for other, r := range ranges {
			if via := r + " via " + nodeAddress(t, c, other); other != name && !strings.Contains(routes, via) {
				t.Errorf("%s has no route %s:\n%s", name, via, routes)
			}
		}
	}
}

func agentIsDaemonSet(t *testing.T, c *clustertest.Cluster) {
	ds, err := c.Client.AppsV1().DaemonSets("kube-system").Get(t.Context(), "orlop-agent", metav1.GetOptions{})
	if err != nil || int(ds.Status.NumberReady) != len(c.Nodes) {
		t.Errorf("the agent is ready on %d nodes (%v)", ds.Status.NumberReady, err)
	}
}

// answersFromAll asks until each of want has answered.
func answersFromAll(t *testing.T, what string, want []string, ask func() (string, error)) {
	t.Helper()
	left := map[string]bool{}
	for _, w := range want {
		left[w] = true
	}
	failures := 0
	for try := 0; len(left) > 0 && try < 200; try++ {
		out, err := ask()
		if err != nil {
			if failures++; failures > 3 {
				t.Fatalf("%s: %v", what, err)
			}
			time.Sleep(300 * time.Millisecond)
			continue
		}
		for line := range strings.Lines(out) {
			delete(left, strings.TrimSpace(line))
		}
	}
	for name := range left {
		t.Errorf("%s: %s never answers", what, name)
	}
}

// serve makes three servers, a Service before them and a client pod.
func serve(t *testing.T, c *clustertest.Cluster, ns string, mutate ...func(*corev1.Service)) (names []string, clusterIP string) {
	t.Helper()
	deploy(t, c, ns, web(c, "web", 3))
	s, err := c.Client.CoreV1().Services(ns).Create(t.Context(), service("web", 80, 8080, mutate...), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.RunPod(t, ns, c.Pod("client", []string{"pause"}))
	c.Eventually(t, 30*time.Second, "three endpoints", func(ctx context.Context) error {
		ready, _, err := endpointAddresses(ctx, c, ns, "web")
		if err == nil && len(ready) != 3 {
			err = fmt.Errorf("there are %v", ready)
		}
		return err
	})
	for _, p := range podsOf(t, c, ns, "web") {
		names = append(names, p.Name)
	}
	return names, s.Spec.ClusterIP
}

// askTen asks url ten times from within a pod.
func askTen(c *clustertest.Cluster, ns, url string) func() (string, error) {
	return func() (string, error) {
		return c.InPod(ns, "client", "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do wget -q -T 5 -O - "+url+"; echo; done")
	}
}

func askFromHost(c *clustertest.Cluster, host, url string) func() (string, error) {
	return func() (string, error) {
		return c.Exec(host, c.Bin+"/testimage", "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do "+c.Bin+"/testimage wget -q -T 5 -O - "+url+"; echo; done")
	}
}

func serviceAnswers(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	names, ip := serve(t, c, ns)
	answersFromAll(t, "ClusterIP from a pod", names, askTen(c, ns, "http://"+ip+"/hostname"))
	answersFromAll(t, "short name from a pod", names, askTen(c, ns, "http://web/hostname"))
	answersFromAll(t, "full name from a pod", names, askTen(c, ns, "http://web."+ns+".svc.cluster.local/hostname"))
	for _, host := range c.Nodes {
		answersFromAll(t, "ClusterIP from host "+host, names, askFromHost(c, host, "http://"+ip+"/hostname"))
		out, err := c.Exec(host, c.Bin+"/testimage", "nslookup", "web."+ns+".svc.cluster.local.", "10.96.0.10")
		if err != nil || !strings.Contains(out, ip) {
			t.Errorf("the name from host %s: %s (%v)", host, out, err)
		}
	}
	ebpfServices(t, c)
}

func ebpfServices(t *testing.T, c *clustertest.Cluster) {
	for _, host := range c.Nodes {
		mode, err := c.Exec(host, c.Bin+"/testimage", "wget", "-q", "-O", "-", "http://127.0.0.1:10249/proxyMode")
		if err != nil || strings.TrimSpace(mode) != "ebpf" {
			t.Errorf("%s: the agent reports %q (%v)", host, mode, err)
		}
		pins, err := c.Exec(host, "find", "/sys/fs/bpf/orlop")
		if err != nil || !strings.Contains(pins, "connect4") || !strings.Contains(pins, "sendmsg4") {
			t.Errorf("%s: pinned are only %q (%v)", host, pins, err)
		}
		rules, err := c.Exec(host, "nft", "list", "ruleset")
		if err != nil {
			t.Error(err)
		}
		for _, word := range []string{"KUBE-SVC", "KUBE-SERVICES", "kube-proxy", "10.96."} {
			if strings.Contains(rules, word) {
				t.Errorf("%s: netfilter has service rules (%s):\n%s", host, word, rules)
			}
		}
	}
}

func virtualAddress(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	_, ip := serve(t, c, ns)
	for _, host := range c.Nodes {
		out, err := c.Exec(host, "ip", "-o", "addr")
		if err != nil || strings.Contains(out, ip+"/") {
			t.Errorf("%s: the virtual address is on an interface (%v):\n%s", host, err, out)
		}
	}
	s, err := c.Client.CoreV1().Services(ns).Patch(t.Context(), "web", types.MergePatchType, []byte(`{"metadata":{"labels":{"x":"y"}}}`), metav1.PatchOptions{})
	if err != nil || s.Spec.ClusterIP != ip {
		t.Errorf("the address changed from %s to %s (%v)", ip, s.Spec.ClusterIP, err)
	}
}

func nodePortAndUDP(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	names, ip := serve(t, c, ns, func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports[0].Name = "http"
		udp := corev1.ServicePort{Name: "udp", Protocol: corev1.ProtocolUDP, Port: 90}
		udp.TargetPort.IntVal = 8081
		s.Spec.Ports = append(s.Spec.Ports, udp)
	})
	s, err := c.Client.CoreV1().Services(ns).Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tcp, udp := s.Spec.Ports[0].NodePort, s.Spec.Ports[1].NodePort
	if tcp < 30000 || tcp > 32767 || udp < 30000 || udp > 32767 {
		t.Fatalf("the node ports are %d and %d", tcp, udp)
	}
	for _, node := range c.Nodes {
		url := fmt.Sprintf("http://%s:%d/hostname", nodeAddress(t, c, node), tcp)
		answersFromAll(t, "NodePort of "+node+" from a pod", names, askTen(c, ns, url))
		answersFromAll(t, "NodePort at 127.0.0.1 of "+node, names, askFromHost(c, node, fmt.Sprintf("http://127.0.0.1:%d/hostname", tcp)))
	}
	for what, target := range map[string]string{"ClusterIP": fmt.Sprintf("%s&port=90", ip), "NodePort": fmt.Sprintf("%s&port=%d", nodeAddress(t, c, c.Nodes[0]), udp)} {
		answersFromAll(t, "UDP to the "+what, names, func() (string, error) { return dialThroughPod(c, ns, target) })
	}
}

// dialThroughPod has a server pod ask a UDP target ten times, a socket each.
func dialThroughPod(c *clustertest.Cluster, ns, target string) (string, error) {
	pods, err := c.Client.CoreV1().Pods(ns).List(context.Background(), metav1.ListOptions{LabelSelector: "app=web"})
	if err != nil || len(pods.Items) == 0 {
		return "", errors.Join(err, errors.New("no server pod"))
	}
	out, err := c.InPod(ns, "client", "wget", "-q", "-O", "-", "http://"+pods.Items[0].Status.PodIP+":8080/dial?request=hostname&protocol=udp&tries=10&host="+target)
	if err != nil {
		return "", err
	}
	var answer struct{ Responses, Errors []string }
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		return "", err
	}
	if len(answer.Errors) > 0 {
		return "", errors.New(answer.Errors[0])
	}
	return strings.Join(answer.Responses, "\n"), nil
}

func endpointsFollowReadiness(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	pod := c.Pod("web", []string{"sh", "-c", "touch /tmp/ready; exec /testimage netexec"}, func(p *corev1.Pod) {
		p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
			ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"cat", "/tmp/ready"}}}, PeriodSeconds: 1, FailureThreshold: 1,
		}
	})
	c.RunPod(t, ns, pod)
	s, err := c.Client.CoreV1().Services(ns).Create(t.Context(), service("web", 80, 8080), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.RunPod(t, ns, c.Pod("client", []string{"pause"}))
	connect := func() (string, error) { return c.InPod(ns, "client", "/testimage", "connect", s.Spec.ClusterIP+":80") }
	works := func(context.Context) error { _, err := connect(); return err }
	refused := func(context.Context) error {
		out, err := connect()
		if err == nil || !strings.Contains(out, "REFUSED") {
			return fmt.Errorf("connecting gives %q, %v", out, err)
		}
		return nil
	}
	c.Eventually(t, 30*time.Second, "the Service to answer", works)
	if out, err := c.InPod(ns, "web", "rm", "/tmp/ready"); err != nil {
		t.Fatal(out, err)
	}
	c.Eventually(t, 30*time.Second, "the Service to refuse at once when nobody is ready", refused)
	if out, err := c.InPod(ns, "web", "touch", "/tmp/ready"); err != nil {
		t.Fatal(out, err)
	}
	c.Eventually(t, 30*time.Second, "the Service to answer again", works)
}

func addressPair(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	_, ip := serve(t, c, ns)
	if out, err := c.InPod(ns, "client", "/testimage", "connect", "--timeout=2s", ip+":81"); err == nil {
		t.Errorf("a port that the Service does not have answers: %q", out)
	}
	if out, err := c.InPod(ns, "client", "/testimage", "connect", ip+":80"); err != nil {
		t.Errorf("the Service's port: %s (%v)", out, err)
	}
}

func clusterDNS(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	c.RunPod(t, ns, c.Pod("p", []string{"pause"}))
	out, err := c.InPod(ns, "p", "cat", "/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"nameserver 10.96.0.10\n", "search " + ns + ".svc.cluster.local svc.cluster.local cluster.local", "options ndots:5"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in resolv.conf:\n%s", want, out)
		}
	}
	out, err = c.InPod(ns, "p", "nslookup", "kubernetes.default")
	if err != nil || !strings.Contains(out, "10.96.0.1\n") {
		t.Errorf("kubernetes.default: %s (%v)", out, err)
	}
}

func headlessDNS(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	pod := c.RunPod(t, ns, c.Pod("web", []string{"netexec"}, func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "one", "web" }))
	headless := service("web", 80, 8080, func(s *corev1.Service) { s.Spec.ClusterIP = "None" })
	if _, err := c.Client.CoreV1().Services(ns).Create(t.Context(), headless, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"web", "one.web"} {
		c.Eventually(t, 30*time.Second, name+" to resolve to the pod", func(context.Context) error {
			out, err := c.InPod(ns, "web", "nslookup", name)
			if err == nil && !strings.Contains(out, pod.Status.PodIP+"\n") {
				err = errors.New(out)
			}
			return err
		})
	}
}

// overlayBehindRouters has the hosts reach each other by a router which lets nothing pass but what comes from hosts, and then on one link again.
func overlayBehindRouters(t *testing.T, c *clustertest.Cluster) {
	var addrs [2]netip.Addr
	for i := range addrs {
		addrs[i] = netip.MustParseAddr(nodeAddress(t, c, c.Nodes[i]))
	}
	router := netip.PrefixFrom(addrs[0], 24).Masked().Addr().Next().String()
	way := func(verb string) error {
		var errs []error
		for i := range addrs {
			if out, err := c.Exec(c.Nodes[i], "ip", "route", verb, addrs[1-i].String()+"/32", "via", router); err != nil {
				errs = append(errs, fmt.Errorf("%w: %s", err, out))
			}
		}
		return errors.Join(errs...)
	}
	routed := func(overlay bool) {
		t.Helper()
		c.Eventually(t, 30*time.Second, "routes to the other host's pods", func(context.Context) error {
			for i := range addrs {
				out, err := c.Exec(c.Nodes[i], "ip", "route", "show", "proto", "79")
				if err != nil || out == "" || strings.Contains(out, "orlop-vx") != overlay {
					return fmt.Errorf("on %s: %s, %w", c.Nodes[i], out, err)
				}
			}
			return nil
		})
	}
	if err := way("add"); err != nil {
		t.Fatal(err)
	}
	there := true
	t.Cleanup(func() {
		if there {
			if err := way("del"); err != nil {
				t.Error(err)
			}
		}
	})
	routed(true)
	t.Run("pods", func(t *testing.T) { podAddresses(t, c) })
	t.Run("nodes", func(t *testing.T) { podNodeAddresses(t, c) })
	if err := way("del"); err != nil {
		t.Fatal(err)
	}
	there = false
	routed(false)
}
