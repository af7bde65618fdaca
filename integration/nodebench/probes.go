package nodebench

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// probes measures what a hundred pods cost that are asked every ten seconds whether they live, by the way of asking: all of
// the node (its cgroup, and so the execs too), and the kubelet's part.
func (b *bench) probes(ctx context.Context) error {
	const pods = 100
	fmt.Fprintf(b.out, "\n| liveness of %d pods, asked for every 10 s | cores of the node | of the kubelet |\n|---|---|---|\n", pods)
	for _, way := range []struct {
		name string
		ask  *corev1.ProbeHandler
	}{
		{"none", nil},
		{"http", &corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)}}},
		{"tcp", &corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}},
		{"exec", &corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}},
	} {
		prefix := "probe" + way.name
		if _, err := b.batch(ctx, prefix, 0, pods, b.agnhost, func(p *corev1.Pod) {
			p.Spec.Containers[0].Args = []string{"netexec"}
			if way.ask != nil {
				p.Spec.Containers[0].LivenessProbe = &corev1.Probe{PeriodSeconds: 10, TimeoutSeconds: 10, ProbeHandler: *way.ask}
			}
		}); err != nil {
			return err
		}
		if err := sleep(ctx, b.cfg.Idle); err != nil {
			return err
		}
		node, kubelet, err := b.spent(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintf(b.out, "| %s | %.3f | %.3f |\n", way.name, node, kubelet)
		if err := b.end(ctx, prefix, pods); err != nil {
			return err
		}
	}
	return nil
}

// spent is how many cores the node, and its kubelet, take during the time of rest.
func (b *bench) spent(ctx context.Context) (node, kubelet float64, err error) {
	h, err := b.status(ctx, b.host)
	if err != nil {
		return 0, 0, err
	}
	read := func() (whole, own time.Duration, err error) {
		if own, err = processorTime(h.Kubelet.Pid); err != nil {
			return 0, 0, err
		}
		for _, file := range []string{"cpuacct/cpuacct.usage", "cpu.stat"} { // cgroup v1, v2
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/sys/fs/cgroup/%s", h.Kubelet.Pid, file))
			if err != nil {
				continue
			}
			f := strings.Fields(string(text))
			unit := time.Nanosecond
			if f[0] == "usage_usec" {
				f, unit = f[1:], time.Microsecond
			}
			n, err := strconv.ParseInt(f[0], 10, 64)
			return time.Duration(n) * unit, own, err
		}
		return 0, 0, fmt.Errorf("the host of process %d has no processor time in its cgroup", h.Kubelet.Pid)
	}
	begun := time.Now()
	whole, own, err := read()
	if err != nil {
		return 0, 0, err
	}
	if err := sleep(ctx, b.cfg.Idle); err != nil {
		return 0, 0, err
	}
	wholeNow, ownNow, err := read()
	passed := time.Since(begun).Seconds()
	return (wholeNow - whole).Seconds() / passed, (ownNow - own).Seconds() / passed, err
}
