package api

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// kubectl runs ours and returns both streams.
func kubectl(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// The flag, because a local cluster that is up comes before the environment.
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "orlop"), append([]string{"kubectl", "--kubeconfig=" + server.Kubeconfig}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func kubectlMust(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := kubectl(t, stdin, args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func prints(t *testing.T, out string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("no %q in\n%.3000s", w, out)
		}
	}
}

// What a server's audit log shows of a program is its name, its version and its commit.
func TestProgramsSayWhoTheyAre(t *testing.T) {
	said := make(chan string, 1)
	listener := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		said <- r.UserAgent()
		fmt.Fprint(w, "{}")
	}))
	defer listener.Close()
	kubectlMust(t, "", "--server="+listener.URL, "get", "--raw", "/x")
	if got := <-said; !regexp.MustCompile(`^kubectl/v1\.37\.\S+ \(\w+/\w+\) kubernetes/([0-9a-f]{7}|unknown)$`).MatchString(got) {
		t.Errorf("kubectl says that it is %q", got)
	}
}

// Every kind can be explained, listed both ways and described. One call lists and one describes them all: to start the
// program sixty times more says nothing more.
func TestKubectlKnowsEveryKind(t *testing.T) {
	ns := namespace(t, "kubectl")
	all := resources(t, "create", "get", "list")
	var typesAndNames, names []string
	for i, r := range all {
		o := least(t, r, ns, 120+i)
		if a := send(t, "POST", r.path(ns), encode(o)); a.code != 201 {
			t.Fatalf("%s: %s", r, a)
		}
		defer remove(t, r, ns, name(o))
		group, version, found := strings.Cut(r.groupVersion, "/")
		if !found {
			group, version = "", group
		}
		typesAndNames = append(typesAndNames, r.name+"."+version+"."+group+"/"+name(o))
		names = append(names, strings.TrimSuffix(strings.ToLower(r.kind)+"."+group, ".")+"/"+name(o))
	}
	listed := kubectlMust(t, "", append([]string{"-n", ns, "get", "-o", "wide"}, typesAndNames...)...)
	described := kubectlMust(t, "", append([]string{"-n", ns, "describe"}, typesAndNames...)...)
	for i, r := range all {
		t.Run(strings.ReplaceAll(r.String(), "/", "."), func(t *testing.T) {
			prints(t, kubectlMust(t, "", "explain", r.name, "--api-version="+r.groupVersion), "KIND:       "+r.kind, "DESCRIPTION:", "FIELDS:", "metadata")
			if !regexp.MustCompile(`(?m)(^|\s)` + regexp.QuoteMeta(names[i]) + `(\s|$)`).MatchString(listed) {
				t.Errorf("no %q in\n%.8000s", names[i], listed)
			}
			_, name, _ := strings.Cut(names[i], "/")
			if !regexp.MustCompile(`(?m)^Name: +` + regexp.QuoteMeta(name) + `$`).MatchString(described) {
				t.Errorf("%s is not described", typesAndNames[i])
			}
		})
	}
}

// kubectl's verbs that need no pods.
func TestKubectlVerbs(t *testing.T) {
	ns := namespace(t, "verbs")
	deployment := func(rest string) string {
		return "kind: Deployment\napiVersion: apps/v1\nmetadata: {name: d}\nspec: {replicas: 1, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [" + rest + "]}}}"
	}
	in := func(args ...string) []string { return append([]string{"-n", ns}, args...) }
	one, two := deployment("{name: c, image: i}"), deployment("{name: c, image: j}")
	kubectlMust(t, one, in("apply", "--server-side", "-f", "-")...)
	out, err := kubectl(t, two, in("diff", "--server-side", "-f", "-")...)
	if err == nil {
		t.Error("diff of a difference exits 0")
	}
	prints(t, out, "-      - image: i", "+      - image: j")
	if out, err := kubectl(t, one, in("diff", "--server-side", "-f", "-")...); err != nil {
		t.Errorf("diff of the same: %v\n%s", err, out)
	}
	out, err = kubectl(t, two, in("apply", "--server-side", "--field-manager=other", "-f", "-")...)
	if err == nil {
		t.Error("a conflict exits 0")
	}
	prints(t, out, "conflict with \"kubectl\"", `.spec.template.spec.containers[name="c"].image`)
	kubectlMust(t, two, in("apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", "-")...)
	for kind, patch := range map[string]string{
		"strategic": `{"spec":{"template":{"spec":{"containers":[{"name":"d","image":"x"}]}}}}`,
		"merge":     `{"spec":{"replicas":3}}`,
		"json":      `[{"op":"replace","path":"/spec/replicas","value":4},{"op":"test","path":"/spec/replicas","value":4}]`,
	} {
		prints(t, kubectlMust(t, "", in("patch", "deployment", "d", "--type", kind, "-p", patch)...), "patched")
	}
	prints(t, kubectlMust(t, "", in("get", "deployment", "d", "-o", "jsonpath={.spec.template.spec.containers[*].name}")...), "d c")
	prints(t, kubectlMust(t, "", in("scale", "deployment", "d", "--replicas=7")...), "scaled")
	prints(t, kubectlMust(t, "", in("patch", "deployment", "d", "--subresource=scale", "--type=merge", "-p", `{"spec":{"replicas":2}}`)...), "patched")
	prints(t, kubectlMust(t, "", "auth", "can-i", "create", "pods"), "yes")
	if out, err := kubectl(t, "", "auth", "can-i", "create", "pods", "--as=nobody"); err == nil || strings.TrimSpace(out) != "no" {
		t.Errorf("can-i of nobody: %v %s", err, out)
	}
	prints(t, kubectlMust(t, "", "auth", "can-i", "--list", "--as=nobody"), "selfsubjectaccessreviews.authorization.k8s.io")
	prints(t, kubectlMust(t, "", "auth", "whoami"), "kubernetes-admin", "system:masters")
	if token := strings.TrimSpace(kubectlMust(t, "", in("create", "token", "default", "--duration=20m")...)); strings.Count(token, ".") != 2 {
		t.Errorf("token %q", token)
	}
	prints(t, kubectlMust(t, "", "get", "--raw", "/version"), `"gitVersion": "v1.37.`)
	prints(t, kubectlMust(t, "", "get", "--raw", "/readyz?verbose"), "[+]etcd ok", "readyz check passed")
	prints(t, kubectlMust(t, "", "api-resources", "--categories=all", "-o", "name"), "deployments.apps", "pods", "services")
	if out, err := kubectl(t, "", "top", "nodes"); err == nil || !strings.Contains(out, "Metrics API not available") {
		t.Errorf("top without metrics: %v %s", err, out)
	}
	for _, args := range [][]string{{"label", "deployment", "d", "l=1"}, {"annotate", "deployment", "d", "n=1"}, {"set", "image", "deployment/d", "c=k"}, {"autoscale", "deployment", "d", "--max=3"},
		{"rollout", "pause", "deployment/d"}, {"rollout", "resume", "deployment/d"}, {"expose", "deployment", "d", "--port=80"}, {"create", "secret", "generic", "s", "--from-literal=a=b"},
		{"delete", "all", "--all"}, {"delete", "hpa,secret", "--all"}} {
		kubectlMust(t, "", in(args...)...)
	}
}
