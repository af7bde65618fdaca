// Package foreign installs the agent's proxy on a cluster whose pods' network and services are somebody else's, and removes it again.
//
// The network is containernetworking/plugins' bridge and host-local, with routes between hosts. Services are rules as kube-proxy in iptables mode
// has them, and something else has its ports.
package foreign

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/orlop-io/orlop/integration/clustertest"
)

const pluginsVersion = "v1.9.1"

// The Service that the old rules know, and one that only the agent can.
const oldIP, newIP = "10.96.0.50", "10.96.0.51"

func TestTakeOverAndBack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	plugins := t.TempDir()
	install(t, plugins)
	c, err := clustertest.Up("foreign", 2, "--cni", "none", "--proxy", "none")
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
	bringNetwork(t, c, plugins)
	ns := c.Namespace(t)
	server := c.RunPod(t, ns, c.Pod("server", []string{"netexec"}, clustertest.On(c.Nodes[1])))
	c.RunPod(t, ns, c.Pod("client", []string{"netexec"}, clustertest.On(c.Nodes[0])))
	for name, ip := range map[string]string{"old": oldIP, "new": newIP} {
		_, err := c.Client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
			ClusterIP: ip, Selector: map[string]string{"app": "server"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
		}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, host := range c.Nodes {
		oldRules(t, c, host, server.Status.PodIP)
	}
	for name, port := range map[string]string{"health": "10256", "metrics": "10249"} {
		for i, host := range c.Nodes {
			c.RunPod(t, ns, c.Pod(fmt.Sprint(name, i), []string{"netexec", "--http-port=" + port, "--udp-port=-1"}, clustertest.On(host), func(p *corev1.Pod) { p.Spec.HostNetwork = true }))
		}
	}
	asks := func(ip string, want bool) {
		t.Helper()
		for _, from := range []string{"pod", "node"} {
			var last error
			for end := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
				last = ask(c, ns, from, ip)
				if (last == nil) == want || time.Now().After(end) {
					break
				}
			}
			if (last == nil) != want {
				t.Errorf("asked from a %s, %s answers: want %t, got %v", from, ip, want, last)
			}
		}
	}
	asks(oldIP, true)
	asks(newIP, false)
	before := map[string]string{}
	for _, host := range c.Nodes {
		before[host] = snapshot(t, c, host)
	}

	bringAgent(t, c)
	asks(oldIP, true)
	asks(newIP, true)
	out, err := c.Kubectl("-n", "kube-system", "logs", agentPod(t, c), "-c", "orlop-agent")
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range []string{":10256", ":10249"} {
		if !strings.Contains(out, "somebody else serves at this address") || !strings.Contains(out, port) {
			t.Errorf("the agent says nothing of port %s:\n%s", port, out)
		}
	}
	for _, host := range c.Nodes {
		for _, port := range []string{"10256", "10249"} {
			if n, _ := c.Exec(host, "sh", "-c", "ss -Hltn sport = :"+port+" | wc -l"); strings.TrimSpace(n) != "1" {
				t.Errorf("%s: %s listen on port %s", host, strings.TrimSpace(n), port)
			}
		}
		if out, err := c.Exec(host, filepath.Join(c.Bin, "orlop-agent"), "uninstall"); err == nil || !strings.Contains(out, "an agent works on this node") {
			t.Errorf("uninstall beside a running agent: %v, %s", err, out)
		}
	}

	must(t)(c.Kubectl("-n", "kube-system", "delete", "ds", "orlop-agent"))
	for _, host := range c.Nodes {
		c.Eventually(t, time.Minute, "uninstall on "+host, func(context.Context) error {
			out, err := c.Exec(host, filepath.Join(c.Bin, "orlop-agent"), "uninstall")
			t.Logf("%s: %s", host, out)
			return err
		})
		if after := snapshot(t, c, host); after != before[host] {
			t.Errorf("%s is not as it was:\n%s", host, diff(t, before[host], after))
		}
	}
	asks(oldIP, true)
	asks(newIP, false)
}

func must(t *testing.T) func(string, error) {
	return func(out string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}

func ask(c *clustertest.Cluster, ns, from, ip string) error {
	var out string
	var err error
	if from == "pod" {
		out, err = c.InPod(ns, "client", "wget", "-T", "2", "-q", "-O", "-", "http://"+ip+"/hostname")
	} else {
		out, err = c.Exec(c.Nodes[0], "curl", "-sS", "-m", "2", "http://"+ip+"/hostname")
	}
	if err == nil && !strings.Contains(out, "server") {
		err = fmt.Errorf("answered %q", out)
	}
	return err
}

func install(t *testing.T, dir string) {
	t.Helper()
	args := []string{"install"}
	for _, p := range []string{"main/bridge", "main/loopback", "ipam/host-local"} {
		args = append(args, "github.com/containernetworking/plugins/plugins/"+p+"@"+pluginsVersion)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("install plugins: %v: %s", err, out)
	}
}

// bringNetwork gives the hosts a network as their administrator would.
func bringNetwork(t *testing.T, c *clustertest.Cluster, plugins string) {
	t.Helper()
	nodes := map[string]*corev1.Node{}
	for _, name := range c.Nodes {
		c.Eventually(t, time.Minute, "pod CIDR of "+name, func(ctx context.Context) (err error) {
			nodes[name], err = c.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			if err == nil && nodes[name].Spec.PodCIDR == "" {
				err = fmt.Errorf("it has none")
			}
			return err
		})
	}
	for _, name := range c.Nodes {
		conf := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"foreign","plugins":[{"type":"bridge","bridge":"cni0","isDefaultGateway":true,"ipam":{"type":"host-local","subnet":%q}}]}`,
			nodes[name].Spec.PodCIDR)
		script := "mkdir -p /opt/cni/bin /etc/cni/net.d && cp " + plugins + "/* /opt/cni/bin/ && echo '" + conf + "' > /etc/cni/net.d/10-foreign.conflist && echo 1 > /proc/sys/net/ipv4/ip_forward"
		for other, n := range nodes {
			if other != name {
				script += " && ip route replace " + n.Spec.PodCIDR + " via " + n.Status.Addresses[0].Address
			}
		}
		must(t)(c.Exec(name, "sh", "-c", script))
	}
	for _, name := range c.Nodes {
		c.Eventually(t, time.Minute, name+" ready", func(ctx context.Context) error {
			n, err := c.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, cond := range n.Status.Conditions {
				if cond.Type == corev1.NodeReady && cond.Status != corev1.ConditionTrue {
					return fmt.Errorf("%s", cond.Message)
				}
			}
			return nil
		})
	}
}

// oldRules are kube-proxy's for one Service, as its iptables mode lays them out.
func oldRules(t *testing.T, c *clustertest.Cluster, host, backend string) {
	t.Helper()
	rules := `*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-OLDOLDOLDOLDOLDO - [0:0]
:KUBE-SEP-OLDOLDOLDOLDOLDO - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-SERVICES -d ` + oldIP + `/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-OLDOLDOLDOLDOLDO
-A KUBE-SVC-OLDOLDOLDOLDOLDO -j KUBE-SEP-OLDOLDOLDOLDOLDO
-A KUBE-SEP-OLDOLDOLDOLDOLDO -s ` + backend + `/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-OLDOLDOLDOLDOLDO -p tcp -m tcp -j DNAT --to-destination ` + backend + `:8080
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MASQUERADE
COMMIT
`
	must(t)(c.Exec(host, "sh", "-c", "printf '%s' '"+rules+"' | iptables-restore --noflush"))
}

// bringAgent installs the committed manifest, with the image that the cluster has.
func bringAgent(t *testing.T, c *clustertest.Cluster) {
	t.Helper()
	b, err := os.ReadFile("../../../static-manifests/install/proxy-only.yaml")
	if err != nil {
		t.Fatal(err)
	}
	manifest := strings.ReplaceAll(string(b), "localhost/orlop-agent:dev", c.Image("orlop-agent"))
	must(t)(c.KubectlIn([]byte(manifest), "apply", "-f", "-"))
	c.Eventually(t, 2*time.Minute, "agent ready", func(ctx context.Context) error {
		set, err := c.Client.AppsV1().DaemonSets("kube-system").Get(ctx, "orlop-agent", metav1.GetOptions{})
		if err == nil && int(set.Status.NumberReady) < len(c.Nodes) {
			err = fmt.Errorf("%d of %d are ready", set.Status.NumberReady, len(c.Nodes))
		}
		return err
	})
}

func agentPod(t *testing.T, c *clustertest.Cluster) string {
	t.Helper()
	pods, err := c.Client.CoreV1().Pods("kube-system").List(t.Context(), metav1.ListOptions{LabelSelector: "k8s-app=orlop-agent"})
	if err != nil || len(pods.Items) == 0 {
		t.Fatalf("%d agents, %v", len(pods.Items), err)
	}
	return pods.Items[0].Name
}

// snapshot is what the host has of links, routes, rules, netfilter, settings and files that a proxy could change.
func snapshot(t *testing.T, c *clustertest.Cluster, host string) string {
	t.Helper()
	out, err := c.Exec(host, "sh", "-c", `ip -o link | sed 's/ qlen.*//'; ip route show table all | grep -v fe80; ip rule; ip -6 rule
		nft list ruleset 2>/dev/null | sed 's/counter packets [0-9]* bytes [0-9]*/counter/'; iptables-save | grep -v '^[#:]'
		grep -rs . /proc/sys/net | grep -v nf_conntrack_count
		find /opt/cni /etc/cni /var/lib/cni /var/lib/orlop-agent /run/orlop /sys/fs/bpf -printf '%p %l %s\n' 2>/dev/null | grep -v debug$`)
	if err != nil && out == "" {
		t.Fatal(err)
	}
	return out
}

func diff(t *testing.T, a, b string) string {
	t.Helper()
	dir := t.TempDir()
	for name, s := range map[string]string{"before": a, "after": b} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, _ := exec.Command("diff", "-u0", filepath.Join(dir, "before"), filepath.Join(dir, "after")).CombinedOutput() // it fails where there is a difference
	return string(out)
}
