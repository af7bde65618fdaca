// Package clustertest gives black-box tests a local cluster made with the built
// programs, and the means to look at it from outside: client-go, kubectl, and
// commands run on its hosts.
//
// A test package starts one cluster in TestMain and takes it down again, also
// when tests fail. The package imports none of Orlop's code.
package clustertest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Cluster is a running local cluster.
type Cluster struct {
	Name       string
	Nodes      []string // names, the control plane's first
	Bin        string   // folder of the built programs
	Kubeconfig string
	Config     *rest.Config
	Client     *kubernetes.Clientset
	version    string
}

// Main runs m with a cluster of its own and returns the exit code. Without root
// there is no cluster: the tests are skipped, or fail where ORLOP_REQUIRE names
// the kernel. More flags of orlop up may be given.
func Main(m *testing.M, name string, nodes int, set func(*Cluster), flags ...string) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "a local cluster needs root")
		if strings.Contains(os.Getenv("ORLOP_REQUIRE"), "kernel") {
			return 1
		}
		return 0
	}
	c, err := Up(name, nodes, flags...)
	if c != nil {
		defer func() {
			if err := c.Down(); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	set(c)
	return m.Run()
}

// Up makes a cluster, with more flags of orlop up if there are any. Whatever a killed run left under the same name goes
// first. $ORLOP_CONTAINERD names a containerd to run it on instead of the machine's.
func Up(name string, nodes int, flags ...string) (*Cluster, error) {
	bin, err := binDir()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "orlop-test-*")
	if err != nil {
		return nil, err
	}
	c := &Cluster{Name: name, Bin: bin, Kubeconfig: filepath.Join(dir, "kubeconfig")}
	for i := range nodes {
		c.Nodes = append(c.Nodes, fmt.Sprintf("%s-%d", name, i+1))
	}
	if _, err := os.Stat(filepath.Join(c.Bin, "images", "orlop-server.tar")); err != nil {
		return nil, fmt.Errorf("%w: build first (make images)", err)
	}
	if _, err := c.Orlop("down", "--name", name); err != nil {
		return c, fmt.Errorf("remove what an earlier run left: %w", err)
	}
	args := append([]string{"up", "--name", name, "--nodes", fmt.Sprint(nodes), "--kubeconfig", c.Kubeconfig, "--wait", "4m"}, flags...)
	if other := os.Getenv("ORLOP_CONTAINERD"); other != "" && !slices.Contains(flags, "--containerd") {
		args = append(args, "--containerd", other)
	}
	out, err := c.Orlop(args...)
	if err != nil {
		return c, err
	}
	fmt.Print(out)
	if c.Config, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig); err != nil {
		return c, err
	}
	c.Config.QPS, c.Config.Burst = 100, 200
	if c.Client, err = kubernetes.NewForConfig(c.Config); err != nil {
		return c, err
	}
	version, err := c.Orlop("version")
	if err != nil {
		return c, err
	}
	if f := strings.Fields(version); len(f) > 0 {
		c.version = f[len(f)-1]
	}
	return c, nil
}

// binDir is the folder of the programs to test.
func binDir() (string, error) {
	if bin := os.Getenv("ORLOP_BIN"); bin != "" { // another build than the checkout's
		return bin, nil
	}
	root, err := moduleRoot()
	return filepath.Join(root, "bin"), err
}

// Down removes the cluster.
func (c *Cluster) Down() error {
	_, err := c.Orlop("down", "--name", c.Name)
	os.RemoveAll(filepath.Dir(c.Kubeconfig))
	return err
}

// Image is the full name of one of the test images: orlop-testimage, agnhost,
// busybox, nginx.
func (c *Cluster) Image(name string) string { return "localhost/" + name + ":" + c.version }

// Orlop runs the orlop program and returns its output, both streams.
func (c *Cluster) Orlop(args ...string) (string, error) {
	return c.run(nil, filepath.Join(c.Bin, "orlop"), args...)
}

// Exec runs a command on a host, in its namespaces and cgroup.
func (c *Cluster) Exec(host string, command ...string) (string, error) {
	return c.Orlop(append([]string{"exec", "--name", c.Name, host, "--"}, command...)...)
}

// Kubectl runs kubectl against the cluster.
func (c *Cluster) Kubectl(args ...string) (string, error) { return c.KubectlIn(nil, args...) }

// KubectlIn is Kubectl with something on its standard input.
func (c *Cluster) KubectlIn(stdin []byte, args ...string) (string, error) {
	return c.run(stdin, filepath.Join(c.Bin, "orlop"), append([]string{"kubectl", "--name", c.Name}, args...)...)
}

// KubectlCommand is a kubectl that the test runs itself, for watches and streams.
func (c *Cluster) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.Bin, "orlop"), append([]string{"kubectl", "--name", c.Name}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig)
	return cmd
}

func (c *Cluster) run(stdin []byte, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w\n%s", filepath.Base(program), strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// Must fails the test on err and passes the value on.
func Must[T any](t *testing.T, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Namespace makes a namespace for one test and removes it afterwards.
func (c *Cluster) Namespace(t *testing.T) string {
	t.Helper()
	ns, err := c.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := c.Client.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("delete namespace %s: %v", ns.Name, err)
		}
	})
	// Pods are refused until the service account controller has been here.
	c.Eventually(t, 20*time.Second, "service account default in "+ns.Name, func(ctx context.Context) error {
		_, err := c.Client.CoreV1().ServiceAccounts(ns.Name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	return ns.Name
}

// Eventually tries check until it returns nil; after within the test fails with
// its last error. The bound is ten times what is expected, or more: order is
// what these tests assert, not speed.
func (c *Cluster) Eventually(t *testing.T, within time.Duration, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		if last == nil || ctx.Err() == nil { // that the time is over says nothing
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %s: %v", within, what, last)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// RunPod creates the pod and waits until it is ready.
func (c *Cluster) RunPod(t *testing.T, ns string, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	_, err := c.Client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("create pod %s: %v", pod.Name, err)
	}
	return c.WaitPod(t, ns, pod.Name, "ready", Ready)
}

// Ready says whether the pod is ready.
func Ready(p *corev1.Pod) bool {
	for _, cond := range p.Status.Conditions {
		if cond.Type == corev1.PodReady {
			return cond.Status == corev1.ConditionTrue
		}
	}
	return false
}

// Ended says whether all of the pod's containers have ended for good.
func Ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// WaitPod waits until the pod satisfies want, and returns it.
func (c *Cluster) WaitPod(t *testing.T, ns, name, what string, want func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	var pod *corev1.Pod
	c.Eventually(t, 90*time.Second, "pod "+ns+"/"+name+" "+what, func(ctx context.Context) error {
		p, err := c.Client.CoreV1().Pods(ns).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !want(p) {
			return fmt.Errorf("its status is %s", summary(p))
		}
		pod = p
		return nil
	})
	return pod
}

func summary(p *corev1.Pod) string {
	s := string(p.Status.Phase)
	for _, cs := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		switch {
		case cs.State.Waiting != nil:
			s += fmt.Sprintf(", %s waits: %s %s", cs.Name, cs.State.Waiting.Reason, cs.State.Waiting.Message)
		case cs.State.Terminated != nil:
			s += fmt.Sprintf(", %s ended: %s %d %s", cs.Name, cs.State.Terminated.Reason, cs.State.Terminated.ExitCode, cs.State.Terminated.Message)
		}
	}
	for _, cond := range p.Status.Conditions {
		if cond.Status != corev1.ConditionTrue {
			s += fmt.Sprintf(", not %s: %s", cond.Type, cond.Message)
		}
	}
	return s
}

// Pod is a pod that runs the test image with args; mutate makes it special.
func (c *Cluster) Pod(name string, args []string, mutate ...func(*corev1.Pod)) *corev1.Pod {
	grace := int64(1)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers:                    []corev1.Container{{Name: "c", Image: c.Image("agnhost"), Args: args}},
		},
	}
	for _, m := range mutate {
		m(p)
	}
	return p
}

// On puts a pod on a node, past the scheduler.
func On(node string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = node } }

// InPod runs a command in the pod's first container and returns its output.
func (c *Cluster) InPod(ns, pod string, command ...string) (string, error) {
	return c.Kubectl(append([]string{"exec", "-n", ns, pod, "--"}, command...)...)
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("no go.mod above the working directory")
		}
		dir = parent
	}
}
