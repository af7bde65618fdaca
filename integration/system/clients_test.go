package system

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// client is a program of somebody else that talks to the cluster.
type client struct {
	t       *testing.T
	program []string
}

// run returns what it prints, and its error.
func (c client) run(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	command := append(append([]string{}, c.program...), args...)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	home := c.t.TempDir() // of its own: old and new programs do not share their caches
	cmd.Env = append(os.Environ(), "KUBECONFIG="+cluster.Kubeconfig, "HOME="+home)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w\n%s%s", strings.Join(command, " "), err, &out, &errs)
	}
	return out.String(), nil
}

// must wants it to succeed.
func (c client) must(stdin string, args ...string) string {
	c.t.Helper()
	out, err := c.run(stdin, args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

func (c client) prints(out string, words ...string) {
	c.t.Helper()
	for _, w := range words {
		if !strings.Contains(out, w) {
			c.t.Errorf("no %q in\n%s", w, out)
		}
	}
}

// installed is a client that `make test` puts beside the programs (integration/cmd/deps).
func installed(t *testing.T, name string) []string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../../bin/clients", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: go run ./integration/cmd/deps -need test installs it", err)
	}
	return []string{path}
}

func TestKubectls(t *testing.T) {
	ours := []string{filepath.Join(cluster.Bin, "orlop"), "kubectl", "--name", cluster.Name}
	for name, program := range map[string][]string{"ours": ours, "Debian's": installed(t, "kubectl-debian"), "the machine's": {"kubectl"}} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(program[0]); err != nil {
				t.Skip("the machine has no kubectl")
			}
			kubectlBasics(client{t, program})
		})
	}
}

// kubectlBasics is what every kubectl of the last five years does all day.
func kubectlBasics(k client) {
	t := k.t
	ns := cluster.Namespace(t)
	in := func(args ...string) []string { return append([]string{"-n", ns}, args...) }
	k.prints(k.must("", "version"), "v1.37.")
	k.prints(k.must("", "get", "nodes", "-o", "wide"), cluster.Nodes[0], "Ready")
	pod := fmt.Sprintf(`kind: Pod
apiVersion: v1
metadata: {name: p, labels: {a: b}}
spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: %s, command: [sh, -c, "echo started; sleep 1000"]}]}`, cluster.Image("busybox"))
	k.must(pod, in("create", "-f", "-")...)
	cm := func(v string) string {
		return "kind: ConfigMap\napiVersion: v1\nmetadata: {name: m}\ndata: {k: " + v + "}"
	}
	k.prints(k.must(cm("one"), in("apply", "-f", "-")...), "created")
	k.prints(k.must(cm("two"), in("apply", "-f", "-")...), "configured")
	k.prints(k.must(cm("two"), in("apply", "-f", "-")...), "unchanged")
	k.prints(k.must("", in("get", "configmap", "m", "-o", "jsonpath={.data.k}")...), "two")
	cluster.WaitPod(t, ns, "p", "ready", clustertest.Ready)
	k.prints(k.must("", in("get", "pods", "-l", "a=b")...), "1/1", "Running")
	k.prints(k.must("", in("get", "pod", "p", "-o", "yaml")...), "phase: Running")
	k.prints(k.must("", in("describe", "pod", "p")...), "Scheduled", "Started")
	k.prints(k.must("", in("logs", "p")...), "started")
	k.prints(k.must("", in("exec", "p", "--", "echo", "from", "inside")...), "from inside")
	k.prints(k.must("piped\n", in("exec", "-i", "p", "--", "cat")...), "piped")
	copies(k, ns, "p")
	k.prints(k.must("", in("delete", "pod", "p", "--wait")...), "deleted")
	k.must("", in("delete", "configmap", "m")...)
	if out, err := k.run("", in("get", "configmap", "m")...); err == nil || !strings.Contains(err.Error(), `configmaps "m" not found`) {
		t.Errorf("get of what is gone: %v %s", err, out)
	}
}

// copies brings a folder into a pod and back: names, content and a file that does not fit into one message.
func copies(k client, ns, pod string) {
	t := k.t
	t.Helper()
	here := t.TempDir()
	big := strings.Repeat("0123456789abcdef", 1<<16)
	files := map[string]string{"d/small": "hello\n", "d/below/big": big, "d/below/empty": ""}
	for name, content := range files {
		path := filepath.Join(here, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	there := filepath.Join(here, "back")
	k.must("", "cp", filepath.Join(here, "d"), ns+"/"+pod+":/tmp/copied")
	k.prints(k.must("", "-n", ns, "exec", pod, "--", "cat", "/tmp/copied/small"), "hello")
	k.must("", "cp", ns+"/"+pod+":/tmp/copied", there)
	for name, content := range files {
		got, err := os.ReadFile(filepath.Join(there, strings.TrimPrefix(name, "d/")))
		if err != nil || string(got) != content {
			t.Errorf("%s came back with %d bytes, want %d, %v", name, len(got), len(content), err)
		}
	}
	k.must("", "cp", "--no-preserve", filepath.Join(here, "d/small"), ns+"/"+pod+":/tmp/one")
	k.must("", "cp", ns+"/"+pod+":/tmp/one", filepath.Join(here, "one"))
	if got, err := os.ReadFile(filepath.Join(here, "one")); err != nil || string(got) != files["d/small"] {
		t.Errorf("one file came back as %q, %v", got, err)
	}
}

// TestKubectlWithPods is what needs running pods of the newest kubectl.
func TestKubectlWithPods(t *testing.T) {
	k := client{t, []string{filepath.Join(cluster.Bin, "orlop"), "kubectl", "--name", cluster.Name}}
	ns := cluster.Namespace(t)
	in := func(args ...string) []string { return append([]string{"-n", ns}, args...) }
	cluster.RunPod(t, ns, cluster.Pod("p", []string{"pause"}))
	k.prints(k.must("", in("wait", "--for=condition=Ready", "pod/p", "--timeout=30s")...), "condition met")
	k.prints(k.must("", in("wait", "--for=jsonpath={.status.phase}=Running", "pod/p", "--timeout=30s")...), "condition met")
	k.must("", in("debug", "p", "--image="+cluster.Image("busybox"), "--image-pull-policy=IfNotPresent", "-c", "debugger", "--", "sh", "-c", "echo debugging; sleep 1000")...)
	cluster.WaitPod(t, ns, "p", "with a running debugger", func(p *corev1.Pod) bool {
		return len(p.Status.EphemeralContainerStatuses) == 1 && p.Status.EphemeralContainerStatuses[0].State.Running != nil
	})
	cluster.Eventually(t, 20*time.Second, "the debugger's output", func(context.Context) error {
		out, err := k.run("", in("logs", "p", "-c", "debugger")...)
		if err == nil && !strings.Contains(out, "debugging") {
			err = fmt.Errorf("%q", out)
		}
		return err
	})
	k.prints(k.must("", in("top", "pods")...), "MEMORY(bytes)")
	k.prints(k.must("", "top", "nodes"), cluster.Nodes[0])
	k.must("", in("delete", "pod", "p", "--grace-period=0", "--force")...)
}

// chart is a Helm chart with a custom resource definition, an object of it, a Deployment and hooks.
func chart(t *testing.T, image string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "chart")
	hook := func(name, when string) string {
		return fmt.Sprintf(`{apiVersion: batch/v1, kind: Job, metadata: {name: %s, annotations: {"helm.sh/hook": %s, "helm.sh/hook-delete-policy": before-hook-creation}},
spec: {backoffLimit: 0, template: {spec: {restartPolicy: Never, terminationGracePeriodSeconds: 1, containers: [{name: c, image: {{ .Values.image }}, command: [sh, -c, "exit {{ .Values.hookCode }}"]}]}}}}`, name, when)
	}
	for name, content := range map[string]string{
		"Chart.yaml":  "{apiVersion: v2, name: chart, version: 0.1.0}",
		"values.yaml": "{image: " + image + ", replicas: 1, hookCode: 0, color: red}",
		"crds/crd.yaml": `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: colors.helm.example}, spec: {group: helm.example, scope: Namespaced, names: {plural: colors, singular: color, kind: Color},
versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {color: {type: string, enum: [red, green]}}}}}}}]}}`,
		"templates/color.yaml": "{apiVersion: helm.example/v1, kind: Color, metadata: {name: c}, spec: {color: {{ .Values.color }}}}",
		"templates/deployment.yaml": `{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {replicas: {{ .Values.replicas }}, selector: {matchLabels: {app: d}}, template: {metadata: {labels: {app: d}},
spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: {{ .Values.image }}, command: [sleep, "1000"]}]}}}}`,
		"templates/pre.yaml":    hook("pre", "pre-install"),
		"templates/post.yaml":   hook("post", `"post-install,post-upgrade"`),
		"templates/delete.yaml": hook("delete", "pre-delete"),
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestHelm(t *testing.T) {
	ns := cluster.Namespace(t)
	h := client{t, append(installed(t, "helm"), "-n", ns)}
	k := client{t, []string{filepath.Join(cluster.Bin, "orlop"), "kubectl", "--name", cluster.Name, "-n", ns}}
	path := chart(t, cluster.Image("busybox"))
	t.Cleanup(func() { k.run("", "delete", "crd", "colors.helm.example") })
	wait := []string{"--wait", "--timeout", "90s"}
	h.prints(h.must("", append([]string{"install", "r", path}, wait...)...), "STATUS: deployed")
	state := func() string {
		return k.must("", "get", "deployment/d", "color/c", "-o", "jsonpath={.items[*].status.availableReplicas}{.items[*].spec.color}")
	}
	want := func(want string) {
		t.Helper()
		if got := state(); got != want {
			t.Errorf("available replicas and color are %q, want %q", got, want)
		}
	}
	want("1red")
	k.prints(k.must("", "get", "jobs"), "pre", "post")
	h.must("", append([]string{"upgrade", "r", path, "--set", "replicas=2,color=green"}, wait...)...)
	want("2green")
	if out, err := h.run("", "upgrade", "r", path, "--set", "color=blue"); err == nil || !strings.Contains(err.Error(), `Unsupported value: "blue"`) {
		t.Errorf("a color that the schema has not: %v %s", err, out)
	}
	if out, err := h.run("", append([]string{"upgrade", "r", path, "--set", "hookCode=1"}, wait...)...); err == nil || !strings.Contains(err.Error(), "post-upgrade") {
		t.Errorf("a hook that fails: %v %s", err, out)
	}
	h.must("", append([]string{"rollback", "r", "1"}, wait...)...)
	want("1red")
	h.prints(h.must("", "history", "r"), "Rollback to 1", "failed")
	h.prints(h.must("", "list"), "deployed")
	h.prints(h.must("", append([]string{"uninstall", "r"}, wait...)...), "uninstalled")
	if left := strings.TrimSpace(k.must("", "get", "deployments,colors", "-o", "name")); left != "" {
		t.Errorf("uninstall left %s", left)
	}
}
