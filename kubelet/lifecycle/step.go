package lifecycle

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Step applies an event to a state at a time, and decides what is to be done next.
func Step(s State, ev Event, now time.Time) (State, []Action) {
	s = s.clone()
	m := machine{State: &s, now: now}
	m.apply(ev)
	m.advance()
	return s, m.actions
}

// machine is one step being taken.
type machine struct {
	*State
	now     time.Time
	actions []Action
}

func (m *machine) do(a Action) { m.actions = append(m.actions, a) }

func (m *machine) wake(at time.Time) { m.do(Wake{At: at}) }

// due says whether a retry may happen now, and asks to be woken if it is later.
func (m *machine) due(r retry) bool {
	if r.at.After(m.now) {
		m.wake(r.at)
		return false
	}
	return true
}

// apply writes into the state what the event says, deciding nothing.
func (m *machine) apply(ev Event) {
	switch ev := ev.(type) {
	case SpecChanged:
		m.specChanged(ev.Pod)
	case RemovedBySource:
		m.Removed = true
	case Rejected:
		m.Verdict = &Verdict{Reason: ev.Reason, Message: ev.Message}
		m.enter(Ending)
	case Evicted:
		m.evicted(ev)
	case InputsChanged:
		m.inputsChanged()
	case VolumesDone:
		m.volumesDone(ev)
	case SandboxDone:
		m.sandboxDone(ev)
	case SandboxSeen:
		m.sandboxSeen(ev)
	case SandboxStopped:
		m.sandboxStopped(ev)
	case ContainerCreated:
		m.created(ev.Facts)
	case ContainerSeen:
		m.seen(ev.Facts)
	case ContainerMissing:
		m.missing(ev.ID)
	case StartFailed:
		m.startFailed(ev)
	case HookDone:
		m.hookDone(ev)
	case KillDone:
		m.killDone(ev)
	case CleanupDone:
		m.cleanupDone(ev)
	case Probed:
		m.probed(ev)
	case Allocated:
		m.allocated(ev)
	case RoomMade:
		m.roomMade()
	case Resized:
		m.resized(ev)
	}
}

// evicted ends the pod, also one that is ending already but would take longer.
func (m *machine) evicted(ev Evicted) {
	if m.Stage > Ending || m.Verdict != nil || m.finished() {
		return // it holds nothing more, or soon will not
	}
	m.Verdict = &Verdict{Reason: ev.Reason, Message: ev.Message, Grace: ev.Grace, Disruption: true, Condition: cmp.Or(ev.Condition, ev.Message)}
	if m.Stage == Ending {
		m.EndSince = m.now // the shorter grace counts from here
	}
	m.enter(Ending)
}

// createError is the reason of a start that the runtime could not begin.
const createError = "CreateContainerError"

// configError is the reason of a start that failed for want of an input.
const configError = "CreateContainerConfigError"

func (m *machine) inputsChanged() {
	m.volumesRetry, m.volumesStale = retry{}, m.Volumes == Doing
	m.retryConfig()
}

// retryConfig lets containers that could not be configured be tried again at once.
func (m *machine) retryConfig() {
	for i := range m.Containers {
		c := &m.Containers[i]
		c.stale = c.Phase == Starting
		if c.Waiting == configError && !c.stale {
			c.start = retry{}
		}
	}
}

func (m *machine) volumesDone(ev VolumesDone) {
	m.Volumes = Done
	if ev.Err != nil {
		m.Volumes = NotDone
		if !m.volumesStale {
			m.volumesRetry.failed(m.now, retryFirst, retryMax)
		}
		m.do(Tell{Warning: true, Reason: "FailedMount", Message: ev.Err.Error()})
	}
}

func (m *machine) sandboxDone(ev SandboxDone) {
	if ev.Err != nil {
		m.Sandbox.Phase = NoSandbox
		m.Sandbox.retry.failed(m.now, retryFirst, retryMax)
		if m.Stage == Active {
			m.do(Tell{Warning: true, Reason: "FailedCreatePodSandBox", Message: "Failed to create pod sandbox: " + ev.Err.Error()})
		}
		return
	}
	m.Sandbox = Sandbox{ID: ev.ID, Phase: Ready, Attempt: m.Sandbox.Attempt, IPs: ev.IPs}
}

func (m *machine) sandboxSeen(ev SandboxSeen) {
	switch {
	case m.Sandbox.ID == "" && m.Sandbox.Phase == NoSandbox: // found after a restart
		m.Sandbox = Sandbox{ID: ev.ID, Phase: Dead, Attempt: ev.Attempt, IPs: ev.IPs}
		if ev.Ready {
			m.Sandbox.Phase = Ready
		}
	case m.Sandbox.ID == ev.ID && !ev.Ready && m.Sandbox.Phase == Ready:
		m.Sandbox.Phase = Dead
	}
}

func (m *machine) sandboxStopped(ev SandboxStopped) {
	if ev.ID != m.Sandbox.ID || m.Sandbox.Phase != Stopping {
		return
	}
	if ev.Err != nil {
		m.Sandbox.Phase = Dead
		m.Sandbox.retry.failed(m.now, retryFirst, retryMax)
		m.do(Tell{Warning: true, Reason: "FailedKillPod", Message: "error killing pod: " + ev.Err.Error()})
		return
	}
	m.Sandbox.Phase = Stopped
	m.Sandbox.retry = retry{}
	for i := range m.Containers { // a stopped sandbox has nothing running
		c := &m.Containers[i]
		if c.Waiting == createError { // there was no sandbox to make it in
			c.start = retry{}
		}
		if c.Phase == Running {
			m.exit(c, Facts{Exited: true, ExitCode: 137, Reason: "Error", FinishedAt: m.now})
		}
	}
}

// created begins a new instance; the one before becomes history. It stays in the runtime, for `kubectl logs --previous`,
// until it is the last but one.
func (m *machine) created(f Facts) {
	c := m.Container(f.Name)
	if c == nil || f.Attempt < c.Next {
		return
	}
	if c.Facts.ID != "" {
		if c.Last != nil && c.Facts.Sandbox == f.Sandbox && m.Sandbox.ID == f.Sandbox {
			m.do(RemoveContainer{ID: strings.TrimPrefix(c.Last.ContainerID, "containerd://")})
		}
		c.Last = c.terminated()
	}
	c.Facts = f
	c.Next = f.Attempt + 1
	c.Waiting, c.Message = "", ""
	c.Hooked, c.ReadyProbed, c.StartupProbed, c.Killing, c.Again, c.Redo = false, false, false, false, false, false
	if f.Resources != nil {
		c.Applied = *f.Resources
	}
	c.lastStart = m.now
}

// seen takes the runtime's word on a container. Only the newest instance counts.
func (m *machine) seen(f Facts) {
	c := m.Container(f.Name)
	switch {
	case c == nil:
	case c.Phase == Absent && c.Facts.ID == "" || f.Attempt >= c.Next: // found after a restart
		if c.Facts.ID != "" {
			c.Last = c.terminated()
		}
		c.Facts, c.Next, c.lastStart = f, f.Attempt+1, f.StartedAt
		if f.Resources != nil {
			c.Applied = *f.Resources
		}
		c.Hooked = true
		c.Phase = Exited
		if f.Running {
			c.Phase = Running
		}
	case f.ID != c.Facts.ID:
	case f.Exited && !c.Facts.Exited: // told twice, the second would end the instance that is being made
		m.exit(c, f)
	case f.Running && c.Phase == Starting:
		c.Facts.StartedAt, c.Facts.Running = f.StartedAt, true
	}
}

func (m *machine) exit(c *Container, f Facts) {
	c.Phase = Exited
	c.Killing = false
	c.kill = retry{}
	c.ReadyProbed, c.StartupProbed = false, false
	c.Facts.Running, c.Facts.Exited = false, true
	c.Facts.ExitCode, c.Facts.Reason, c.Facts.Message = f.ExitCode, f.Reason, f.Message
	c.Facts.FinishedAt = f.FinishedAt
	if !f.StartedAt.IsZero() {
		c.Facts.StartedAt = f.StartedAt
	}
	m.beginAfresh(c)
}

// beginAfresh notes that the end of a container asks for all of the pod to begin again.
func (m *machine) beginAfresh(c *Container) {
	if m.Stage == Active && m.Afresh == "" && ruled(m.Pod, c) == v1.ContainerRestartRuleActionRestartAllContainers {
		m.Afresh = c.Name
	}
}

func (m *machine) missing(id string) {
	if c := m.byID(id); c != nil && c.Phase == Running {
		m.exit(c, Facts{ExitCode: 137, Reason: "ContainerStatusUnknown", FinishedAt: m.now,
			Message: "The container could not be located when the pod was looked at"})
	}
}

func (m *machine) startFailed(ev StartFailed) {
	c := m.Container(ev.Name)
	if c == nil || c.Phase != Starting {
		return
	}
	c.Phase = Absent
	if c.Facts.ID != "" {
		c.Phase = Exited
		c.Facts.Exited = true
		if c.Facts.FinishedAt.IsZero() { // created, and never ran
			c.Facts.ExitCode, c.Facts.Reason, c.Facts.Message = 128, "StartError", ev.Message
			c.Facts.FinishedAt = m.now
		}
	}
	if c.Next == c.tried && c.Phase == Exited { // the sandbox had died with the container, but nobody knew yet
		c.crash = c.crashBefore
	}
	c.Waiting, c.Message, c.unpulled = ev.Reason, ev.Message, ev.Image
	if c.stale && ev.Reason == configError {
		return
	}
	if pullFailed(ev.Reason) {
		c.start.failed(m.now, pullFirst, pullMax)
	} else {
		c.start.failed(m.now, retryFirst, retryMax)
	}
}

func pullFailed(reason string) bool {
	switch reason {
	case "ErrImagePull", "RegistryUnavailable", "SignatureValidationFailed":
		return true
	}
	return false
}

func (m *machine) hookDone(ev HookDone) {
	c := m.Container(ev.Name)
	if c == nil || c.Facts.ID != ev.ID || c.Phase == Exited {
		return
	}
	c.Phase = Running
	c.start = retry{}
	if ev.Err == nil {
		c.Hooked = true
		return
	}
	m.do(Tell{Warning: true, Container: c.Name, Reason: "FailedPostStartHook", Message: "PostStartHook failed"})
	c.Killing, c.KillGrace = true, m.grace()
	m.do(KillContainer{Name: c.Name, ID: c.Facts.ID, Grace: c.KillGrace, Why: "FailedPostStartHook"})
}

func (m *machine) killDone(ev KillDone) {
	c := m.Container(ev.Name)
	if c == nil || c.Facts.ID != ev.ID || c.Phase == Exited {
		return
	}
	if ev.Err == nil { // its exit is on the way; the effect looks and tells before this
		return
	}
	c.Killing = false
	c.kill.failed(m.now, retryFirst, retryMax)
	m.do(Tell{Warning: true, Container: c.Name, Reason: "FailedKillPod", Message: "error killing pod: " + ev.Err.Error()})
}

func (m *machine) cleanupDone(ev CleanupDone) {
	m.Cleanup = Done
	if ev.Err != nil {
		m.Cleanup = NotDone
		m.cleanupRetry.failed(m.now, retryFirst, retryMax)
	}
}

func (m *machine) probed(ev Probed) {
	c := m.Container(ev.Name)
	if c == nil || c.Facts.ID != ev.ID || c.Phase != Running {
		return
	}
	switch ev.Probe {
	case Readiness:
		c.ReadyProbed = ev.OK
	case Startup:
		c.StartupProbed = ev.OK
	}
	if ev.OK || ev.Probe == Readiness || c.Killing || m.Stage != Active {
		return
	}
	c.Killing, c.KillGrace = true, m.probeGrace(c.Name, ev.Probe)
	m.do(KillContainer{Name: c.Name, ID: c.Facts.ID, Grace: c.KillGrace,
		Why: fmt.Sprintf("Container %s failed %s probe, will be restarted", c.Name, ev.Probe)})
}

func (m *machine) probeGrace(name string, p Probe) time.Duration {
	spec := Spec(m.Pod, name)
	probe := spec.LivenessProbe
	if p == Startup {
		probe = spec.StartupProbe
	}
	if probe != nil && probe.TerminationGracePeriodSeconds != nil {
		return seconds(*probe.TerminationGracePeriodSeconds)
	}
	return m.grace()
}

// grace is what a container of this pod is given to end in.
func (s *State) grace() time.Duration {
	grace := s.ownGrace()
	if s.Verdict != nil && s.Verdict.Grace > 0 {
		grace = min(grace, s.Verdict.Grace)
	}
	return grace
}

func (s *State) ownGrace() time.Duration {
	switch p := s.Pod; {
	case p.DeletionTimestamp != nil && p.DeletionGracePeriodSeconds != nil:
		return seconds(*p.DeletionGracePeriodSeconds)
	case p.Spec.TerminationGracePeriodSeconds != nil:
		return seconds(*p.Spec.TerminationGracePeriodSeconds)
	}
	return 30 * time.Second
}

// seconds is a grace period: at least one second, so that a container hears of its end.
func seconds(n int64) time.Duration { return max(time.Second, time.Duration(n)*time.Second) }

func (m *machine) enter(st Stage) {
	if st > m.Stage {
		m.Stage = st
		if st == Ending {
			m.EndSince = m.now
		}
	}
}

// restarts says whether a container that exited is to be started again.
func restarts(pod *v1.Pod, c *Container) bool {
	if c.Again {
		return true
	}
	policy := pod.Spec.RestartPolicy
	switch c.Kind {
	case Ephemeral:
		return false
	case Sidecar:
		return true
	case Init:
		if policy == v1.RestartPolicyAlways {
			policy = v1.RestartPolicyOnFailure
		}
	}
	if spec := Spec(pod, c.Name); spec != nil && spec.RestartPolicy != nil {
		policy = v1.RestartPolicy(*spec.RestartPolicy)
	}
	if ruled(pod, c) != "" {
		return true
	}
	switch policy {
	case v1.RestartPolicyNever:
		return false
	case v1.RestartPolicyOnFailure:
		return c.Facts.ExitCode != 0
	}
	return true
}

// ruled is what the container's own rules ask for after its end; empty if none matches. The first that does counts.
func ruled(pod *v1.Pod, c *Container) v1.ContainerRestartRuleAction {
	spec := Spec(pod, c.Name)
	if spec == nil || spec.RestartPolicy == nil || c.Kind == Ephemeral {
		return ""
	}
	for _, rule := range spec.RestartPolicyRules {
		if matches(rule.ExitCodes, c.Facts.ExitCode) {
			return rule.Action
		}
	}
	return ""
}

func matches(r *v1.ContainerRestartRuleOnExitCodes, code int32) bool {
	if r == nil {
		return false
	}
	in := false
	for _, v := range r.Values {
		in = in || v == code
	}
	return in == (r.Operator == v1.ContainerRestartRuleOnExitCodesOpIn)
}
