// Package vm runs Orlop on a stock Debian 12: kernel 6.1, systemd, cgroup v2 alone, none of which the other tests have.
//
// The machine is emulated, so everything takes ten times as long as on real ones, and no bound here says anything about
// speed. The subtests build on each other: the first failure ends the run.
package vm

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/orlop-io/orlop/integration/debianvm"
)

const (
	apiPort  = 6443
	nodePort = 30080
	hostPort = 8080

	// patience bounds what takes seconds on real machines.
	patience = 10 * time.Minute
	orlop    = "/opt/orlop/orlop"
)

// world is the machine and what runs on it.
type world struct {
	*debianvm.Machine
	client  kubernetes.Interface
	version string
}

func TestDebian(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("installing a Debian into a folder needs root")
	}
	w := boot(t)
	for _, step := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{"orlop init makes a cluster", initialize},
		{"pods run under systemd's slices, with their bounds", slices},
		{"bounds hold", boundsHold},
		{"Services answer from pods, from the node and from outside", services},
		{"the kubelet survives a crash", crash},
		{"a jump of the clock changes nothing", clockJump},
		{"a reboot brings all back", reboot},
		{"orlop reset leaves nothing", reset},
		{"orlop up makes a cluster", up},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, w) }) {
			t.FailNow()
		}
	}
}

// boot starts the machine with containerd set up as docs/cluster.md says.
func boot(t *testing.T) *world {
	t.Helper()
	bin := binaries(t)
	version := versionOf(t, bin)
	w := &world{version: version}
	w.start(t, debianvm.Config{
		Name: "debian", Cache: filepath.Join(bin, "debian"), Dir: t.TempDir(), MemoryMiB: 4096, CPUs: 2,
		Ports: []uint16{apiPort, nodePort, hostPort},
		Files: map[string]string{
			"/opt/orlop/orlop": filepath.Join(bin, "orlop"), "/opt/orlop/orlop-kubelet": filepath.Join(bin, "orlop-kubelet"),
			"/opt/orlop/orlop-agent": filepath.Join(bin, "orlop-agent"), "/opt/orlop/images": filepath.Join(bin, "images"),
		},
		Text: map[string]string{
			"/etc/sysctl.d/99-kubernetes.conf": "net.ipv4.ip_forward=1\n",
			"/etc/containerd/config.toml":      fmt.Sprintf(containerdConfig, version),
		},
	})
	t.Log(w.must(t, "uname -r; containerd --version; systemctl --version | head -1; stat -fc %T /sys/fs/cgroup"))
	return w
}

// binaries is the folder of the built programs.
func binaries(t *testing.T) string {
	t.Helper()
	bin := os.Getenv("ORLOP_BIN")
	if bin == "" {
		bin = filepath.Join("..", "..", "bin")
	}
	bin, err := filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

func (w *world) start(t *testing.T, cfg debianvm.Config) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute) // with the download of some 200 MB
	defer cancel()
	var err error
	if w.Machine, err = debianvm.Boot(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			w.explain(t)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
}

const containerdConfig = `version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:%s"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = true
`

// explain tells what the machine says of itself.
func (w *world) explain(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := w.Run(ctx, "uptime; journalctl -u kubelet --no-pager -n 30; journalctl -u containerd --no-pager -n 10; ls -t /var/log/containers | head -20; "+
		"for f in $(ls -t /var/log/containers/* | head -12); do echo \"== $f\"; tail -n 6 $f; done")
	t.Logf("the machine says: %s (%v)", out, err)
}

// must runs a script that must succeed.
func (w *world) must(t *testing.T, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	out, err := w.Run(ctx, script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// eventually tries check until it returns nil.
func eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var last error
	for {
		try, stop := context.WithTimeout(ctx, time.Minute)
		err := check(try)
		stop()
		if err == nil {
			return
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %s: %v", patience, what, last)
		case <-time.After(time.Second):
		}
	}
}

// connect makes a client for the machine's API server, from outside.
func (w *world) connect(t *testing.T) {
	t.Helper()
	cfg, err := clientcmd.RESTConfigFromKubeConfig([]byte(w.must(t, "cat /etc/kubernetes/admin.conf")))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Host, cfg.ServerName, cfg.Timeout = "https://"+w.Port(apiPort), "kubernetes", time.Minute
	if w.client, err = kubernetes.NewForConfig(cfg); err != nil {
		t.Fatal(err)
	}
}

// allReady waits until the node and all pods are ready.
func (w *world) allReady(t *testing.T, least int) {
	t.Helper()
	eventually(t, "node and pods ready", func(ctx context.Context) error {
		nodes, err := w.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, n := range nodes.Items {
			for _, c := range n.Status.Conditions {
				if (c.Type == corev1.NodeReady) != (c.Status == corev1.ConditionTrue) {
					return fmt.Errorf("node %s: %s is %s: %s", n.Name, c.Type, c.Status, c.Message)
				}
			}
		}
		pods, err := w.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, p := range pods.Items {
			if !ready(&p) {
				return fmt.Errorf("pod %s is %s, %v", p.Name, p.Status.Phase, waiting(&p))
			}
		}
		if len(pods.Items) < least {
			return fmt.Errorf("%d pods, want %d", len(pods.Items), least)
		}
		return nil
	})
}

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func waiting(p *corev1.Pod) []string {
	var out []string
	for _, c := range p.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil {
			out = append(out, c.Name+" waits: "+w.Reason+" "+w.Message)
		}
	}
	return out
}

// run creates a pod of the test image and waits until want says yes.
func (w *world) run(t *testing.T, pod *corev1.Pod, what string, want func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	if _, err := w.client.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var got *corev1.Pod
	eventually(t, "pod "+pod.Name+" "+what, func(ctx context.Context) (err error) {
		if got, err = w.client.CoreV1().Pods("default").Get(ctx, pod.Name, metav1.GetOptions{}); err != nil {
			return err
		}
		if !want(got) {
			return fmt.Errorf("it is %s, %v", got.Status.Phase, waiting(got))
		}
		return nil
	})
	return got
}

// pod runs the test image.
func (w *world) pod(name string, args []string, limits corev1.ResourceList) *corev1.Pod {
	grace := int64(1)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{Name: "c", Image: "localhost/agnhost:" + w.version, Args: args,
				Resources: corev1.ResourceRequirements{Limits: limits}}},
		},
	}
}

// fetch gets a page from outside, through one of the forwarded ports.
func (w *world) fetch(ctx context.Context, port uint16, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.Port(port)+path, nil)
	if err != nil {
		return "", err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(text)), err
}

// versionOf is the tag of the images in a folder of programs.
func versionOf(t *testing.T, bin string) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(bin, "orlop"), "version").Output()
	f := strings.Fields(string(out))
	if err != nil || len(f) == 0 {
		t.Fatalf("ask %s its version: %v", bin, err)
	}
	return f[len(f)-1]
}
