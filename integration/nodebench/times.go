package nodebench

import (
	"cmp"
	"context"
	"fmt"
	"slices"
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

// start is where the time went of one pod from its creation to Running, seen by a watch.
type start struct {
	name  string
	whole time.Duration
	// bound is until it had a node; calls are those of the runtime; own is what the kubelet took beside them, from when it saw
	// the pod until it ran; told is the rest: the pod's way to the kubelet, and its status's way back.
	bound, calls, own, told time.Duration
}

// beyond is what the start took beside the calls of the runtime.
func (s start) beyond() time.Duration { return s.whole - s.calls }

// starts makes and ends pods one after the other.
func (b *bench) starts(ctx context.Context) error {
	var starts []start
	var end []time.Duration
	for i := range b.cfg.Starts + 2 {
		p := b.pod(fmt.Sprintf("start-%03d", i))
		s, err := b.start(ctx, p)
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
			starts, end = append(starts, s), append(end, endTook-endCalls)
		}
	}
	of := func(part func(start) time.Duration) (out []time.Duration) {
		for _, s := range starts {
			out = append(out, part(s))
		}
		return out
	}
	beyond := of(start.beyond)
	b.heading("%d times, one after the other, ms", b.cfg.Starts)
	b.row("create to Running, seen by a watch", of(func(s start) time.Duration { return s.whole }), "")
	b.row("of that not in calls of the runtime", beyond, fmt.Sprintf("median <= %s, p99 <= %s", ms(wantStart), ms(wantStartLast)))
	b.row("of which until it was bound to the node", of(func(s start) time.Duration { return s.bound }), "")
	b.row("of which in the kubelet", of(func(s start) time.Duration { return s.own }), "")
	b.row("of which on the way to the kubelet, and back in the status", of(func(s start) time.Duration { return s.told }), "")
	b.row("delete to gone, not in calls of the runtime", end, "<= "+ms(wantEnd))
	b.slowest(starts)
	if percentile(beyond, 0.5) > wantStart || percentile(beyond, 0.99) > wantStartLast {
		b.miss("a start takes %v beyond the runtime's calls, p99 %v: wanted %v and %v", percentile(beyond, 0.5), percentile(beyond, 0.99), wantStart, wantStartLast)
	}
	if percentile(end, 0.5) > wantEnd {
		b.miss("an end takes %v beyond the runtime's calls: wanted %v", percentile(end, 0.5), wantEnd)
	}
	return nil
}

// start makes a pod and says where the time went.
func (b *bench) start(ctx context.Context, p *corev1.Pod) (start, error) {
	before, err := b.metrics(ctx)
	if err != nil {
		return start{}, err
	}
	begun, err := b.create(ctx, p)
	if err != nil {
		return start{}, err
	}
	running, err := b.pods.when(ctx, p.Name, "running")
	if err != nil {
		return start{}, err
	}
	bound, err := b.pods.when(ctx, p.Name, "bound")
	if err != nil {
		return start{}, err
	}
	after, err := b.metrics(ctx)
	if err != nil {
		return start{}, err
	}
	s := start{name: p.Name, whole: running.Sub(begun), bound: bound.Sub(begun)}
	operations := []string{"run_podsandbox", "podsandbox_status", "image_status", "create_container", "start_container"}
	s.calls = callTime(after, operations...) - callTime(before, operations...)
	const inKubelet = "kubelet_pod_start_duration_seconds_sum"
	inside := time.Duration((after[inKubelet] - before[inKubelet]) * float64(time.Second))
	s.own = inside - s.calls
	s.told = s.whole - s.bound - inside
	return s, nil
}

// slowest takes the five slowest starts apart.
func (b *bench) slowest(starts []start) {
	slices.SortFunc(starts, func(x, y start) int { return cmp.Compare(y.beyond(), x.beyond()) })
	fmt.Fprintf(b.out, "\n| the slowest beside the runtime's calls, ms | all | until bound | in the kubelet | on the way |\n|---|---|---|---|---|\n")
	for _, s := range starts[:min(5, len(starts))] {
		fmt.Fprintf(b.out, "| %s | %s | %s | %s | %s |\n", s.name, ms(s.beyond()), ms(s.bound), ms(s.own), ms(s.told))
	}
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
	b.heading("%d times, one after the other, ms", rounds)
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
	b.heading("%d times, ms", rounds)
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
