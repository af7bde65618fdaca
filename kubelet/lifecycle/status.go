package lifecycle

import (
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// StatusOf derives the status that the API is told. The times of conditions that did not change
// are taken from before, the status told last.
func StatusOf(s *State, hostIPs []string, qos v1.PodQOSClass, before *v1.PodStatus, now time.Time) v1.PodStatus {
	if s.Final != nil {
		return *s.Final
	}
	st := v1.PodStatus{
		ObservedGeneration: s.Pod.Generation,
		Phase:              s.phase(),
		QOSClass:           qos,
		StartTime:          &metav1.Time{Time: s.StartTime.Truncate(time.Second)},
	}
	if s.Verdict != nil {
		st.Reason, st.Message = s.Verdict.Reason, s.Verdict.Message
	}
	if s.Rejected() { // nothing was, so there is nothing more to say
		return st
	}
	s.addresses(&st, hostIPs)
	for i := range s.Containers {
		c := &s.Containers[i]
		cs := s.containerStatus(c)
		switch c.Kind {
		case Init, Sidecar:
			st.InitContainerStatuses = append(st.InitContainerStatuses, cs)
		case App:
			st.ContainerStatuses = append(st.ContainerStatuses, cs)
		case Ephemeral:
			st.EphemeralContainerStatuses = append(st.EphemeralContainerStatuses, cs)
		}
	}
	st.Conditions = append(s.conditions(st.Phase), s.resizeConditions()...)
	if s.Afresh != "" || slices.ContainsFunc(s.Containers, func(c Container) bool { return c.Redo }) {
		st.Conditions = append(st.Conditions, v1.PodCondition{Type: v1.AllContainersRestarting, Status: v1.ConditionTrue})
	}
	if v := s.Verdict; v != nil && v.Disruption {
		st.Conditions = append(st.Conditions, v1.PodCondition{Type: v1.DisruptionTarget, Status: v1.ConditionTrue,
			Reason: v1.PodReasonTerminationByKubelet, Message: v.Condition})
	}
	for i := range st.Conditions {
		c := &st.Conditions[i]
		c.ObservedGeneration = s.Pod.Generation
		c.LastTransitionTime = metav1.Time{Time: now.Truncate(time.Second)}
		if before == nil {
			continue
		}
		if j := slices.IndexFunc(before.Conditions, func(b v1.PodCondition) bool { return b.Type == c.Type && b.Status == c.Status }); j >= 0 {
			c.LastTransitionTime = before.Conditions[j].LastTransitionTime
		}
	}
	return st
}

// Rejected says whether the node failed the pod before anything of it was made: it holds nothing of the node.
func (s *State) Rejected() bool {
	for i := range s.Containers {
		if s.Containers[i].Next > 0 {
			return false
		}
	}
	return s.Verdict != nil && s.Sandbox.ID == "" && s.Verdict.Reason != "DeadlineExceeded" && !s.Verdict.Disruption
}

func (s *State) addresses(st *v1.PodStatus, hostIPs []string) {
	for i, ip := range hostIPs {
		if i == 0 {
			st.HostIP = ip
		}
		st.HostIPs = append(st.HostIPs, v1.HostIP{IP: ip})
	}
	ips := s.Sandbox.IPs
	if s.Pod.Spec.HostNetwork && (s.Sandbox.Phase == Ready || s.Sandbox.Phase == Stopping) {
		ips = hostIPs
	}
	for i, ip := range ips {
		if i == 0 {
			st.PodIP = ip
		}
		st.PodIPs = append(st.PodIPs, v1.PodIP{IP: ip})
	}
}

// phase sums the containers up in one word.
func (s *State) phase() v1.PodPhase {
	if s.Verdict != nil && (s.Stage >= Finished || s.Rejected()) {
		return v1.PodFailed
	}
	var waiting, running, failed, succeeded, again int
	initPending, initFailed := false, false
	for i := range s.Containers {
		c := &s.Containers[i]
		switch {
		case c.Kind == Ephemeral, c.Kind == Sidecar && c.Next > 0:
		case c.Kind == Sidecar:
			initPending = true
		case c.Kind == Init:
			if c.Phase != Exited || c.Waiting != "" || c.Facts.ExitCode != 0 {
				initPending = true
				initFailed = initFailed || c.Phase == Exited && c.Waiting == "" && !restarts(s.Pod, c)
			}
		case c.Phase == Running:
			running++
		case c.Next == 0, c.Phase == Starting && c.Next == 1 && !c.Facts.Exited:
			waiting++ // also where it was made already, but has not begun, or its postStart hook has not ended
		case c.Phase == Exited || c.Phase == Starting:
			if c.Phase == Starting || restarts(s.Pod, c) {
				again++
			} else if c.Facts.ExitCode == 0 {
				succeeded++
			}
			if c.Facts.ExitCode != 0 {
				failed++
			}
		}
	}
	started := running+again+succeeded+failed > 0
	switch {
	case s.Stage >= Finished && (waiting > 0 || failed > 0 || initFailed || initPending && !started):
		return v1.PodFailed
	case s.Stage >= Finished:
		return v1.PodSucceeded
	case initFailed:
		return v1.PodFailed
	case initPending && !started, waiting > 0:
		return v1.PodPending
	case running > 0 || again > 0:
		return v1.PodRunning
	case s.Stage == Active:
		return v1.PodRunning
	}
	// Everything has exited for good, but is not given back yet: the phase says so only when it
	// is, because controllers then take the pod's resources for free.
	return v1.PodRunning
}

func (s *State) containerStatus(c *Container) v1.ContainerStatus {
	st := v1.ContainerStatus{Name: c.Name, RestartCount: int32(max(c.Next-1, 0)), Image: c.Facts.Image, ImageID: c.Facts.ImageID}
	if spec := Spec(s.Pod, c.Name); spec != nil {
		if st.Image == "" {
			st.Image = spec.Image
		}
		if c.Phase == Running {
			st.Resources = c.Applied.DeepCopy()
			st.AllocatedResources = spec.Resources.DeepCopy().Requests
		}
		if st.VolumeMounts = c.Facts.Mounts; st.VolumeMounts == nil {
			st.VolumeMounts = MountStatuses(spec)
		}
	}
	if c.Facts.ID != "" {
		st.ContainerID = "containerd://" + c.Facts.ID
	}
	started := s.startedUp(c)
	st.Started = &started
	st.Ready = s.ready(c)
	if c.Kind == Init {
		st.Ready = c.Phase == Exited && c.Facts.ExitCode == 0
	}
	if c.Last != nil {
		st.LastTerminationState.Terminated = c.Last
	}
	switch {
	case c.Phase == Running && c.Hooked:
		st.State.Running = &v1.ContainerStateRunning{StartedAt: metav1.Time{Time: c.Facts.StartedAt.Truncate(time.Second)}}
	case (c.Phase == Exited || c.Phase == Starting && c.Facts.Exited) && (c.Waiting == "" || s.Stage > Active):
		st.State.Terminated = c.terminated()
	default:
		st.State.Waiting = s.waiting(c)
		if c.Facts.Exited {
			st.LastTerminationState.Terminated = c.terminated()
		}
	}
	return st
}

// MountStatuses is what a container's spec says of its mounts, in the words of its status.
func MountStatuses(spec *v1.Container) []v1.VolumeMountStatus {
	var out []v1.VolumeMountStatus
	for i := range spec.VolumeMounts {
		vm := &spec.VolumeMounts[i]
		st := v1.VolumeMountStatus{Name: vm.Name, MountPath: vm.MountPath, ReadOnly: vm.ReadOnly}
		if vm.ReadOnly {
			st.RecursiveReadOnly = new(v1.RecursiveReadOnlyDisabled)
		}
		out = append(out, st)
	}
	return out
}

func (s *State) waiting(c *Container) *v1.ContainerStateWaiting {
	switch {
	case c.Waiting != "":
		return &v1.ContainerStateWaiting{Reason: c.Waiting, Message: c.Message}
	case c.Kind != Ephemeral && len(s.Pod.Spec.InitContainers) > 0 && c.Phase == Absent:
		return &v1.ContainerStateWaiting{Reason: "PodInitializing"}
	}
	return &v1.ContainerStateWaiting{Reason: "ContainerCreating"}
}

func (c *Container) terminated() *v1.ContainerStateTerminated {
	f := c.Facts
	t := &v1.ContainerStateTerminated{
		ExitCode: f.ExitCode, Reason: f.Reason, Message: f.Message, ContainerID: "containerd://" + f.ID,
		StartedAt: metav1.Time{Time: f.StartedAt.Truncate(time.Second)}, FinishedAt: metav1.Time{Time: f.FinishedAt.Truncate(time.Second)},
	}
	if t.Reason == "" {
		t.Reason = "Completed"
		if f.ExitCode != 0 {
			t.Reason = "Error"
		}
	}
	return t
}

// conditions are the kubelet's own; those of others (DisruptionTarget, readiness gates) are not
// touched.
func (s *State) conditions(phase v1.PodPhase) []v1.PodCondition {
	initialized := s.initializedCondition(phase)
	unready := s.unready()
	containersReady := v1.PodCondition{Type: v1.ContainersReady, Status: v1.ConditionTrue}
	switch {
	case phase == v1.PodSucceeded:
		containersReady.Status, containersReady.Reason = v1.ConditionFalse, "PodCompleted"
	case phase == v1.PodFailed:
		containersReady.Status, containersReady.Reason = v1.ConditionFalse, "PodFailed"
	case len(unready) > 0:
		containersReady.Status, containersReady.Reason = v1.ConditionFalse, "ContainersNotReady"
		containersReady.Message = "containers with unready status: [" + strings.Join(unready, " ") + "]"
	}
	ready := containersReady
	ready.Type = v1.PodReady
	if ready.Status == v1.ConditionTrue {
		if bad := s.gates(); len(bad) > 0 {
			ready.Status, ready.Reason, ready.Message = v1.ConditionFalse, "ReadinessGatesNotReady", strings.Join(bad, ", ")
		}
	}
	start := v1.PodCondition{Type: v1.PodReadyToStartContainers, Status: v1.ConditionFalse}
	if s.Sandbox.Phase == Ready {
		start.Status = v1.ConditionTrue
	}
	return []v1.PodCondition{start, initialized, ready, containersReady, {Type: v1.PodScheduled, Status: v1.ConditionTrue}}
}

func (s *State) initializedCondition(phase v1.PodPhase) v1.PodCondition {
	cond := v1.PodCondition{Type: v1.PodInitialized, Status: v1.ConditionTrue}
	if phase == v1.PodSucceeded {
		cond.Reason = "PodCompleted"
		return cond
	}
	var bad []string
	begun := false
	for i := range s.Containers {
		c := &s.Containers[i]
		switch {
		case c.Kind == App:
			begun = begun || c.Next > 0
		case c.Kind == Init && !(c.Phase == Exited && c.Facts.ExitCode == 0), c.Kind == Sidecar && !s.startedUp(c):
			bad = append(bad, c.Name)
		}
	}
	if len(bad) > 0 && !begun {
		cond.Status, cond.Reason = v1.ConditionFalse, "ContainersNotInitialized"
		cond.Message = "containers with incomplete status: [" + strings.Join(bad, " ") + "]"
	}
	return cond
}

func (s *State) unready() []string {
	var out []string
	for i := range s.Containers {
		c := &s.Containers[i]
		if (c.Kind == App || c.Kind == Sidecar) && !s.ready(c) {
			out = append(out, c.Name)
		}
	}
	return out
}

func (s *State) gates() []string {
	var out []string
	for _, g := range s.Pod.Spec.ReadinessGates {
		i := slices.IndexFunc(s.Pod.Status.Conditions, func(c v1.PodCondition) bool { return c.Type == g.ConditionType })
		switch {
		case i < 0:
			out = append(out, `corresponding condition of pod readiness gate "`+string(g.ConditionType)+`" does not exist.`)
		case s.Pod.Status.Conditions[i].Status != v1.ConditionTrue:
			out = append(out, `the status of pod readiness gate "`+string(g.ConditionType)+`" is not "True", but `+string(s.Pod.Status.Conditions[i].Status))
		}
	}
	return out
}

// Restore continues a pod's life after the kubelet was restarted: what the runtime has is taken as
// it is, and readiness as the API was told last, as long as the same instance runs. Nothing is
// started, stopped or found unready by the restart as such.
func Restore(pod *v1.Pod, sandboxes []SandboxSeen, containers []Facts, now time.Time) State {
	s := New(pod, now)
	for _, sb := range sandboxes { // newest wins
		if s.Sandbox.ID == "" || sb.Attempt > s.Sandbox.Attempt {
			s.Sandbox = Sandbox{ID: sb.ID, Phase: Dead, Attempt: sb.Attempt, IPs: sb.IPs}
			if sb.Ready {
				s.Sandbox.Phase = Ready
			}
		}
	}
	slices.SortStableFunc(containers, func(a, b Facts) int { return a.Attempt - b.Attempt })
	m := machine{State: &s, now: now}
	for _, f := range containers {
		if f.Running || f.Exited {
			m.seen(f)
		}
	}
	told := slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses)
	for i := range told {
		m.recall(&told[i])
	}
	for i := range s.Containers {
		if c := &s.Containers[i]; c.Phase == Exited {
			c.crash.delay = crashDelay(c.Next - 1) // the wait goes on where it was
			m.beginAfresh(c)
		}
	}
	return s
}

// crashDelay is the wait that so many restarts in a row have led to.
func crashDelay(restarts int) time.Duration {
	var r retry
	for range min(restarts, 10) {
		r.failed(time.Time{}, crashFirst, crashMax)
	}
	return r.delay
}

// recall takes from the status told last what the runtime does not know.
func (m *machine) recall(st *v1.ContainerStatus) {
	c := m.Container(st.Name)
	if c == nil {
		return
	}
	if c.Last == nil {
		c.Last = st.LastTerminationState.Terminated
	}
	c.Next = max(c.Next, int(st.RestartCount))
	if c.Facts.ID == "" {
		return
	}
	if "containerd://"+c.Facts.ID == st.ContainerID && c.Phase == Running {
		if st.Resources != nil {
			c.Applied = *st.Resources.DeepCopy()
		}
		c.ReadyProbed = st.Ready
		c.StartupProbed = st.Started != nil && *st.Started
		return
	}
	// The API was told of an instance before this one: its end is the last end now.
	if st.State.Terminated != nil && st.ContainerID != "containerd://"+c.Facts.ID {
		c.Last = st.State.Terminated
	}
}
