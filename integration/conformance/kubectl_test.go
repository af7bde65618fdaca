package conformance

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

func kubectlTests() map[string]test {
	rows := under("[sig-cli] Kubectl client ", map[string]test{
		"Kubectl api-versions should check if v1 is in available api versions":                               quickly(prints(`(?m)^v1$`, "api-versions")),
		"Kubectl cluster-info should check if Kubernetes control plane services is included in cluster-info": quickly(prints(`Kubernetes control plane.* is running at`, "cluster-info")),
		"Kubectl version should check is all data is printed":                                                quickly(prints(`(?s)Client Version: v\d+\.\d+.*Server Version: v1\.37`, "version")),
		"Kubectl describe should check if kubectl describe prints relevant information for rc and pods":      quickly(kubectlDescribe),
		"Kubectl diff should check if kubectl diff finds a difference for Deployments":                       quickly(kubectlDiff),
		"Kubectl expose should create services for rc":                                                       quickly(kubectlExpose),
		"Kubectl label should update the label on a resource":                                                quickly(kubectlLabel),
		"Kubectl patch should add annotations for pods in rc":                                                quickly(kubectlPatch),
		"Kubectl replace should update a single-container pod's image":                                       quickly(kubectlReplace),
		"Kubectl run pod should create a pod from an image when restart is Never":                            quickly(kubectlRun),
		"Kubectl server-side dry-run should check if kubectl can dry-run update Pods":                        quickly(kubectlDryRun),
		"Proxy server should support --unix-socket=/path":                                                    quickly(kubectlProxy(true)),
		"Proxy server should support proxy with --port 0":                                                    quickly(kubectlProxy(false)),
		"Guestbook application should create and stop a working application":                                 slowly(guestbook),
		"Update Demo should create and stop a replication controller":                                        slowly(updateDemo),
		"Update Demo should scale a replication controller":                                                  slowly(updateDemo),
	})
	rows["[sig-cli] Kubectl logs logs should be able to retrieve and filter logs"] = quickly(kubectlLogs)
	return rows
}

func kubectl(t *testing.T, c *clustertest.Cluster, ns string, args ...string) string {
	t.Helper()
	return must(c.Kubectl(append([]string{"-n", ns}, args...)...))(t)
}

func holds(t *testing.T, out string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !regexp.MustCompile(w).MatchString(out) {
			t.Errorf("no %q in\n%s", w, out)
		}
	}
}

func prints(want string, args ...string) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) { holds(t, kubectl(t, c, "default", args...), want) }
}

// controllerOf makes a ReplicationController of two named web through kubectl.
func controllerOf(t *testing.T, c *clustertest.Cluster, ns string, replicas int) {
	t.Helper()
	manifest := fmt.Sprintf(`{"apiVersion":"v1","kind":"ReplicationController","metadata":{"name":"web","labels":{"app":"web"}},"spec":{"replicas":%d,"selector":{"app":"web"},
"template":{"metadata":{"labels":{"app":"web"}},"spec":{"terminationGracePeriodSeconds":0,"containers":[{"name":"web","image":%q,"args":["netexec"],"ports":[{"containerPort":8080,"name":"http"}]}]}}}}`, replicas, c.Image("agnhost"))
	must(c.KubectlIn([]byte(manifest), "-n", ns, "create", "-f", "-"))(t)
	waitLiving(t, c, ns, "web", replicas, nil)
}

func kubectlDescribe(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	controllerOf(t, c, ns, 1)
	pod := waitLiving(t, c, ns, "web", 1, nil)[0]
	kubectl(t, c, ns, "expose", "rc", "web", "--name=s", "--port=80")
	holds(t, kubectl(t, c, ns, "describe", "rc", "web"), `Name:\s+web`, `Namespace:\s+`+ns, `Selector:\s+app=web`, `Replicas:\s+1 current / 1 desired`, `Pods Status:\s+1 Running`, `Image:\s+`, `Events:`)
	holds(t, kubectl(t, c, ns, "describe", "pod", pod.Name), `Name:\s+`+pod.Name, `Status:\s+Running`, `IP:`, `Controlled By:\s+ReplicationController/web`, `Image:`, `State:\s+Running`, `QoS Class:`)
	holds(t, kubectl(t, c, ns, "describe", "service", "s"), `Name:\s+s`, `Selector:\s+app=web`, `Type:\s+ClusterIP`, `IP:\s+10\.`, `Endpoints:\s+10\.`)
	holds(t, kubectl(t, c, ns, "describe", "node", c.Nodes[0]), `Name:\s+`+c.Nodes[0], `Labels:`, `CreationTimestamp:`, `Conditions:`, `MemoryPressure`, `Addresses:`, `Capacity:`, `Kubelet Version:`, `Pods:`)
	holds(t, kubectl(t, c, ns, "describe", "namespace", ns), `Name:\s+`+ns, `Status:\s+Active`, `No resource quota`)
}

func kubectlDiff(t *testing.T, c *clustertest.Cluster) {
	if _, err := exec.LookPath("diff"); err != nil {
		t.Fatal(err)
	}
	ns := c.Namespace(t)
	kubectl(t, c, ns, "create", "deployment", "d", "--image=image.invalid/one", "--replicas=0")
	live := kubectl(t, c, ns, "get", "deployment", "d", "-o", "yaml")
	out, err := c.KubectlIn([]byte(strings.ReplaceAll(live, "image.invalid/one", "image.invalid/two")), "-n", ns, "diff", "-f", "-")
	if err == nil {
		t.Error("diff ended with 0 though there is a difference")
	}
	holds(t, out, `-\s+- image: image.invalid/one`, `\+\s+- image: image.invalid/two`)
}

func kubectlExpose(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	controllerOf(t, c, ns, 1)
	ip := waitLiving(t, c, ns, "web", 1, nil)[0].Status.PodIP
	kubectl(t, c, ns, "expose", "rc", "web", "--name=rm2", "--port=1234", "--target-port=8080")
	kubectl(t, c, ns, "expose", "service", "rm2", "--name=rm3", "--port=2345", "--target-port=8080")
	for name, port := range map[string]int32{"rm2": 1234, "rm3": 2345} {
		s := must(c.Client.CoreV1().Services(ns).Get(t.Context(), name, metav1.GetOptions{}))(t)
		if p := s.Spec.Ports[0]; p.Port != port || p.TargetPort.IntValue() != 8080 {
			t.Errorf("%s has ports %+v", name, p)
		}
		endpointsAre(t, c, ns, name, ip+":8080")
	}
}

func kubectlLabel(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	createPod(t, c, ns, c.Pod("one", nil))
	kubectl(t, c, ns, "label", "pods", "one", "testing-label=testing-label-value")
	holds(t, kubectl(t, c, ns, "get", "pod", "one", "-L", "testing-label"), "testing-label-value")
	holds(t, kubectl(t, c, ns, "get", "pod", "-l", "testing-label=testing-label-value", "-o", "name"), "pod/one")
	kubectl(t, c, ns, "label", "pods", "one", "testing-label-")
	if out := kubectl(t, c, ns, "get", "pod", "one", "-L", "testing-label"); strings.Contains(out, "testing-label-value") {
		t.Errorf("the label is still there:\n%s", out)
	}
}

func kubectlPatch(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	controllerOf(t, c, ns, 1)
	for _, p := range waitLiving(t, c, ns, "web", 1, nil) {
		kubectl(t, c, ns, "patch", "pod", p.Name, "-p", `{"metadata":{"annotations":{"x":"y"}}}`)
		if got := kubectl(t, c, ns, "get", "pod", p.Name, "-o", "jsonpath={.metadata.annotations.x}"); got != "y" {
			t.Errorf("annotation %q", got)
		}
	}
}

func kubectlReplace(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	kubectl(t, c, ns, "run", "one", "--image="+c.Image("agnhost"))
	c.WaitPod(t, ns, "one", "ready", clustertest.Ready) // from then on nobody else writes to it
	live := kubectl(t, c, ns, "get", "pod", "one", "-o", "json")
	must(c.KubectlIn([]byte(strings.Replace(live, c.Image("agnhost"), c.Image("busybox"), 1)), "-n", ns, "replace", "-f", "-"))(t)
	if got := kubectl(t, c, ns, "get", "pod", "one", "-o", "jsonpath={.spec.containers[0].image}"); got != c.Image("busybox") {
		t.Errorf("image %s", got)
	}
}

func kubectlRun(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	kubectl(t, c, ns, "run", "one", "--restart=Never", "--image="+c.Image("nginx"))
	if got := kubectl(t, c, ns, "get", "pod", "one", "-o", "jsonpath={.spec.containers[0].image} {.spec.restartPolicy}"); got != c.Image("nginx")+" Never" {
		t.Errorf("pod of %s", got)
	}
}

func kubectlDryRun(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	kubectl(t, c, ns, "run", "one", "--image="+c.Image("agnhost"))
	kubectl(t, c, ns, "patch", "pod", "one", "--dry-run=server", "-p", `{"spec":{"containers":[{"name":"one","image":"`+c.Image("busybox")+`"}]}}`)
	if got := kubectl(t, c, ns, "get", "pod", "one", "-o", "jsonpath={.spec.containers[0].image}"); got != c.Image("agnhost") {
		t.Errorf("the dry run changed the image to %s", got)
	}
}

func kubectlLogs(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	// It stays afterwards: the logs of a container that has begun again are others.
	c.RunPod(t, ns, c.Pod("one", []string{"sh", "-c", "/testimage logs-generator --log-lines-total=100 --run-duration=1s; exec /testimage pause"}))
	c.Eventually(t, 20*time.Second, "100 lines", func(context.Context) error {
		if n := strings.Count(kubectl(t, c, ns, "logs", "one"), "\n"); n < 100 {
			return fmt.Errorf("%d lines", n)
		}
		return nil
	})
	if out := kubectl(t, c, ns, "logs", "one", "--tail=1"); strings.Count(out, "\n") != 1 {
		t.Errorf("--tail=1 gives %q", out)
	}
	if out := kubectl(t, c, ns, "logs", "one", "--limit-bytes=1"); len(out) != 1 {
		t.Errorf("--limit-bytes=1 gives %q", out)
	}
	stamp, _, _ := strings.Cut(kubectl(t, c, ns, "logs", "one", "--tail=1", "--timestamps"), " ")
	if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil {
		t.Error(err)
	}
	time.Sleep(1500 * time.Millisecond)
	recent, old := strings.Count(kubectl(t, c, ns, "logs", "one", "--since=1s"), "\n"), strings.Count(kubectl(t, c, ns, "logs", "one", "--since=24h"), "\n")
	if recent > old || old < 100 {
		t.Errorf("%d lines of the last second, %d of the last day", recent, old)
	}
}

func kubectlProxy(unix bool) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ctx, cancel := context.WithCancel(t.Context())
		arg, socket := "--port=0", filepath.Join(t.TempDir(), "s")
		if unix {
			arg = "--unix-socket=" + socket
		}
		cmd := c.KubectlCommand(ctx, "proxy", arg)
		out := must(cmd.StdoutPipe())(t)
		ok(t, cmd.Start())
		defer cmd.Wait()
		defer cancel()
		line := must(bufio.NewReader(out).ReadString('\n'))(t)
		network, address := "unix", socket
		if !unix {
			network, address = "tcp", strings.TrimSpace(line[strings.LastIndex(line, " ")+1:])
		}
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}}}
		resp := must(client.Get("http://localhost/api/"))(t)
		defer resp.Body.Close()
		if line := must(bufio.NewReader(resp.Body).ReadString('}'))(t); resp.StatusCode != 200 || !strings.Contains(line, "APIVersions") {
			t.Errorf("%s %s", resp.Status, line)
		}
	}
}

func updateDemo(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	controllerOf(t, c, ns, 2)
	for _, n := range []int{1, 2} {
		kubectl(t, c, ns, "scale", "rc", "web", fmt.Sprintf("--replicas=%d", n), "--timeout=2m")
		waitLiving(t, c, ns, "web", n, nil)
	}
	kubectl(t, c, ns, "delete", "rc", "web", "--grace-period=0", "--force")
	waitLiving(t, c, ns, "web", 0, nil)
}

// guestbook makes an application of three parts, writes to it and reads it back, and removes it, by kubectl.
func guestbook(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	var manifest strings.Builder
	for _, part := range []struct {
		name     string
		replicas int
		port     int
		args     string
	}{
		{"agnhost-primary", 1, 6379, `"guestbook", "--http-port", "6379"`},
		{"agnhost-replica", 2, 6379, `"guestbook", "--replicaof", "agnhost-primary", "--http-port", "6379"`},
		{"frontend", 3, 80, `"guestbook", "--backend-port", "6379"`},
	} {
		fmt.Fprintf(&manifest, `---
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec: {selector: {part: %[1]s}, ports: [{port: %[3]d, targetPort: %[3]d}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: %[2]d
  selector: {matchLabels: {part: %[1]s}}
  template:
    metadata: {labels: {part: %[1]s}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: %[4]q, args: [%[5]s]}]}
`, part.name, part.replicas, part.port, c.Image("agnhost"), part.args)
	}
	must(c.KubectlIn([]byte(manifest.String()), "-n", ns, "create", "-f", "-"))(t)
	for _, name := range []string{"agnhost-primary", "agnhost-replica", "frontend"} {
		kubectl(t, c, ns, "rollout", "status", "--timeout=60s", "deployment/"+name)
	}
	ask := func(query, want string) {
		c.Eventually(t, 60*time.Second, query+" to be answered", func(context.Context) error {
			code, _, body := raw(t, c, "GET", "/api/v1/namespaces/"+ns+"/services/frontend/proxy/guestbook?"+query, "*/*", "")
			if code != 200 || body != want {
				return fmt.Errorf("%d %s", code, body)
			}
			return nil
		})
	}
	ask("cmd=get&key=messages&value=", `{"data":""}`)
	ask("cmd=set&key=messages&value=TestEntry", `{"data":"Updated"}`)
	for range 5 { // both replicas have it
		ask("cmd=get&key=messages&value=", `{"data":"TestEntry"}`)
	}
	must(c.KubectlIn([]byte(manifest.String()), "-n", ns, "delete", "--grace-period=0", "--force", "-f", "-"))(t)
	if left := kubectl(t, c, ns, "get", "deployments,services", "-o", "name"); left != "" {
		t.Errorf("still there: %s", left)
	}
}
