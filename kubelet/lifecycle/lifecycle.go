// Package lifecycle decides what is to be done for one pod.
//
// It is a state machine without effects: Step takes a State, an Event and the time, and returns
// the next State and the Actions that the caller must carry out. Each action that ends in an
// event leaves a mark in the state (volumes being set up, container starting, ...), so nothing is
// asked for twice. It knows no runtime, clock or disk, and does not log. StatusOf derives what the
// API is told.
package lifecycle

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Delays before something that failed is tried again.
const (
	retryFirst = 500 * time.Millisecond
	retryMax   = 10 * time.Second
	crashFirst = 10 * time.Second
	crashMax   = 5 * time.Minute
	// crashForget is how long after a start the next failure counts as the first.
	crashForget = 2 * crashMax
	pullFirst   = 10 * time.Second
	pullMax     = 5 * time.Minute
	// pullShown is how long a failed pull is shown as such before the wait is.
	pullShown = time.Second
)

// Stage is how far a pod's life has come.
type Stage int

// Stages, in order; a pod never goes back.
const (
	// Active: containers are started and restarted.
	Active Stage = iota
	// Ending: containers are stopped, then the sandbox, then volumes and cgroup are given back.
	Ending
	// Finished: nothing runs any more; the object is still there.
	Finished
	// Gone: nothing runs any more, and nobody wants the pod.
	Gone
)

func (s Stage) String() string { return [...]string{"active", "ending", "finished", "gone"}[s] }

// Work is how far something that is done once has come.
type Work int

// Progress of a piece of work.
const (
	NotDone Work = iota
	Doing
	Done
)

// State is all that is known of a pod. It is a value: Step copies what it changes.
type State struct {
	Pod        *v1.Pod
	Stage      Stage
	Removed    bool // no source names the pod any more
	Volumes    Work
	Sandbox    Sandbox
	Containers []Container // in the order of the spec: init, app, ephemeral
	Cleanup    Work
	// StartTime is when the pod was first seen here.
	StartTime time.Time
	// EndSince is when Ending began; grace counts from here.
	EndSince time.Time
	// CrashMax bounds the wait after a container's end; 0 is 5 minutes.
	CrashMax time.Duration
	// Verdict is set where the kubelet itself ends the pod: the phase is Failed when it has ended.
	Verdict *Verdict
	// Final is the status of a pod that had ended before this kubelet began; it stays.
	Final *v1.PodStatus
	// Afresh names the container whose end asks for all containers to begin again, init containers first; empty: none does.
	// It is over once all have ended and are marked.
	Afresh string
	// Resize is what the API asks for beyond what is allocated; Pod has the resources that are allocated.
	Resize Resize

	volumesRetry, cleanupRetry retry
	// volumesStale: an input changed while the volumes were being set up.
	volumesStale bool
}

// Verdict is why the kubelet itself failed a pod.
type Verdict struct {
	Reason, Message string
	// Grace, unless 0, is all that the containers have to end in.
	Grace time.Duration
	// Disruption: the pod did nothing wrong, the node needs what it holds; Condition is what the condition says of that.
	Disruption bool
	Condition  string
}

// Sandbox is the pod's pause container and its namespaces.
type Sandbox struct {
	ID      string
	Phase   SandboxPhase
	Attempt int // of the current sandbox, or the next if there is none
	IPs     []string
	retry   retry
}

// SandboxPhase is the state of a sandbox.
type SandboxPhase int

// Phases of a sandbox.
const (
	NoSandbox SandboxPhase = iota
	Making
	Ready
	Dead
	Stopping
	Stopped
)

// Kind is the part a container plays in its pod.
type Kind int

// Kinds of container.
const (
	Init Kind = iota
	Sidecar
	App
	Ephemeral
)

// Phase is the state of a container.
type Phase int

// Phases of a container.
const (
	Absent Phase = iota
	Starting
	Running
	Exited
)

// Container is one container of the spec and its newest instance.
type Container struct {
	Name  string
	Kind  Kind
	Phase Phase
	// Facts are of the newest instance; while Starting, of the one before until the new is created.
	Facts Facts
	// Next is the number of the next instance: how often the container was created.
	Next int
	// Last is how the instance before the newest ended.
	Last *v1.ContainerStateTerminated
	// Waiting and Message say what stands in the way of a start.
	Waiting, Message string
	// Hooked: the postStart hook has ended, or there is none.
	Hooked bool
	// ReadyProbed and StartupProbed are the newest results of those probes.
	ReadyProbed, StartupProbed bool
	// Killing: a stop was asked for; KillGrace is the grace given.
	Killing   bool
	KillGrace time.Duration
	// Applied are the resources that the newest instance was given.
	Applied v1.ResourceRequirements
	// Redo: all containers begin again, so what its newest instance did does not count.
	Redo bool
	// Again: it was stopped for new resources to apply, so it starts whatever its restart policy, and at once.
	Again bool

	crash, start, kill retry
	// crashBefore is crash as it was before the start that is under way: one that makes no instance is no crash.
	crashBefore retry
	lastStart   time.Time
	// tried is the number of the instance that the last start was to make.
	tried int
	// stale: an input changed while the container was being started.
	stale bool
	// unpulled is the image that Waiting is about; empty: the container's own.
	unpulled string
}

// Facts are what the runtime says of a container instance.
type Facts struct {
	Name       string
	ID         string
	Sandbox    string
	Attempt    int
	Running    bool
	Exited     bool
	StartedAt  time.Time
	FinishedAt time.Time
	ExitCode   int32
	Reason     string
	Message    string
	Image      string
	ImageID    string
	// SpecImage is the image that the instance was made from, as the spec named it then.
	SpecImage string
	// Resources are what the instance was made with; nil is not known.
	Resources *v1.ResourceRequirements
	// Mounts is what the instance has mounted, where that is more than its spec tells; else nil.
	Mounts  []v1.VolumeMountStatus
	LogPath string
}

// retry counts failures of one act.
type retry struct {
	delay time.Duration
	at    time.Time // earliest next try
}

func (r *retry) failed(now time.Time, first, most time.Duration) {
	r.delay = min(max(2*r.delay, first), most)
	r.at = now.Add(r.delay)
}

func (s State) clone() State {
	s.Containers = slices.Clone(s.Containers)
	return s
}

// Container finds a container of the state by name.
func (s *State) Container(name string) *Container {
	for i := range s.Containers {
		if s.Containers[i].Name == name {
			return &s.Containers[i]
		}
	}
	return nil
}

func (s *State) byID(id string) *Container {
	for i := range s.Containers {
		if s.Containers[i].Facts.ID == id {
			return &s.Containers[i]
		}
	}
	return nil
}

// Deleted says whether somebody wants the pod gone.
func (s *State) Deleted() bool { return s.Removed || s.Pod.DeletionTimestamp != nil }

// New is the state of a pod of which the runtime knows nothing yet.
func New(pod *v1.Pod, now time.Time) State {
	s := State{Pod: pod, StartTime: now}
	if t := pod.Status.StartTime; t != nil {
		s.StartTime = t.Time
	}
	s.Containers = containersOf(pod, nil)
	if pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed {
		s.Final = pod.Status.DeepCopy()
		s.Stage = Ending
		s.EndSince = now
	}
	return s
}

// containersOf lists the spec's containers, keeping what is known of those that were there before.
func containersOf(pod *v1.Pod, before []Container) []Container {
	old := State{Containers: before}
	var out []Container
	add := func(name string, kind Kind) {
		if c := old.Container(name); c != nil {
			out = append(out, *c)
			return
		}
		out = append(out, Container{Name: name, Kind: kind})
	}
	for i := range pod.Spec.InitContainers {
		kind := Init
		if p := pod.Spec.InitContainers[i].RestartPolicy; p != nil && *p == v1.ContainerRestartPolicyAlways {
			kind = Sidecar
		}
		add(pod.Spec.InitContainers[i].Name, kind)
	}
	for i := range pod.Spec.Containers {
		add(pod.Spec.Containers[i].Name, App)
	}
	for i := range pod.Spec.EphemeralContainers {
		add(pod.Spec.EphemeralContainers[i].Name, Ephemeral)
	}
	return out
}

// Spec finds a container of the pod's spec by name; ephemeral containers come in the same form.
func Spec(pod *v1.Pod, name string) *v1.Container {
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == name {
			return &pod.Spec.Containers[i]
		}
	}
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return &pod.Spec.InitContainers[i]
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			c := v1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
			return &c
		}
	}
	return nil
}
