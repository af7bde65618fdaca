package lifecycle

import (
	"cmp"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
)

// advance asks for whatever the state allows now.
func (m *machine) advance() {
	if m.Stage == Active && m.Deleted() {
		m.enter(Ending)
	}
	if m.Stage == Active {
		m.deadline()
	}
	if m.Stage == Active {
		m.resize()
		m.run()
	}
	if m.Stage == Ending {
		m.end()
	}
	if m.Stage == Finished && m.Deleted() {
		m.enter(Gone)
	}
}

func (m *machine) deadline() {
	d := m.Pod.Spec.ActiveDeadlineSeconds
	if d == nil {
		return
	}
	at := m.StartTime.Add(time.Duration(*d) * time.Second)
	if at.After(m.now) {
		m.wake(at)
		return
	}
	m.Verdict = &Verdict{Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}
	m.do(Tell{Reason: "DeadlineExceeded", Message: m.Verdict.Message})
	m.enter(Ending)
}

// run brings an active pod forward: volumes and sandbox side by side, then containers.
func (m *machine) run() {
	if m.finished() {
		m.enter(Ending)
		return
	}
	if m.Afresh != "" && !m.afresh() {
		return
	}
	if m.Volumes == NotDone && m.due(m.volumesRetry) {
		m.Volumes, m.volumesStale = Doing, false
		m.do(SetupVolumes{})
	}
	if m.sandbox() && m.Volumes == Done {
		m.containers()
	}
}

// sandbox sees to it that there is one, and says whether it is ready.
func (m *machine) sandbox() bool {
	sb := &m.Sandbox
	switch sb.Phase {
	case Ready:
		return true
	case Dead:
		if !m.due(sb.retry) {
			return false
		}
		m.do(Tell{Reason: "SandboxChanged", Message: "Pod sandbox changed, it will be killed and re-created."})
		m.stopSandbox()
	case Stopped:
		if m.neverAgain() {
			return false // run finds the pod finished at the next look
		}
		m.do(RemoveSandbox{ID: sb.ID})
		*sb = Sandbox{Phase: NoSandbox, Attempt: sb.Attempt + 1}
		fallthrough
	case NoSandbox:
		if m.due(sb.retry) {
			sb.Phase = Making
			m.do(MakeSandbox{Attempt: sb.Attempt})
		}
	}
	return false
}

// neverAgain says whether the death of the sandbox ends the pod.
func (m *machine) neverAgain() bool {
	if m.Pod.Spec.RestartPolicy != v1.RestartPolicyNever {
		return false
	}
	for i := range m.Containers {
		if m.Containers[i].Next > 0 {
			return true
		}
	}
	return false
}

func (m *machine) stopSandbox() {
	a := StopSandbox{ID: m.Sandbox.ID}
	for i := range m.Containers {
		if c := &m.Containers[i]; c.Phase == Running {
			a.Containers = append(a.Containers, c.Facts.ID)
		}
	}
	m.Sandbox.Phase = Stopping
	m.do(a)
}

// afresh ends all containers, and then marks them to begin again; it says whether that is done. Hooks are not run, and no
// more than a moment is waited for each: who asks for this wants the pod back soon, as it was in the beginning.
func (m *machine) afresh() bool {
	ended := true
	for i := range m.Containers {
		c := &m.Containers[i]
		if c.Phase == Starting {
			ended = false
		}
		if c.Phase != Running {
			continue
		}
		ended = false
		if !c.Killing && m.due(c.kill) {
			c.Killing, c.KillGrace = true, time.Second
			m.do(KillContainer{Name: c.Name, ID: c.Facts.ID, Grace: c.KillGrace, NoHook: true,
				Why: fmt.Sprintf("Stopping container %s, all containers of the pod will be restarted", c.Name)})
		}
	}
	if !ended || !m.crashOver(m.Container(m.Afresh)) {
		return false
	}
	m.Afresh = ""
	for i := range m.Containers {
		if c := &m.Containers[i]; c.Kind != Ephemeral && c.Next > 0 {
			c.Redo, c.Again, c.Waiting, c.Message = true, true, "", ""
		}
	}
	return true
}

// inSandbox says whether a container's newest instance belongs to the present sandbox.
func (m *machine) inSandbox(c *Container) bool {
	return c.Facts.ID != "" && c.Facts.Sandbox == m.Sandbox.ID
}

// containers starts what may start: init containers one after the other, then all others.
func (m *machine) containers() {
	initialized := m.initialized()
	for i := range m.Containers {
		c := &m.Containers[i]
		switch {
		case c.Phase == Running:
			m.checkSpec(c)
		case c.Phase == Starting:
		case c.Redo:
			m.start(c)
		case c.Kind == Init && (initialized || m.inSandbox(c) && c.Phase == Exited && c.Facts.ExitCode == 0):
			continue
		case c.Kind == Ephemeral && c.Next > 0:
		case c.Phase == Exited && m.inSandbox(c) && !restarts(m.Pod, c):
		case c.Phase == Exited && !m.inSandbox(c) && c.Kind == App && !restarts(m.Pod, c):
		default:
			m.start(c)
		}
		if !initialized && (c.Kind == Init || c.Kind == Sidecar && !m.startedUp(c)) {
			return // the next one waits for this one
		}
		if c.Kind == App && m.hooking(c) {
			return
		}
	}
}

// hooking says whether a container's postStart hook is still to end. Those after it in the spec wait for that: it is how
// a proxy in front holds the application until it is ready.
func (m *machine) hooking(c *Container) bool {
	spec := Spec(m.Pod, c.Name)
	if spec == nil || spec.Lifecycle == nil || spec.Lifecycle.PostStart == nil || c.Killing {
		return false
	}
	return c.Phase == Starting || c.Phase == Running && !c.Hooked
}

// initialized says whether all init containers have done their part in this sandbox. An app
// container in it proves that, also when the runtime has forgotten the init containers.
func (m *machine) initialized() bool {
	for i := range m.Containers {
		if c := &m.Containers[i]; c.Kind == App && m.inSandbox(c) && !c.Redo {
			return true
		}
	}
	return false
}

// startedUp says whether a container runs and has passed its startup probe.
func (s *State) startedUp(c *Container) bool {
	if c.Phase != Running || !c.Hooked {
		return false
	}
	spec := Spec(s.Pod, c.Name)
	return spec == nil || spec.StartupProbe == nil || c.StartupProbed
}

// ready says whether a container counts as ready.
func (s *State) ready(c *Container) bool {
	if !s.startedUp(c) {
		return false
	}
	spec := Spec(s.Pod, c.Name)
	return spec == nil || spec.ReadinessProbe == nil || c.ReadyProbed
}

// checkSpec restarts a running container whose image was changed.
func (m *machine) checkSpec(c *Container) {
	spec := Spec(m.Pod, c.Name)
	if c.Killing || spec == nil || c.Facts.SpecImage == "" || c.Facts.SpecImage == spec.Image || !m.due(c.kill) {
		return
	}
	c.Killing, c.KillGrace = true, m.grace()
	m.do(KillContainer{Name: c.Name, ID: c.Facts.ID, Grace: c.KillGrace,
		Why: fmt.Sprintf("Container %s definition changed, will be restarted", c.Name)})
}

func (m *machine) start(c *Container) {
	if c.start.at.After(m.now) {
		m.showPull(c)
		m.wake(c.start.at)
		return
	}
	c.crashBefore = c.crash
	if c.Phase == Exited && !c.Again && !(c.Kind == Init && c.Facts.ExitCode == 0) && !m.crashOver(c) {
		return
	}
	c.Phase, c.stale = Starting, false
	c.tried = c.Next
	m.do(StartContainer{Name: c.Name, Sandbox: m.Sandbox.ID, Attempt: c.Next})
}

// showPull turns a failed pull, after a moment, into the wait for the next.
func (m *machine) showPull(c *Container) {
	if !pullFailed(c.Waiting) {
		return
	}
	shownUntil := c.start.at.Add(pullShown - c.start.delay)
	if shownUntil.After(m.now) {
		m.wake(shownUntil)
		return
	}
	image := cmp.Or(c.unpulled, Spec(m.Pod, c.Name).Image)
	c.Waiting = "ImagePullBackOff"
	c.Message = fmt.Sprintf("Back-off pulling image %q: %s", image, c.Message)
	m.do(Tell{Container: c.Name, Reason: "BackOff", Message: fmt.Sprintf("Back-off pulling image %q", image)})
	m.do(Tell{Warning: true, Container: c.Name, Reason: "Failed", Message: "Error: ImagePullBackOff"})
}

// crashOver says whether the wait after a container's end is over. The first end costs no wait;
// each further one doubles it, until a run lasts long enough.
func (m *machine) crashOver(c *Container) bool {
	most := m.CrashMax
	if most == 0 {
		most = crashMax
	}
	c.crash.delay = min(c.crash.delay, most)
	if c.crash.delay > 0 && c.Facts.FinishedAt.Sub(c.lastStart) > crashForget {
		c.crash = retry{}
	}
	at := c.Facts.FinishedAt.Add(c.crash.delay)
	if c.crash.delay > 0 && at.After(m.now) {
		if c.Waiting != "CrashLoopBackOff" {
			p := m.Pod
			c.Waiting = "CrashLoopBackOff"
			c.Message = fmt.Sprintf("back-off %v restarting failed container=%s pod=%s_%s(%s)", c.crash.delay, c.Name, p.Name, p.Namespace, p.UID)
			m.do(Tell{Warning: true, Container: c.Name, Reason: "BackOff",
				Message: fmt.Sprintf("Back-off restarting failed container %s in pod %s_%s(%s)", c.Name, p.Name, p.Namespace, p.UID)})
		}
		m.wake(at)
		return false
	}
	c.crash.failed(m.now, min(crashFirst, most), most)
	return true
}

// finished says whether the pod has run to its end by itself.
func (m *machine) finished() bool {
	if m.Afresh != "" {
		return false
	}
	apps := 0
	for i := range m.Containers {
		c := &m.Containers[i]
		switch {
		case c.Kind == Init && c.Phase == Exited && c.Facts.ExitCode != 0 && !restarts(m.Pod, c) && c.Waiting == "":
			return true
		case c.Kind != App:
		case c.Phase == Exited && !restarts(m.Pod, c):
		case c.Phase == Absent && m.Sandbox.Phase == Stopped && m.neverAgain():
		default:
			return false
		}
		if c.Kind == App {
			apps++
		}
	}
	return apps > 0
}

// end brings a pod to its end: containers, then sidecars in reverse, sandbox, volumes and cgroup.
func (m *machine) end() {
	if m.busy() || m.kills() {
		return
	}
	switch m.Sandbox.Phase {
	case Ready, Dead:
		if m.due(m.Sandbox.retry) {
			m.stopSandbox()
		}
		return
	case Making, Stopping:
		return
	}
	switch m.Cleanup {
	case NotDone:
		if m.Volumes != Doing && m.due(m.cleanupRetry) {
			m.Cleanup = Doing
			m.do(GiveBack{})
		}
	case Done:
		m.enter(Finished)
	}
}

// busy says whether a start is still in flight; the caller cancels those when Ending begins.
func (m *machine) busy() bool {
	for i := range m.Containers {
		if m.Containers[i].Phase == Starting && !m.Containers[i].Facts.Running {
			return true
		}
	}
	return false
}

// kills asks for the stops that are due and says whether any container still runs.
func (m *machine) kills() bool {
	running := false
	for i := range m.Containers {
		if c := &m.Containers[i]; c.Kind != Sidecar && (c.Phase == Running || c.Phase == Starting) {
			running = true
			m.kill(c)
		}
	}
	for i := len(m.Containers) - 1; i >= 0 && !running; i-- {
		if c := &m.Containers[i]; c.Kind == Sidecar && (c.Phase == Running || c.Phase == Starting) {
			running = true
			m.kill(c)
		}
	}
	return running
}

// kill stops a container in what is left of the grace, again if the grace was shortened since.
func (m *machine) kill(c *Container) {
	grace := max(m.grace()-m.now.Sub(m.EndSince), time.Second)
	if c.Killing && m.grace() >= c.KillGrace || !c.Killing && !m.due(c.kill) {
		return
	}
	c.Killing, c.KillGrace = true, m.grace()
	m.do(KillContainer{Name: c.Name, ID: c.Facts.ID, Grace: grace, Why: "Stopping container " + c.Name})
}
