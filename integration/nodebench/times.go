package nodebench

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// bounds, of what the kubelet adds.
const (
	wantStart, wantStartLast = 30 * time.Millisecond, 100 * time.Millisecond
	wantEnd                  = 300 * time.Millisecond
	wantReady                = time.Second
	wantResize               = 100 * time.Millisecond
)

// starts makes and ends pods one after the other.
func (b *bench) starts(ctx context.Context) error {
	var whole, bound, start, own, end []time.Duration
	for i := range b.cfg.Starts + 2 {
		p := b.pod(fmt.Sprintf("start-%03d", i))
		var given time.Duration // to the node
		took, calls, err := b.beyond(ctx, []string{"run_podsandbox", "podsandbox_status", "image_status", "create_container", "start_container"}, func() (time.Duration, error) {
			begun, err := b.create(ctx, p)
			if err != nil {
				return 0, err
			}
			at, err := b.pods.when(ctx, p.Name, "running")
			if err != nil {
				return 0, err
			}
			seen, err := b.pods.when(ctx, p.Name, "bound")
			given = seen.Sub(begun)
			return at.Sub(begun), err
		})
		if err != nil {
			return err
		}
		endTook, endCalls, err := b.beyond(ctx, []string{"stop_container", "container_status", "stop_podsandbox"}, func() (time.Duration, error) {
			begun, err := b.delete(ctx, p.Name)
			if err != nil {
				return 0, err
			}
			at, err := b.pods.when(ctx, p.Name, "gone")
			return at.Sub(begun), err
		})
		if err != nil {
			return err
		}
		if i >= 2 { // the first ones fill caches
			whole, start, end = append(whole, took), append(start, took-calls), append(end, endTook-endCalls)
			bound, own = append(bound, given), append(own, took-calls-given)
		}
	}
	fmt.Fprintf(b.out, "\n| %d times, one after the other, ms | median | p99 | least to most | wanted |\n|---|---|---|---|---|\n", b.cfg.Starts)
	b.row("create to Running, seen by a watch", whole, "")
	b.row("of that not in calls of the runtime", start, fmt.Sprintf("median <= %s, p99 <= %s", ms(wantStart), ms(wantStartLast)))
	b.row("until it was bound to the node", bound, "")
	b.row("after that, not in calls of the runtime", own, "")
	b.row("delete to gone, not in calls of the runtime", end, "<= "+ms(wantEnd))
	if percentile(start, 0.5) > wantStart || percentile(start, 0.99) > wantStartLast {
		b.miss("a start takes %v beyond the runtime's calls, p99 %v: wanted %v and %v", percentile(start, 0.5), percentile(start, 0.99), wantStart, wantStartLast)
	}
	if percentile(end, 0.5) > wantEnd {
		b.miss("an end takes %v beyond the runtime's calls: wanted %v", percentile(end, 0.5), wantEnd)
	}
	return nil
}

func probed(p *corev1.Pod) {
	c := &p.Spec.Containers[0]
	c.Args = []string{"netexec"}
	c.ReadinessProbe = &corev1.Probe{PeriodSeconds: 10, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)}}}
}

func (b *bench) agnhost(p *corev1.Pod) { p.Spec.Containers[0].Image = "localhost/agnhost:" + b.version }

const rounds = 20

// ready starts pods whose readiness is asked for every ten seconds.
func (b *bench) ready(ctx context.Context) error {
	var all []time.Duration
	for i := range rounds {
		p := b.pod(fmt.Sprintf("ready-%02d", i), b.agnhost, probed)
		begun, err := b.create(ctx, p)
		if err != nil {
			return err
		}
		at, err := b.pods.when(ctx, p.Name, "ready")
		if err != nil {
			return err
		}
		all = append(all, at.Sub(begun))
		if _, err := b.delete(ctx, p.Name); err != nil {
			return err
		}
		if _, err := b.pods.when(ctx, p.Name, "gone"); err != nil {
			return err
		}
	}
	b.row("create to Ready, readiness asked for every 10 s", all, "< "+ms(wantReady))
	if percentile(all, 0.5) >= wantReady {
		b.miss("a probed pod is ready after %v: wanted %v", percentile(all, 0.5), wantReady)
	}
	return nil
}

// resizes changes the limit of a running container to and fro.
func (b *bench) resizes(ctx context.Context) error {
	p := b.pod("resize", func(p *corev1.Pod) {
		list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list, Limits: list}
	})
	if _, err := b.create(ctx, p); err != nil {
		return err
	}
	if _, err := b.pods.when(ctx, p.Name, "ready"); err != nil {
		return err
	}
	var all []time.Duration
	for i := range rounds {
		cpu := resource.MustParse(fmt.Sprintf("%dm", 100+10*(i%2+1)))
		patch := fmt.Sprintf(`{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":%q},"limits":{"cpu":%q}}}]}}`, cpu.String(), cpu.String())
		begun := time.Now()
		if _, err := b.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "resize"); err != nil {
			return err
		}
		at, err := b.pods.shows(ctx, p.Name, func(p *corev1.Pod) bool {
			r := p.Status.ContainerStatuses[0].Resources
			return r != nil && r.Limits.Cpu().Cmp(cpu) == 0
		})
		if err != nil {
			return err
		}
		all = append(all, at.Sub(begun))
	}
	b.row("resize to shown in the status", all, "<= "+ms(wantResize))
	if percentile(all, 0.5) > wantResize {
		b.miss("a resize takes %v: wanted %v", percentile(all, 0.5), wantResize)
	}
	_, err := b.delete(ctx, p.Name)
	return err
}
