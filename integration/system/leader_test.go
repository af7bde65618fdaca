package system

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// contender is an instance of a scheduler of the name second, on this machine; the cluster's own looks after other pods.
type contender struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

func contend(t *testing.T, c *clustertest.Cluster, config string) *contender {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	p := &contender{cmd: exec.Command(filepath.Join(c.Bin, "orlop-server"), "kube-scheduler", "--config="+config, "--secure-port=0"), ended: make(chan struct{})}
	p.cmd.Stderr = log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.ended) }()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		if said, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("a contender said:\n%s", said)
		}
		_ = log.Close()
	})
	return p
}

// leaderStops stops the leader of two schedulers for longer than its lease, and lets it go on: the other takes over, and
// the former ends instead of working again. No pod is placed twice.
func leaderStops(t *testing.T, c *clustertest.Cluster) {
	ns, config := c.Namespace(t), filepath.Join(t.TempDir(), "config.yaml")
	text := fmt.Sprintf(`apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection: {kubeconfig: %s}
leaderElection: {leaderElect: true, resourceNamespace: kube-system, resourceName: second, leaseDuration: 5s, renewDeadline: 4s, retryPeriod: 500ms}
profiles: [{schedulerName: second}]
`, c.Kubeconfig)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	leases := c.Client.CoordinationV1().Leases("kube-system")
	t.Cleanup(func() { _ = leases.Delete(context.Background(), "second", metav1.DeleteOptions{}) })
	held := func(not string) (holder string) {
		c.Eventually(t, 30*time.Second, "a leader", func(ctx context.Context) error {
			lease, err := leases.Get(ctx, "second", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if holder = ptr.Deref(lease.Spec.HolderIdentity, ""); holder == "" || holder == not {
				return errors.New("nobody else leads")
			}
			return nil
		})
		return holder
	}
	mine := func(p *corev1.Pod) { p.Spec.SchedulerName = "second" }
	leader := contend(t, c, config)
	first := held("")
	other := contend(t, c, config)
	c.RunPod(t, ns, c.Pod("before", []string{"pause"}, mine))

	if err := leader.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	resume := sync.OnceFunc(func() { _ = leader.cmd.Process.Signal(syscall.SIGCONT) })
	defer resume()
	c.RunPod(t, ns, c.Pod("between", []string{"pause"}, mine))
	held(first)
	resume()
	select {
	case <-leader.ended:
	case <-time.After(10 * time.Second):
		t.Error("the former leader goes on")
	}
	if s := leader.cmd.ProcessState; s != nil && s.ExitCode() != 1 {
		t.Errorf("the former leader ended with %s", s)
	}
	c.RunPod(t, ns, c.Pod("after", []string{"pause"}, mine))
	select {
	case <-other.ended:
		t.Error("the other one ended too")
	default:
	}
	for _, pod := range []string{"before", "between", "after"} {
		events, err := c.Client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=Scheduled,involvedObject.name=" + pod})
		if err != nil || len(events.Items) != 1 || events.Items[0].Count > 1 || events.Items[0].Source.Component != "second" {
			t.Errorf("pod %s: placed by %+v (%v)", pod, events, err)
		}
	}
}
