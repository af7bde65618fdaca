package lifecycle

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)

func pod(mutate func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Generation: 3},
		Spec:       v1.PodSpec{RestartPolicy: v1.RestartPolicyAlways, Containers: []v1.Container{{Name: "a", Image: "img"}}},
	}
	if mutate != nil {
		mutate(p)
	}
	return p
}

func always() *v1.ContainerRestartPolicy { p := v1.ContainerRestartPolicyAlways; return &p }

// world carries out actions as a runtime without faults would, and keeps a journal.
type world struct {
	t       *testing.T
	s       State
	now     time.Time
	journal []string
	ids     int
	hold    map[string]bool // actions by their text that are never answered
}

func (w *world) step(ev Event) {
	var actions []Action
	w.s, actions = Step(w.s, ev, w.now)
	for _, a := range actions {
		w.journal = append(w.journal, a.String())
	}
	for _, a := range actions {
		if !w.hold[a.String()] {
			w.answer(a)
		}
	}
}

func (w *world) answer(a Action) {
	switch a := a.(type) {
	case SetupVolumes:
		w.step(VolumesDone{})
	case MakeSandbox:
		w.step(SandboxDone{ID: fmt.Sprintf("sb%d", a.Attempt), IPs: []string{"10.0.0.9"}})
	case StartContainer:
		w.ids++
		spec := Spec(w.s.Pod, a.Name)
		f := Facts{Name: a.Name, ID: fmt.Sprintf("%s%d", a.Name, a.Attempt), Sandbox: a.Sandbox, Attempt: a.Attempt, SpecImage: spec.Image, Resources: spec.Resources.DeepCopy()}
		w.step(ContainerCreated{f})
		f.Running, f.StartedAt = true, w.now
		w.step(ContainerSeen{f})
		w.step(HookDone{Name: a.Name, ID: f.ID})
	case KillContainer:
		w.exit(a.Name, 137)
		w.step(KillDone{Name: a.Name, ID: a.ID})
	case StopSandbox:
		w.step(SandboxStopped{ID: a.ID})
	case GiveBack:
		w.step(CleanupDone{})
	}
}

func (w *world) exit(name string, code int32) {
	f := w.s.Container(name).Facts
	f.Running, f.Exited, f.ExitCode, f.FinishedAt = false, true, code, w.now
	w.step(ContainerSeen{f})
}

func (w *world) took() string {
	out := strings.Join(w.journal, "\n")
	w.journal = nil
	return out
}

func (w *world) want(lines ...string) {
	w.t.Helper()
	if d := cmp.Diff(strings.Join(lines, "\n"), w.took()); d != "" {
		w.t.Errorf("actions (-want +got):\n%s", d)
	}
}

func (w *world) status() v1.PodStatus {
	return StatusOf(&w.s, []string{"192.0.2.1"}, v1.PodQOSBestEffort, nil, w.now)
}

func begin(t *testing.T, p *v1.Pod) *world {
	return &world{t: t, s: New(p, t0), now: t0, hold: map[string]bool{}}
}

func TestPauseBeforeContainers(t *testing.T) {
	w := begin(t, pod(nil))
	w.step(Tick{})
	w.want("set up volumes", "make sandbox 0", "start a/0")
	st := w.status()
	if st.Phase != v1.PodRunning || !st.ContainerStatuses[0].Ready || st.PodIP != "10.0.0.9" || st.ObservedGeneration != 3 {
		t.Errorf("status %+v", st)
	}
	w.step(Tick{})
	w.want("")
}

// A pod is not Running before its first container is: not when that was made, and not while its postStart hook runs.
func TestMadeIsNotRunning(t *testing.T) {
	w := begin(t, pod(nil))
	w.hold["start a/0"] = true
	w.step(Tick{})
	f := Facts{Name: "a", ID: "a0", Sandbox: "sb0"}
	steps := []struct {
		ev   Event
		want v1.PodPhase
	}{{ContainerCreated{f}, v1.PodPending}, {ContainerSeen{Facts{Name: "a", ID: "a0", Sandbox: "sb0", Running: true}}, v1.PodPending}, {HookDone{Name: "a", ID: "a0"}, v1.PodRunning}}
	for _, tt := range steps {
		w.step(tt.ev)
		if st := w.status(); st.Phase != tt.want {
			t.Errorf("after %T it is %s, want %s", tt.ev, st.Phase, tt.want)
		}
	}
	w.hold["start a/1"] = true // its second instance is made: it ran before
	w.exit("a", 1)
	w.step(ContainerCreated{Facts{Name: "a", ID: "a1", Sandbox: "sb0", Attempt: 1}})
	if st := w.status(); st.Phase != v1.PodRunning {
		t.Errorf("a pod that starts again is %s", st.Phase)
	}
}

func TestVolumesHoldContainersNotSandbox(t *testing.T) {
	w := begin(t, pod(nil))
	w.hold["set up volumes"] = true
	w.step(Tick{})
	w.want("set up volumes", "make sandbox 0")
	w.step(VolumesDone{Err: errors.New("no secret")})
	w.want("tell FailedMount: no secret", "wake 03:04:00.500")
	w.hold = map[string]bool{}
	w.now = t0.Add(time.Second)
	w.step(Tick{})
	w.want("set up volumes", "start a/0")
}

// Containers start side by side, but for those behind one with a postStart hook.
func TestPostStartHoldsTheNext(t *testing.T) {
	p := pod(func(p *v1.Pod) {
		p.Spec.Containers = []v1.Container{{Name: "a"}, {Name: "b", Lifecycle: &v1.Lifecycle{PostStart: &v1.LifecycleHandler{}}}, {Name: "c"}}
	})
	w := begin(t, p)
	w.hold["start b/0"] = true
	w.step(Tick{})
	w.want("set up volumes", "make sandbox 0", "start a/0", "start b/0")
	f := Facts{Name: "b", ID: "b0", Sandbox: "sb0"}
	w.step(ContainerCreated{f})
	f.Running = true
	w.step(ContainerSeen{f})
	w.want("")
	w.step(HookDone{Name: "b", ID: "b0"})
	w.want("start c/0")
}

// A pod that waits for a ConfigMap starts when it appears, not when its wait is over, also when it appeared while the
// last try was under way.
func TestInputsEndTheWait(t *testing.T) {
	w := begin(t, pod(nil))
	w.hold["set up volumes"], w.hold["start a/0"] = true, true
	w.step(Tick{})
	w.step(VolumesDone{Err: errors.New("no config")})
	w.took()
	w.step(InputsChanged{})
	w.want("set up volumes")
	w.step(InputsChanged{})
	w.want("")
	w.step(VolumesDone{Err: errors.New("no config")})
	w.want("tell FailedMount: no config", "set up volumes")
	w.step(VolumesDone{})
	w.want("start a/0")
	w.step(StartFailed{Name: "a", Reason: configError, Message: "no config"})
	w.want("wake 03:04:00.500")
	w.step(InputsChanged{})
	w.want("start a/0")
	w.step(InputsChanged{})
	w.step(StartFailed{Name: "a", Reason: configError, Message: "no config"})
	w.want("start a/0")
}

func TestCrashBackOffDoubles(t *testing.T) {
	w := begin(t, pod(nil))
	w.step(Tick{})
	w.took()
	w.exit("a", 1)      // the first restart is at once
	w.want("start a/1") // a0 stays for its log
	for _, wait := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second} {
		w.exit("a", 1)
		st := w.status().ContainerStatuses[0]
		if st.State.Waiting == nil || st.State.Waiting.Reason != "CrashLoopBackOff" || st.LastTerminationState.Terminated.ExitCode != 1 {
			t.Fatalf("status after crash: %+v", st)
		}
		w.took()
		w.now = w.now.Add(wait - time.Millisecond)
		w.step(Tick{})
		if got := w.took(); strings.Contains(got, "start") {
			t.Fatalf("started before %v: %s", wait, got)
		}
		w.now = w.now.Add(time.Millisecond)
		w.step(Tick{})
		if got := w.took(); !strings.Contains(got, "start a/") {
			t.Fatalf("not started after %v: %s", wait, got)
		}
	}
	if n := w.status().ContainerStatuses[0].RestartCount; n != 4 {
		t.Errorf("restart count %d, want 4", n)
	}
	w.now = w.now.Add(crashForget + time.Second) // a long run is forgiven
	w.exit("a", 1)
	w.want("start a/5", "remove container a3")
}

// A node may bound the wait after a crash (KEP-4603): an ingress that crashes is not away for five minutes.
func TestCrashBackOffHasACap(t *testing.T) {
	w := begin(t, pod(nil))
	w.s.CrashMax = 15 * time.Second
	w.step(Tick{})
	w.exit("a", 1)
	for _, wait := range []time.Duration{10 * time.Second, 15 * time.Second, 15 * time.Second} {
		w.took()
		w.exit("a", 1)
		if got, want := w.took(), "wake "+w.now.Add(wait).Format("15:04:05.000"); !strings.HasSuffix(got, want) {
			t.Errorf("it did\n%s\nwant it to end with %q", got, want)
		}
		w.now = w.now.Add(wait)
		w.step(Tick{})
	}
	// Restarts from before this kubelet count, but not beyond the cap.
	f := Facts{Name: "a", ID: "a9", Sandbox: "sb0", Attempt: 9, Exited: true, ExitCode: 1, StartedAt: t0, FinishedAt: t0, SpecImage: "img"}
	w = begin(t, pod(nil))
	w.s = Restore(pod(nil), []SandboxSeen{{ID: "sb0", Ready: true}}, []Facts{f}, t0)
	w.s.CrashMax = 15 * time.Second
	w.step(Tick{})
	if got := w.took(); !strings.Contains(got, "wake 03:04:15.000") {
		t.Errorf("after nine restarts it did\n%s", got)
	}
}

// Containers are not started anew because a newer kubelet, or a newer API, sees more or other fields in their spec: only
// another image is a reason.
func TestOnlyAnotherImageRestarts(t *testing.T) {
	running := Facts{Name: "a", ID: "a0", Sandbox: "sb0", Running: true, StartedAt: t0, SpecImage: "img"}
	other := pod(func(p *v1.Pod) {
		p.Generation = 9
		p.Labels = map[string]string{"new": "label"}
		c := &p.Spec.Containers[0]
		c.Env, c.TerminationMessagePath, c.ImagePullPolicy = []v1.EnvVar{{Name: "A", Value: "b"}}, "/dev/other", v1.PullAlways
		c.SecurityContext, c.Stdin = &v1.SecurityContext{}, true
	})
	w := begin(t, other)
	w.s = Restore(other, []SandboxSeen{{ID: "sb0", Ready: true}}, []Facts{running}, t0)
	w.step(Tick{})
	w.step(SpecChanged{Pod: pod(nil)})
	w.want("set up volumes")
	w.step(SpecChanged{Pod: pod(func(p *v1.Pod) { p.Spec.Containers[0].Image = "newer" })})
	if got := w.took(); !strings.HasPrefix(got, "kill a in 30s: Container a definition changed, will be restarted") {
		t.Errorf("for another image it did %q", got)
	}
}

func TestRestartPolicies(t *testing.T) {
	for _, tt := range []struct {
		policy v1.RestartPolicy
		code   int32
		again  bool
		phase  v1.PodPhase
	}{
		{v1.RestartPolicyAlways, 0, true, v1.PodRunning},
		{v1.RestartPolicyAlways, 1, true, v1.PodRunning},
		{v1.RestartPolicyOnFailure, 0, false, v1.PodSucceeded},
		{v1.RestartPolicyOnFailure, 1, true, v1.PodRunning},
		{v1.RestartPolicyNever, 0, false, v1.PodSucceeded},
		{v1.RestartPolicyNever, 1, false, v1.PodFailed},
	} {
		t.Run(fmt.Sprintf("%s/%d", tt.policy, tt.code), func(t *testing.T) {
			w := begin(t, pod(func(p *v1.Pod) { p.Spec.RestartPolicy = tt.policy }))
			w.step(Tick{})
			w.took()
			w.exit("a", tt.code)
			if again := strings.Contains(w.took(), "start a/1"); again != tt.again {
				t.Errorf("started again: %v, want %v", again, tt.again)
			}
			if st := w.status(); st.Phase != tt.phase {
				t.Errorf("phase %s, want %s", st.Phase, tt.phase)
			}
		})
	}
}

// A container whose rule says so brings all of its pod to begin again: init containers first, in the sandbox that is there,
// whatever the policy of the others.
func TestAllBeginAfresh(t *testing.T) {
	never := v1.ContainerRestartPolicyNever
	p := pod(func(p *v1.Pod) {
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		p.Spec.InitContainers = []v1.Container{{Name: "i"}, {Name: "s", RestartPolicy: always()}}
		p.Spec.Containers = []v1.Container{{Name: "a", RestartPolicy: &never, RestartPolicyRules: []v1.ContainerRestartRule{{
			Action:    v1.ContainerRestartRuleActionRestartAllContainers,
			ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}}, {Name: "b"}}
	})
	restarting := func(w *world) bool {
		return slices.ContainsFunc(w.status().Conditions, func(c v1.PodCondition) bool {
			return c.Type == v1.AllContainersRestarting && c.Status == v1.ConditionTrue
		})
	}
	w := begin(t, p)
	w.step(Tick{})
	w.exit("i", 0)
	w.want("set up volumes", "make sandbox 0", "start i/0", "start s/0", "start a/0", "start b/0")
	w.hold["start i/1"] = true
	w.exit("a", 42)
	w.want("kill s in 1s: Stopping container s, all containers of the pod will be restarted", "kill b in 1s: Stopping container b, all containers of the pod will be restarted", "start i/1")
	if !restarting(w) {
		t.Errorf("conditions %+v", w.status().Conditions)
	}
	w.hold = map[string]bool{}
	w.answer(StartContainer{Name: "i", Sandbox: "sb0", Attempt: 1})
	w.exit("i", 0)
	w.want("start s/1", "start a/1", "start b/1")
	st := w.status()
	if restarting(w) || st.Phase != v1.PodRunning {
		t.Errorf("it is %s, conditions %+v", st.Phase, st.Conditions)
	}
	for _, c := range slices.Concat(st.InitContainerStatuses, st.ContainerStatuses) {
		if c.RestartCount != 1 {
			t.Errorf("%s was restarted %d times", c.Name, c.RestartCount)
		}
	}
	w.exit("a", 42) // the second time in a row it has to wait, and no container is left alone meanwhile
	w.want("kill s in 1s: Stopping container s, all containers of the pod will be restarted", "kill b in 1s: Stopping container b, all containers of the pod will be restarted",
		"tell BackOff: Back-off restarting failed container a in pod p_ns(u)", "wake 03:04:10.000", "wake 03:04:10.000")
	w.now = w.now.Add(10 * time.Second)
	w.step(Tick{})
	w.want("start i/2", "remove container i0")
	w.exit("i", 0)
	w.took()
	w.exit("b", 0)
	w.exit("a", 1) // no rule for that: the pod ends, with its sidecar
	if st := w.status(); st.Phase != v1.PodFailed {
		t.Errorf("it is %s, did %s", st.Phase, w.took())
	}
}

func TestInitContainersInOrder(t *testing.T) {
	w := begin(t, pod(func(p *v1.Pod) {
		p.Spec.InitContainers = []v1.Container{{Name: "i1"}, {Name: "side", RestartPolicy: always(), StartupProbe: &v1.Probe{}}, {Name: "i2"}}
	}))
	w.step(Tick{})
	w.want("set up volumes", "make sandbox 0", "start i1/0")
	if st := w.status(); st.Phase != v1.PodPending || st.ContainerStatuses[0].State.Waiting.Reason != "PodInitializing" {
		t.Errorf("status while initializing: %+v", st)
	}
	w.exit("i1", 0)
	w.want("start side/0")
	w.step(Probed{Name: "side", ID: "side0", Probe: Startup, OK: true})
	w.want("start i2/0")
	w.exit("i2", 1)
	w.want("start i2/1")
	w.exit("i2", 0)
	w.want("start a/0")
	if st := w.status(); st.Phase != v1.PodRunning || len(st.InitContainerStatuses) != 3 {
		t.Errorf("status: %+v", st)
	}
	w.exit("side", 1) // a sidecar comes back also beside the app
	w.want("start side/1")
}

func TestDeletion(t *testing.T) {
	w := begin(t, pod(func(p *v1.Pod) {
		p.Spec.InitContainers = []v1.Container{{Name: "s1", RestartPolicy: always()}, {Name: "s2", RestartPolicy: always()}}
	}))
	w.step(Tick{})
	w.took()
	w.step(SpecChanged{pod(func(p *v1.Pod) {
		p.Spec.InitContainers = w.s.Pod.Spec.InitContainers
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: t0}, new(int64)
		*p.DeletionGracePeriodSeconds = 5
	})})
	w.want("kill a in 5s: Stopping container a", "kill s2 in 5s: Stopping container s2", "kill s1 in 5s: Stopping container s1",
		"stop sandbox sb0", "give back")
	if w.s.Stage != Gone || w.status().Phase != v1.PodFailed {
		t.Errorf("stage %s, phase %s", w.s.Stage, w.status().Phase)
	}
}

func TestShorterGraceKillsAgain(t *testing.T) {
	w := begin(t, pod(nil))
	w.step(Tick{})
	w.took()
	deleted := func(grace int64) *v1.Pod {
		return pod(func(p *v1.Pod) {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: t0}, &grace
		})
	}
	w.hold["kill a in 1m0s: Stopping container a"] = true
	w.step(SpecChanged{deleted(60)})
	w.step(SpecChanged{deleted(60)})
	w.want("kill a in 1m0s: Stopping container a")
	w.hold["kill a in 1s: Stopping container a"] = true
	w.step(SpecChanged{deleted(0)})
	w.want("kill a in 1s: Stopping container a")
}

func TestSandboxDeathBringsAllBack(t *testing.T) {
	w := begin(t, pod(func(p *v1.Pod) {
		p.Spec.InitContainers = []v1.Container{{Name: "i"}}
		p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: "b", Image: "img"})
	}))
	w.step(Tick{})
	w.exit("i", 0)
	w.took()
	w.step(SandboxSeen{ID: "sb0"})
	w.want("tell SandboxChanged: Pod sandbox changed, it will be killed and re-created.", "stop sandbox sb0",
		"remove sandbox sb0", "make sandbox 1", "start i/1")
	w.exit("i", 0)
	w.want("start a/1", "start b/1")
}

// Where a shim dies, the container's end may be heard of before the sandbox's: the start that fails for it costs no wait.
func TestShimDeathIsNoCrash(t *testing.T) {
	w := begin(t, pod(nil))
	w.step(Tick{})
	w.took()
	w.hold["start a/1"] = true
	w.exit("a", 137)
	w.want("start a/1")
	w.step(StartFailed{Name: "a", Reason: "CreateContainerError", Message: "no running task found"})
	w.took()
	w.hold = map[string]bool{}
	w.now = w.now.Add(time.Millisecond)
	w.step(SandboxSeen{ID: "sb0"})
	w.want("tell SandboxChanged: Pod sandbox changed, it will be killed and re-created.", "stop sandbox sb0", "remove sandbox sb0", "make sandbox 1", "start a/1")
	if st := w.status(); st.ContainerStatuses[0].RestartCount != 1 || st.ContainerStatuses[0].State.Running == nil {
		t.Errorf("status %+v", st.ContainerStatuses[0])
	}
	w.exit("a", 1) // the next end is the second, and waits
	if got := w.took(); !strings.Contains(got, "BackOff") {
		t.Errorf("no wait after the second end: %s", got)
	}
}

func TestLivenessKillsAndRestarts(t *testing.T) {
	w := begin(t, pod(func(p *v1.Pod) { p.Spec.Containers[0].LivenessProbe = &v1.Probe{} }))
	w.step(Tick{})
	w.took()
	w.step(Probed{Name: "a", ID: "a0", Probe: Liveness})
	w.want("kill a in 30s: Container a failed liveness probe, will be restarted", "start a/1")
}

func TestRestoreChangesNothing(t *testing.T) {
	p := pod(func(p *v1.Pod) {
		p.Spec.InitContainers = []v1.Container{{Name: "i"}}
		p.Spec.Containers[0].ReadinessProbe = &v1.Probe{}
	})
	w := begin(t, p)
	w.step(Tick{})
	w.exit("i", 0)
	w.step(Probed{Name: "a", ID: "a0", Probe: Readiness, OK: true})
	before := w.status()
	if !before.ContainerStatuses[0].Ready {
		t.Fatal("not ready before the restart")
	}
	told := p.DeepCopy()
	told.Status = before
	var facts []Facts
	for _, c := range w.s.Containers {
		facts = append(facts, c.Facts)
	}
	w.s = Restore(told, []SandboxSeen{{ID: "sb0", Ready: true, IPs: []string{"10.0.0.9"}}}, facts, t0.Add(time.Hour))
	w.took()
	w.hold["set up volumes"] = true
	w.step(Tick{})
	w.want("set up volumes")
	if d := cmp.Diff(before, w.status()); d != "" {
		t.Errorf("status changed by restart:\n%s", d)
	}
}

func TestPullBackOff(t *testing.T) {
	w := begin(t, pod(nil))
	w.hold["start a/0"] = true
	w.step(Tick{})
	w.step(StartFailed{Name: "a", Reason: "ErrImagePull", Message: "no such image"})
	if r := w.status().ContainerStatuses[0].State.Waiting.Reason; r != "ErrImagePull" {
		t.Errorf("reason %s", r)
	}
	w.now = t0.Add(2 * time.Second)
	w.step(Tick{})
	if r := w.status().ContainerStatuses[0].State.Waiting.Reason; r != "ImagePullBackOff" {
		t.Errorf("reason later %s", r)
	}
	w.took()
	w.now = t0.Add(10 * time.Second)
	w.step(Tick{})
	w.want("start a/0")
}

// What is waited for is the image that could not be pulled, which may be a volume.
func TestVolumePullBackOff(t *testing.T) {
	w := begin(t, pod(nil))
	w.hold["start a/0"] = true
	w.step(Tick{})
	w.step(StartFailed{Name: "a", Reason: "ErrImagePull", Message: "no such image", Image: "r.example/art:1"})
	w.now = t0.Add(2 * time.Second)
	w.step(Tick{})
	if m := w.status().ContainerStatuses[0].State.Waiting.Message; m != `Back-off pulling image "r.example/art:1": no such image` {
		t.Errorf("message %s", m)
	}
}

func TestDeadline(t *testing.T) {
	w := begin(t, pod(func(p *v1.Pod) { d := int64(60); p.Spec.ActiveDeadlineSeconds = &d }))
	w.step(Tick{})
	w.took()
	w.now = t0.Add(time.Minute)
	w.step(Tick{})
	w.want("tell DeadlineExceeded: Pod was active on the node longer than the specified deadline",
		"kill a in 30s: Stopping container a", "stop sandbox sb0", "give back")
	if st := w.status(); st.Phase != v1.PodFailed || st.Reason != "DeadlineExceeded" || w.s.Stage != Finished {
		t.Errorf("%s %s %s", st.Phase, st.Reason, w.s.Stage)
	}
}

// An evicted pod ends within the node's grace, is told as a disruption, and is failed only when it holds nothing any more.
func TestEvicted(t *testing.T) {
	w := begin(t, pod(nil))
	w.step(Tick{})
	w.took()
	w.hold["kill a in 1s: Stopping container a"] = true
	w.step(Evicted{Reason: "Evicted", Message: "no memory", Grace: time.Second})
	w.want("kill a in 1s: Stopping container a")
	st := w.status()
	if st.Phase != v1.PodRunning || st.Reason != "Evicted" {
		t.Errorf("while it ends: %s %s", st.Phase, st.Reason)
	}
	w.exit("a", 137)
	w.want("stop sandbox sb0", "give back")
	st = w.status()
	if st.Phase != v1.PodFailed || st.Reason != "Evicted" || st.Message != "no memory" || w.s.Stage != Finished {
		t.Errorf("%s %s %q %s", st.Phase, st.Reason, st.Message, w.s.Stage)
	}
	last := st.Conditions[len(st.Conditions)-1]
	if last.Type != v1.DisruptionTarget || last.Status != v1.ConditionTrue || last.Reason != "TerminationByKubelet" || last.Message != "no memory" {
		t.Errorf("condition %+v", last)
	}
	w.step(Evicted{Reason: "Evicted", Message: "again", Grace: time.Second})
	if w.status().Message != "no memory" || w.took() != "" {
		t.Error("a pod that has ended is evicted again")
	}
}

// A pod that is being deleted with much patience has none when the node is short.
func TestEvictedWhileDeleted(t *testing.T) {
	w := begin(t, pod(nil))
	w.step(Tick{})
	w.took()
	w.hold["kill a in 10m0s: Stopping container a"] = true
	w.step(SpecChanged{pod(func(p *v1.Pod) {
		grace := int64(600)
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: t0}, &grace
	})})
	w.took()
	w.now = t0.Add(time.Minute)
	w.step(Evicted{Reason: "Evicted", Message: "no memory", Grace: time.Second})
	if got := w.took(); !strings.HasPrefix(got, "kill a in 1s") {
		t.Errorf("it did %q", got)
	}
}

// A restart of the kubelet does not let a crashing container off its wait.
func TestRestoreKeepsBackOff(t *testing.T) {
	f := Facts{Name: "a", ID: "a3", Sandbox: "sb0", Attempt: 3, Exited: true, ExitCode: 1, StartedAt: t0, FinishedAt: t0, SpecImage: "img"}
	w := begin(t, pod(nil))
	w.s = Restore(pod(nil), []SandboxSeen{{ID: "sb0", Ready: true}}, []Facts{f}, t0)
	w.step(Tick{})
	if got := w.took(); strings.Contains(got, "start a") || !strings.Contains(got, "wake 03:04:40.000") {
		t.Errorf("after three restarts the wait is 40 s, got\n%s", got)
	}
}

func TestRejected(t *testing.T) {
	w := begin(t, pod(nil))
	w.step(Rejected{"OutOfcpu", "no"})
	w.want("give back")
	st := w.status()
	if st.Phase != v1.PodFailed || st.Reason != "OutOfcpu" || len(st.ContainerStatuses) != 0 || w.s.Stage != Finished {
		t.Errorf("stage %s, status %+v", w.s.Stage, st)
	}
}

// The end of an instance is told by the runtime's event and by whoever stopped it. The next instance, which is being made
// then, must not be taken for ended, nor be made twice.
func TestEndToldTwice(t *testing.T) {
	w := &world{t: t, now: t0, hold: map[string]bool{"start a/1": true}}
	w.s = New(pod(nil), t0)
	w.step(Tick{})
	w.took()
	was := w.s.Container("a").Facts
	was.Running, was.Exited, was.FinishedAt = false, true, w.now
	w.step(ContainerSeen{was})
	w.step(ContainerSeen{was})
	if got := w.took(); got != "start a/1" {
		t.Errorf("it did\n%s\nwant one start", got)
	}
	if c := w.s.Container("a"); c.Phase != Starting {
		t.Errorf("phase %d, want it starting", c.Phase)
	}
}

// A probe that has a grace of its own ends its container with that, and not with the pod's.
func TestProbesHaveTheirOwnGrace(t *testing.T) {
	own := func(n int64) *v1.Probe { return &v1.Probe{TerminationGracePeriodSeconds: &n} }
	for _, tt := range []struct {
		name string
		set  func(*v1.Container)
		by   Probe
		want string
	}{
		{"liveness", func(c *v1.Container) { c.LivenessProbe = own(7) }, Liveness, "kill a in 7s: Container a failed liveness probe, will be restarted"},
		{"startup", func(c *v1.Container) { c.StartupProbe, c.LivenessProbe = own(3), own(7) }, Startup, "kill a in 3s: Container a failed startup probe, will be restarted"},
		{"none", func(c *v1.Container) { c.LivenessProbe = &v1.Probe{} }, Liveness, "kill a in 50s: Container a failed liveness probe, will be restarted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := begin(t, pod(func(p *v1.Pod) {
				p.Spec.TerminationGracePeriodSeconds = new(int64)
				*p.Spec.TerminationGracePeriodSeconds = 50
				tt.set(&p.Spec.Containers[0])
			}))
			w.step(Tick{})
			w.took()
			w.step(Probed{Name: "a", ID: "a0", Probe: tt.by})
			w.want(tt.want, "start a/1")
		})
	}
}

// A pod whose containers are ready is not, until whoever keeps its gates says so, and no longer than that.
func TestReadinessGates(t *testing.T) {
	gated := func(conditions ...v1.PodCondition) *v1.Pod {
		return pod(func(p *v1.Pod) {
			p.Spec.ReadinessGates = []v1.PodReadinessGate{{ConditionType: "example.org/balanced"}}
			p.Status.Conditions = conditions
		})
	}
	w := begin(t, gated())
	w.step(Tick{})
	for _, tt := range []struct {
		pod     *v1.Pod
		want    v1.ConditionStatus
		message string
	}{
		{gated(), v1.ConditionFalse, `corresponding condition of pod readiness gate "example.org/balanced" does not exist.`},
		{gated(v1.PodCondition{Type: "example.org/balanced", Status: v1.ConditionFalse}), v1.ConditionFalse, `the status of pod readiness gate "example.org/balanced" is not "True", but False`},
		{gated(v1.PodCondition{Type: "example.org/balanced", Status: v1.ConditionTrue}), v1.ConditionTrue, ""},
		{gated(v1.PodCondition{Type: "example.org/balanced", Status: v1.ConditionUnknown}), v1.ConditionFalse, `the status of pod readiness gate "example.org/balanced" is not "True", but Unknown`},
	} {
		w.step(SpecChanged{tt.pod})
		for _, c := range w.status().Conditions {
			switch {
			case c.Type == v1.ContainersReady && c.Status != v1.ConditionTrue:
				t.Errorf("the containers are not ready: %+v", c)
			case c.Type == v1.PodReady && (c.Status != tt.want || c.Message != tt.message):
				t.Errorf("ready is %s, %q; want %s, %q", c.Status, c.Message, tt.want, tt.message)
			}
		}
	}
}
