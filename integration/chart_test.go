package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/yaml"
)

const installDir = "../static-manifests/install"

// objects are those of a manifest by kind and name.
func objects(t *testing.T, text []byte) map[string]any {
	t.Helper()
	out := map[string]any{}
	dec := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		var o map[string]any
		err := dec.Decode(&o)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("%v in:\n%s", err, text)
		}
		if len(o) == 0 {
			continue
		}
		out[fmt.Sprint(o["kind"], "/", o["metadata"].(map[string]any)["name"])] = o
	}
}

// helm runs Helm, which `go run ./integration/cmd/deps -need test` installs.
func helm(t *testing.T, args ...string) ([]byte, error) {
	t.Helper()
	path := filepath.Join("..", "bin", "clients", "helm")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: go run ./integration/cmd/deps -need test installs it", err)
	}
	var stderr bytes.Buffer
	cmd := exec.Command(path, append(args, "--kube-version", "1.37")...) // it asks no cluster
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("helm %s: %w: %s", args[0], err, stderr.String())
	}
	return out, err
}

// The same agent comes of the plain manifests, of kubectl kustomize and of the Helm chart.
func TestInstallsAreEqual(t *testing.T) {
	o := newOrlop(t)
	for file, of := range map[string]struct {
		overlay string
		values  []string
	}{
		"orlop-agent.yaml": {"both", nil},
		"proxy-only.yaml":  {"proxy-only", []string{"--set", "cni=false"}},
		"cni-only.yaml":    {"cni-only", []string{"--set", "proxy=false"}},
	} {
		plain, err := os.ReadFile(filepath.Join(installDir, file))
		if err != nil {
			t.Fatal(err)
		}
		want := objects(t, plain)
		kustomized, err := exec.Command(filepath.Join(o.bin, "orlop"), "kubectl", "kustomize", filepath.Join(installDir, "overlays", of.overlay)).Output()
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, objects(t, kustomized)); d != "" {
			t.Errorf("kubectl kustomize %s differs from %s (-plain +kustomize):\n%s", of.overlay, file, d)
		}
		rendered, err := helm(t, append([]string{"template", "orlop", filepath.Join(installDir, "chart"), "-n", "kube-system"}, of.values...)...)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, objects(t, rendered)); d != "" {
			t.Errorf("the chart with %v differs from %s (-plain +chart):\n%s", of.values, file, d)
		}
	}
}

func TestChartValues(t *testing.T) {
	rendered, err := helm(t, "template", "orlop", filepath.Join(installDir, "chart"), "-n", "net",
		"--set", "image.repository=registry.example/agent,image.tag=v1,cni=false,apiServers={https://192.0.2.1:6443,https://192.0.2.2:6443}",
		"--set", "kubeProxyConfiguration.mode=nftables", "--set", "args={--verbose}")
	if err != nil {
		t.Fatal(err)
	}
	objs := objects(t, rendered)
	set, _ := objs["DaemonSet/orlop-agent"].(map[string]any)
	pod := fmt.Sprint(set["spec"])
	for _, want := range []string{"image:registry.example/agent:v1", "--api-servers=https://192.0.2.1:6443,https://192.0.2.2:6443", "--config=/etc/orlop/config.conf", "--verbose"} {
		if !strings.Contains(pod, want) {
			t.Errorf("no %q in %s", want, pod)
		}
	}
	if n := strings.Count(pod, "registry.example/agent:v1"); n != 2 {
		t.Errorf("%d containers have the image", n)
	}
	config, _ := objs["ConfigMap/orlop-agent"].(map[string]any)
	data, _ := config["data"].(map[string]any)
	for key, want := range map[string]string{"kubeconfig.conf": "server: https://192.0.2.1:6443", "config.conf": "mode: nftables"} {
		if !strings.Contains(fmt.Sprint(data[key]), want) {
			t.Errorf("%s has no %q:\n%s", key, want, data[key])
		}
	}
	for name, o := range objs {
		if ns := o.(map[string]any)["metadata"].(map[string]any)["namespace"]; ns != "net" && !strings.HasPrefix(name, "ClusterRole") {
			t.Errorf("%s is in namespace %v", name, ns)
		}
	}
	for _, set := range []string{"cni=false,proxy=false", "kubeProxyConfiguration.mode=nftables"} {
		if _, err := helm(t, "template", "orlop", filepath.Join(installDir, "chart"), "--set", set); err == nil {
			t.Errorf("%s is taken", set)
		}
	}
}
