// Package nodebench measures what a node's kubelet adds to what its runtime does: the time of starts, ends, resizes and execs
// beyond the CRI calls, the order in which many pods come up, its requests to the API server, and its memory and
// processor time by the number of pods.
//
// It makes a cluster of two hosts, and the second is the node that is measured: it has a /22 for pods and room for 520.
package nodebench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Config says how to measure.
type Config struct {
	// Bin is the folder of the built programs.
	Bin string
	// Starts is how many pods are started one after the other.
	Starts int
	// Pods are the numbers of pods at which memory is measured, from few to many; at most 500.
	Pods []int
	// Rows are what to measure of starts, ready, resize, exec, curve, requests, probes and density. Required.
	Rows *regexp.Regexp
	// Idle is for how long processor time is measured.
	Idle time.Duration
}

const cluster = "fign"

type bench struct {
	cfg     Config
	dir     string
	control string // host of the API server
	host    string // the node
	version string
	config  *rest.Config
	client  *kubernetes.Clientset
	pods    *follower
	out     io.Writer
	errs    []error
}

// Run measures, prints Markdown tables, and returns what missed its bound.
func Run(ctx context.Context, cfg Config, out io.Writer) (err error) {
	b := &bench{cfg: cfg, control: cluster + "-1", host: cluster + "-2", out: out}
	if b.cfg.Bin, err = filepath.Abs(cfg.Bin); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "figures-node-*"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	defer func() {
		_, derr := b.orlop(context.WithoutCancel(ctx), "down", "--name", cluster)
		err = errors.Join(err, derr)
	}()
	ctx, stop := context.WithCancel(ctx)
	defer stop() // the watch, before the cluster goes
	if err := b.up(ctx); err != nil {
		return err
	}
	for _, part := range []struct {
		name    string
		measure func(context.Context) error
	}{{"starts", b.starts}, {"ready", b.ready}, {"resize", b.resizes}, {"exec", b.execs}, {"curve", b.curve}, {"requests", b.requests}, {"probes", b.probes}, {"density", b.density}} {
		if !cfg.Rows.MatchString(part.name) {
			continue
		}
		if err := part.measure(ctx); err != nil {
			return errors.Join(append(b.errs, err)...)
		}
	}
	return errors.Join(b.errs...)
}

// miss notes a bound that did not hold.
func (b *bench) miss(format string, args ...any) {
	b.errs = append(b.errs, fmt.Errorf(format, args...))
}

func (b *bench) orlop(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(b.cfg.Bin, "orlop"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(b.dir, "kubeconfig"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("orlop %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

func (b *bench) shell(ctx context.Context, host, script string) error {
	_, err := b.orlop(ctx, "exec", "--name", cluster, host, "--", "sh", "-c", script)
	return err
}

// service is a program of a host, as `orlop status` tells of it.
type service struct {
	Pid   int
	Ready bool
}

type host struct {
	Name                string
	Pid                 int
	Containerd, Kubelet service
	NodeReady           bool
}

func (b *bench) status(ctx context.Context, name string) (host, error) {
	out, err := b.orlop(ctx, "status", "--name", cluster, "-o", "json")
	if err != nil && out == "" {
		return host{}, err
	}
	var s struct{ Hosts []host }
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return host{}, fmt.Errorf("read status: %w: %s", err, out)
	}
	at := slices.IndexFunc(s.Hosts, func(h host) bool { return h.Name == name })
	if at < 0 {
		return host{}, fmt.Errorf("no host %s in %s", name, out)
	}
	return s.Hosts[at], nil
}

// up makes the cluster, and its second node anew with room for many pods.
func (b *bench) up(ctx context.Context) error {
	for _, args := range [][]string{{"down", "--name", cluster},
		{"up", "--name", cluster, "--nodes", "2", "--kubeconfig", filepath.Join(b.dir, "kubeconfig"), "--wait", "4m"}} {
		if _, err := b.orlop(ctx, args...); err != nil {
			return err
		}
	}
	out, err := b.orlop(ctx, "version")
	if err != nil {
		return err
	}
	f := strings.Fields(out)
	b.version = f[len(f)-1]
	if b.config, err = clientcmd.BuildConfigFromFlags("", filepath.Join(b.dir, "kubeconfig")); err != nil {
		return err
	}
	b.config.QPS, b.config.Burst = 500, 1000
	if b.client, err = kubernetes.NewForConfig(b.config); err != nil {
		return err
	}
	if err := errors.Join(
		b.shell(ctx, b.control, `sed -i 's/--allocate-node-cidrs=true/&\n    - --node-cidr-mask-size=22/' /etc/kubernetes/manifests/kube-controller-manager.yaml`),
		b.shell(ctx, b.host, `echo "maxPods: 520" >> /var/lib/kubelet/config.yaml`)); err != nil {
		return err
	}
	if err := b.await(ctx, "the controllers to give out /22", b.wideController); err != nil {
		return err
	}
	// The agent's pod is bound to the node's name: the DaemonSet makes another once it is gone.
	if err := b.client.CoreV1().Nodes().Delete(ctx, b.host, metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := b.restartKubelet(ctx); err != nil {
		return err
	}
	onNode := metav1.ListOptions{FieldSelector: "spec.nodeName=" + b.host}
	if err := b.client.CoreV1().Pods("kube-system").DeleteCollection(ctx, metav1.DeleteOptions{}, onNode); err != nil {
		return err
	}
	if err := b.await(ctx, "the node to have a /22 and its agent", b.wideNode); err != nil {
		return err
	}
	b.pods, err = follow(ctx, b.client)
	return err
}

func (b *bench) wideController(ctx context.Context) error {
	p, err := b.client.CoreV1().Pods("kube-system").Get(ctx, "kube-controller-manager-"+b.control, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if !slices.Contains(p.Spec.Containers[0].Command, "--node-cidr-mask-size=22") || !isReady(p) {
		return errors.New("its pod is still the old one, or not ready")
	}
	lease, err := b.client.CoordinationV1().Leases("kube-system").Get(ctx, "kube-controller-manager", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if at := lease.Spec.AcquireTime; at == nil || at.Time.Before(p.Status.StartTime.Time) {
		return errors.New("it does not lead yet")
	}
	return nil
}

func (b *bench) wideNode(ctx context.Context) error {
	n, err := b.client.CoreV1().Nodes().Get(ctx, b.host, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if !strings.HasSuffix(n.Spec.PodCIDR, "/22") || n.Status.Allocatable.Pods().Value() != 520 {
		return fmt.Errorf("the node has pods %q and room for %v", n.Spec.PodCIDR, n.Status.Allocatable.Pods())
	}
	pods, err := b.client.CoreV1().Pods("kube-system").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	agents := 0
	for i := range pods.Items {
		p := &pods.Items[i]
		if p.DeletionTimestamp != nil || !isReady(p) {
			return fmt.Errorf("pod %s is not ready", p.Name)
		}
		if strings.HasPrefix(p.Name, "orlop-agent") {
			agents++
		}
	}
	if agents < 2 {
		return fmt.Errorf("%d agents run", agents)
	}
	return nil
}

// restartKubelet kills the node's kubelet and waits for the next to answer.
func (b *bench) restartKubelet(ctx context.Context) error {
	h, err := b.status(ctx, b.host)
	if err != nil {
		return err
	}
	if err := syscall.Kill(h.Kubelet.Pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill kubelet: %w", err)
	}
	return b.await(ctx, "the kubelet to answer again", func(ctx context.Context) error {
		now, err := b.status(ctx, b.host)
		if err == nil && (!now.Kubelet.Ready || now.Kubelet.Pid == h.Kubelet.Pid || !now.NodeReady) {
			err = fmt.Errorf("its state is %+v", now)
		}
		if err == nil {
			_, err = b.metrics(ctx)
		}
		return err
	})
}

// await asks until there is no error any more.
func (b *bench) await(ctx context.Context, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, last)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// pod is one that does nothing, of the smallest program there is.
func (b *bench) pod(name string, mutate ...func(*corev1.Pod)) *corev1.Pod {
	grace := int64(5)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault},
		Spec: corev1.PodSpec{
			NodeSelector:                  map[string]string{corev1.LabelHostname: b.host},
			TerminationGracePeriodSeconds: &grace,
			Containers:                    []corev1.Container{{Name: "c", Image: "localhost/pause:" + b.version}},
		},
	}
	for _, m := range mutate {
		m(p)
	}
	return p
}

// create makes a pod and returns when that was asked for.
func (b *bench) create(ctx context.Context, p *corev1.Pod) (time.Time, error) {
	begun := time.Now()
	_, err := b.client.CoreV1().Pods(p.Namespace).Create(ctx, p, metav1.CreateOptions{})
	return begun, err
}

func (b *bench) delete(ctx context.Context, name string) (time.Time, error) {
	begun := time.Now()
	return begun, b.client.CoreV1().Pods(metav1.NamespaceDefault).Delete(ctx, name, metav1.DeleteOptions{})
}
