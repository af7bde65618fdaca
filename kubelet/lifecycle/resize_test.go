package lifecycle

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func cpu(request string) v1.ResourceRequirements {
	return v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(request)}}
}

// asking is the pod of these tests as the API has it, after so many changes.
func asking(request string, generation int64, policy ...v1.ContainerResizePolicy) *v1.Pod {
	return pod(func(p *v1.Pod) {
		p.Generation = generation
		p.Spec.Containers[0].Resources, p.Spec.Containers[0].ResizePolicy = cpu(request), policy
	})
}

// resizing is a world whose pod runs with 100m.
func resizing(t *testing.T, policy ...v1.ContainerResizePolicy) *world {
	w := &world{t: t, now: t0, hold: map[string]bool{"allocate to a": true, "resize a": true}}
	w.s = New(asking("100m", 1, policy...), t0)
	w.step(Tick{})
	w.journal = nil
	return w
}

func (w *world) condition(kind v1.PodConditionType) string {
	st := StatusOf(&w.s, []string{"192.0.2.1"}, v1.PodQOSBurstable, nil, w.now)
	i := slices.IndexFunc(st.Conditions, func(c v1.PodCondition) bool { return c.Type == kind })
	if i < 0 {
		return ""
	}
	return strings.TrimSpace(string(st.Conditions[i].Status) + " " + st.Conditions[i].Reason + " " + st.Conditions[i].Message)
}

func (w *world) resources() (allocated, applied string) {
	st := StatusOf(&w.s, []string{"192.0.2.1"}, v1.PodQOSBurstable, nil, w.now).ContainerStatuses[0]
	a := st.AllocatedResources[v1.ResourceCPU]
	b := v1.ResourceList{}
	if st.Resources != nil {
		b = st.Resources.Requests
	}
	return a.String(), b.Cpu().String()
}

func TestResizeIsAllocatedThenApplied(t *testing.T) {
	w := resizing(t)
	w.step(SpecChanged{asking("200m", 2)})
	w.expect(t, "100m", "100m", "allocate to a")
	w.step(SpecChanged{asking("200m", 2)}) // its own status comes back
	w.expect(t, "100m", "100m")
	w.step(Allocated{Resources: Resources{"a": cpu("200m")}})
	w.expect(t, "200m", "100m", "tell ResizeStarted", "resize a")
	if got := w.condition(v1.PodResizeInProgress); got != "True" {
		t.Errorf("PodResizeInProgress is %q", got)
	}
	w.step(Resized{Applied: Resources{"a": cpu("200m")}})
	w.expect(t, "200m", "200m", "tell ResizeCompleted")
	if got := w.condition(v1.PodResizeInProgress); got != "" {
		t.Errorf("PodResizeInProgress stays: %q", got)
	}
}

// expect compares the resources and what was asked for since the last look.
func (w *world) expect(t *testing.T, allocated, applied string, journal ...string) {
	t.Helper()
	if a, b := w.resources(); a != allocated || b != applied {
		t.Errorf("allocated %s, applied %s; want %s, %s", a, b, allocated, applied)
	}
	var got []string
	for _, line := range w.journal {
		if head, _, _ := strings.Cut(line, ":"); !strings.HasPrefix(line, "wake") {
			got = append(got, head)
		}
	}
	if !slices.Equal(got, journal) {
		t.Errorf("it did %q, want %q", got, journal)
	}
	w.journal = nil
}

func TestResizeWaitsForRoom(t *testing.T) {
	w := resizing(t)
	w.step(SpecChanged{asking("9", 2)})
	w.step(Allocated{Resources: Resources{"a": cpu("9")}, Reason: v1.PodReasonDeferred, Message: "full"})
	w.expect(t, "100m", "100m", "allocate to a", "tell ResizeDeferred")
	if got := w.condition(v1.PodResizePending); got != "True Deferred full" {
		t.Errorf("PodResizePending is %q", got)
	}
	w.step(RoomMade{})
	w.step(Allocated{Resources: Resources{"a": cpu("9")}, Reason: v1.PodReasonDeferred, Message: "full"})
	w.expect(t, "100m", "100m", "allocate to a")
	w.step(SpecChanged{asking("100m", 3)}) // taken back
	w.expect(t, "100m", "100m")
	if got := w.condition(v1.PodResizePending); got != "" {
		t.Errorf("PodResizePending stays: %q", got)
	}
}

func TestResizeInfeasibleIsNotAskedAgain(t *testing.T) {
	w := resizing(t)
	w.step(SpecChanged{asking("900", 2)})
	w.step(Allocated{Resources: Resources{"a": cpu("900")}, Reason: v1.PodReasonInfeasible, Message: "never"})
	w.step(RoomMade{})
	w.expect(t, "100m", "100m", "allocate to a", "tell ResizeInfeasible")
}

func TestNewerWishWhileOneIsJudged(t *testing.T) {
	w := resizing(t)
	w.step(SpecChanged{asking("200m", 2)})
	w.step(SpecChanged{asking("300m", 3)})
	w.expect(t, "100m", "100m", "allocate to a")
	w.step(Allocated{Resources: Resources{"a": cpu("200m")}})
	w.expect(t, "200m", "100m", "allocate to a", "resize a")
	w.step(Allocated{Resources: Resources{"a": cpu("300m")}})
	w.step(Resized{Applied: Resources{"a": cpu("200m")}})
	w.expect(t, "300m", "200m", "tell ResizeStarted", "resize a")
	w.step(Resized{Applied: Resources{"a": cpu("300m")}})
	w.expect(t, "300m", "300m", "tell ResizeCompleted")
}

func TestResizeThatNeedsARestart(t *testing.T) {
	w := resizing(t, v1.ContainerResizePolicy{ResourceName: v1.ResourceCPU, RestartPolicy: v1.RestartContainer})
	w.hold["kill a in 30s: Container a resize requires restart"] = true
	w.step(SpecChanged{asking("200m", 2, w.s.Pod.Spec.Containers[0].ResizePolicy...)})
	w.step(Allocated{Resources: Resources{"a": cpu("200m")}})
	w.expect(t, "200m", "100m", "allocate to a", "tell ResizeStarted", "kill a in 30s")
	was := w.s.Containers[0].Facts
	was.Running, was.Exited, was.FinishedAt = false, true, w.now
	w.hold["start a/1"] = true
	w.step(ContainerSeen{was})
	res := cpu("200m")
	w.step(ContainerCreated{Facts{Name: "a", ID: "new", Sandbox: was.Sandbox, Attempt: 1, Resources: &res}})
	w.step(ContainerSeen{Facts{Name: "a", ID: "new", Sandbox: was.Sandbox, Attempt: 1, Running: true, StartedAt: w.now}})
	w.step(HookDone{Name: "a", ID: "new"})
	w.expect(t, "200m", "200m", "start a/1", "tell ResizeCompleted")
	if c := w.s.Containers[0]; c.crash.delay != 0 || c.Again {
		t.Errorf("the restart counts as a crash: %+v", c)
	}
}

func TestResizeThatFailsIsTriedAgain(t *testing.T) {
	w := resizing(t)
	w.step(SpecChanged{asking("200m", 2)})
	w.step(Allocated{Resources: Resources{"a": cpu("200m")}})
	w.step(Resized{Err: errors.New("no")})
	w.expect(t, "200m", "100m", "allocate to a", "tell ResizeStarted", "resize a", "tell ResizeError")
	if got := w.condition(v1.PodResizeInProgress); got != "True Error no" {
		t.Errorf("PodResizeInProgress is %q", got)
	}
	w.now = w.now.Add(time.Second)
	w.step(Tick{})
	w.step(Resized{Err: errors.New("no")})
	w.expect(t, "200m", "100m", "resize a")
}

func TestResizeGoesOnAfterARestart(t *testing.T) {
	made := cpu("100m")
	running := []Facts{{Name: "a", ID: "c1", Running: true, StartedAt: t0, Resources: &made}}
	told := func(p *v1.Pod, applied string) *v1.Pod {
		res := cpu(applied)
		p.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "a", ContainerID: "containerd://c1", Resources: &res}}
		return p
	}
	for name, tt := range map[string]struct {
		pod   *v1.Pod
		noted Resources
		want  []string // allocated, applied, what is asked for
	}{
		"nothing was changed":                    {told(asking("100m", 1), "100m"), nil, []string{"100m", "100m"}},
		"changed while the kubelet was away":     {told(asking("200m", 2), "100m"), nil, []string{"100m", "100m", "allocate to a"}},
		"noted, not applied":                     {told(asking("200m", 2), "100m"), Resources{"a": cpu("200m")}, []string{"200m", "100m", "resize a"}},
		"noted, applied, and wanted differently": {told(asking("300m", 3), "200m"), Resources{"a": cpu("200m")}, []string{"200m", "200m", "allocate to a"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{t: t, now: t0, hold: map[string]bool{"allocate to a": true, "resize a": true}}
			w.s = Reallocate(Restore(tt.pod, []SandboxSeen{{ID: "sb", Ready: true}}, running, t0), tt.noted)
			w.s.Volumes = Done
			w.step(Tick{})
			w.expect(t, tt.want[0], tt.want[1], tt.want[2:]...)
		})
	}
}

func TestCoveringTakesTheLargerOfBoth(t *testing.T) {
	list := func(cpu, memory string) v1.ResourceList {
		l := v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}
		if memory != "" {
			l[v1.ResourceMemory] = resource.MustParse(memory)
		}
		return l
	}
	p := pod(func(p *v1.Pod) {
		p.Spec.Containers[0].Resources = v1.ResourceRequirements{Requests: list("1", "1Gi"), Limits: list("4", "1Gi")}
	})
	got := covering(p, "a", v1.ResourceRequirements{Requests: list("2", ""), Limits: list("3", "")}).Spec.Containers[0].Resources
	if c, m := got.Requests[v1.ResourceCPU], got.Requests[v1.ResourceMemory]; c.String() != "2" || m.String() != "1Gi" {
		t.Errorf("requests %v", got.Requests)
	}
	if _, bounded := got.Limits[v1.ResourceMemory]; bounded {
		t.Error("memory is bounded, though it was not")
	}
	if c := got.Limits[v1.ResourceCPU]; c.String() != "4" {
		t.Errorf("CPU limit %v, want 4", c)
	}
	if c := p.Spec.Containers[0].Resources.Requests[v1.ResourceCPU]; c.String() != "1" {
		t.Error("the pod itself was changed")
	}
}
