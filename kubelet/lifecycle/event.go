package lifecycle

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Event is something that happened to a pod. The types below are all there are.
type Event interface{ event() }

// Events.
type (
	// SpecChanged brings the pod's newest object.
	SpecChanged struct{ Pod *v1.Pod }
	// RemovedBySource says that no source names the pod any more.
	RemovedBySource struct{}
	// Tick says that time has passed.
	Tick struct{}
	// InputsChanged says that something of which pods are made (a ConfigMap, a Secret) has changed: what failed for want
	// of it is tried again at once.
	InputsChanged struct{}
	// VolumesDone answers SetupVolumes.
	VolumesDone struct{ Err error }
	// SandboxDone answers MakeSandbox.
	SandboxDone struct {
		ID  string
		IPs []string
		Err error
	}
	// SandboxSeen is what the runtime says of a sandbox.
	SandboxSeen struct {
		ID      string
		Attempt int
		Ready   bool
		IPs     []string
	}
	// SandboxStopped answers StopSandbox.
	SandboxStopped struct {
		ID  string
		Err error
	}
	// ContainerCreated says that a StartContainer has come as far as a container.
	ContainerCreated struct{ Facts Facts }
	// ContainerSeen is what the runtime says of a container.
	ContainerSeen struct{ Facts Facts }
	// ContainerMissing says that the runtime does not know a container any more.
	ContainerMissing struct{ ID string }
	// StartFailed ends a StartContainer that did not come as far as a running container. Image is the one that could not
	// be pulled, where that is the reason: the container's own, or one that it mounts.
	StartFailed struct{ Name, Reason, Message, Image string }
	// HookDone says that a container runs and its postStart hook, if any, has ended.
	HookDone struct {
		Name, ID string
		Err      error
	}
	// KillDone answers KillContainer.
	KillDone struct {
		Name, ID string
		Err      error
	}
	// CleanupDone answers GiveBack.
	CleanupDone struct{ Err error }
	// Probed brings a probe's changed verdict on a container.
	Probed struct {
		Name, ID string
		Probe    Probe
		OK       bool
	}
	// Rejected says that the node cannot run the pod.
	Rejected struct{ Reason, Message string }
	// Evicted says that the pod has to go, within a grace that the node can bear.
	Evicted struct {
		Reason, Message string
		// Grace, unless 0, is all that it has to end in.
		Grace time.Duration
		// Condition is the message of the condition that names the disruption; Message if empty.
		Condition string
	}
	// Allocated answers Allocate. Reason is empty if the node has what Resources ask for, else v1.PodReasonDeferred or
	// v1.PodReasonInfeasible.
	Allocated struct {
		Resources       Resources
		Reason, Message string
	}
	// RoomMade says that the node has more to give than when a resize was deferred.
	RoomMade struct{}
	// Resized answers ResizeContainers: Applied are those that have their new resources.
	Resized struct {
		Applied Resources
		Err     error
	}
)

// Probe is a kind of probe.
type Probe int

// Kinds of probe.
const (
	Liveness Probe = iota
	Readiness
	Startup
)

func (p Probe) String() string { return [...]string{"liveness", "readiness", "startup"}[p] }

func (SpecChanged) event()      {}
func (RemovedBySource) event()  {}
func (Tick) event()             {}
func (InputsChanged) event()    {}
func (VolumesDone) event()      {}
func (SandboxDone) event()      {}
func (SandboxSeen) event()      {}
func (SandboxStopped) event()   {}
func (ContainerCreated) event() {}
func (ContainerSeen) event()    {}
func (ContainerMissing) event() {}
func (StartFailed) event()      {}
func (HookDone) event()         {}
func (KillDone) event()         {}
func (CleanupDone) event()      {}
func (Probed) event()           {}
func (Rejected) event()         {}
func (Evicted) event()          {}
func (Allocated) event()        {}
func (RoomMade) event()         {}
func (Resized) event()          {}

// Action is something to do for a pod. The types below are all there are.
type Action interface{ String() string }

// Actions. Those with an answer name the event that brings it.
type (
	// SetupVolumes prepares the pod's volumes: VolumesDone.
	SetupVolumes struct{}
	// MakeSandbox makes the pod's cgroup and sandbox: SandboxDone.
	MakeSandbox struct{ Attempt int }
	// StopSandbox stops a sandbox and what runs in it: ContainerSeen for each of Containers,
	// then SandboxStopped.
	StopSandbox struct {
		ID         string
		Containers []string
	}
	// RemoveSandbox removes a stopped sandbox and its containers.
	RemoveSandbox struct{ ID string }
	// StartContainer pulls, creates, starts and runs the hook: ContainerCreated and HookDone,
	// or StartFailed.
	StartContainer struct {
		Name    string
		Sandbox string
		Attempt int
	}
	// KillContainer runs the preStop hook and stops: KillDone.
	KillContainer struct {
		Name, ID string
		Grace    time.Duration
		Why      string
		NoHook   bool // no preStop hook is run
	}
	// Allocate asks whether the node has what the containers named are to have from now on, and notes it if so: Allocated.
	Allocate struct{ Resources Resources }
	// ResizeContainers gives running containers, by name, the resources of the spec: Resized. Cover is what the pod as a
	// whole needs meanwhile.
	ResizeContainers struct {
		IDs   map[string]string
		Cover *v1.Pod
	}
	// RemoveContainer removes an instance that is not needed any more.
	RemoveContainer struct{ ID string }
	// GiveBack unmounts volumes and removes the cgroup: CleanupDone.
	GiveBack struct{}
	// Tell makes an event of the API; Container may be empty.
	Tell struct {
		Warning                    bool
		Container, Reason, Message string
	}
	// Wake asks for a Tick at a time.
	Wake struct{ At time.Time }
)

func (SetupVolumes) String() string     { return "set up volumes" }
func (a MakeSandbox) String() string    { return fmt.Sprintf("make sandbox %d", a.Attempt) }
func (a StopSandbox) String() string    { return "stop sandbox " + a.ID }
func (a RemoveSandbox) String() string  { return "remove sandbox " + a.ID }
func (a StartContainer) String() string { return fmt.Sprintf("start %s/%d", a.Name, a.Attempt) }
func (a KillContainer) String() string {
	return fmt.Sprintf("kill %s in %v: %s", a.Name, a.Grace, a.Why)
}
func (a Allocate) String() string {
	return "allocate to " + strings.Join(slices.Sorted(maps.Keys(a.Resources)), ", ")
}
func (a ResizeContainers) String() string {
	return "resize " + strings.Join(slices.Sorted(maps.Keys(a.IDs)), ", ")
}
func (a RemoveContainer) String() string { return "remove container " + a.ID }
func (GiveBack) String() string          { return "give back" }
func (a Tell) String() string            { return "tell " + a.Reason + ": " + a.Message }
func (a Wake) String() string            { return "wake " + a.At.UTC().Format("15:04:05.000") }
