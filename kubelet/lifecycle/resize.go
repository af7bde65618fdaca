package lifecycle

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// Resources are what containers ask for and are bound by, by the container's name.
type Resources map[string]v1.ResourceRequirements

// Resize is how far a change of a pod's resources in place has come (KEP-1287). The API's wish becomes the allocation
// when the node has it to give; what is allocated is then applied to the containers that run.
type Resize struct {
	// Wanted is what the API asks for and is not allocated; nil if all is.
	Wanted Resources
	// Reason and Message say why it is not: v1.PodReasonDeferred or v1.PodReasonInfeasible.
	Reason, Message string
	// Err is why the allocated resources could not be applied.
	Err error

	asking, ask, applying, underway bool
	retry                           retry
}

// specChanged takes the pod's newest object, but for resources that are not allocated yet.
func (m *machine) specChanged(pod *v1.Pod) {
	allocated := Resources{}
	for i := range m.Containers {
		if spec := Spec(m.Pod, m.Containers[i].Name); spec != nil {
			allocated[m.Containers[i].Name] = spec.Resources
		}
	}
	now, wanted := allocate(pod, allocated)
	if pod.Generation != m.Pod.Generation || !maps.Equal(pod.Annotations, m.Pod.Annotations) || !maps.Equal(pod.Labels, m.Pod.Labels) {
		m.retryConfig() // variables and paths are made of these too
	}
	m.Pod = now
	m.Containers = containersOf(pod, m.Containers)
	if len(wanted) == 0 {
		m.Resize.Wanted, m.Resize.Reason, m.Resize.Message, m.Resize.ask = nil, "", "", false
		return
	}
	if !equality.Semantic.DeepEqual(wanted, m.Resize.Wanted) {
		m.Resize.Wanted, m.Resize.ask = wanted, true
	}
}

// allocate gives pod with the resources that are allocated, and what it asks for otherwise. The pod is copied if it has to
// be changed.
func allocate(pod *v1.Pod, allocated Resources) (*v1.Pod, Resources) {
	wanted := Resources{}
	out := pod
	for _, list := range []func(*v1.Pod) []v1.Container{func(p *v1.Pod) []v1.Container { return p.Spec.InitContainers },
		func(p *v1.Pod) []v1.Container { return p.Spec.Containers }} {
		for i, c := range list(pod) {
			have, ok := allocated[c.Name]
			if !ok || equality.Semantic.DeepEqual(have, c.Resources) {
				continue
			}
			if out == pod {
				out = pod.DeepCopy()
			}
			wanted[c.Name] = c.Resources
			list(out)[i].Resources = have
		}
	}
	return out, wanted
}

// WithResources is a copy of pod in which the containers named have the resources given.
func WithResources(pod *v1.Pod, resources Resources) *v1.Pod {
	out, _ := allocate(pod, resources)
	return out
}

func (m *machine) allocated(ev Allocated) {
	r := &m.Resize
	r.asking = false
	if !equality.Semantic.DeepEqual(ev.Resources, r.Wanted) {
		if ev.Reason == "" { // it is allocated all the same: the newest wish is judged against that
			m.Pod, _ = allocate(m.Pod, ev.Resources)
			r.underway = true
			r.Wanted = without(r.Wanted, m.Pod)
		}
		r.ask = len(r.Wanted) > 0
		return
	}
	if ev.Reason != "" {
		if r.Reason != ev.Reason {
			m.do(Tell{Warning: true, Reason: "Resize" + ev.Reason, Message: "Pod resize " + ev.Reason + ": " + m.described(ev.Resources, ev.Message)})
		}
		r.Reason, r.Message = ev.Reason, ev.Message
		return
	}
	m.Pod, _ = allocate(m.Pod, ev.Resources)
	m.do(Tell{Reason: "ResizeStarted", Message: "Pod resize started: " + m.described(ev.Resources, "")})
	*r = Resize{underway: true, applying: r.applying}
}

// without leaves out of wanted what pod has already.
func without(wanted Resources, pod *v1.Pod) Resources {
	out := Resources{}
	for name, res := range wanted {
		if spec := Spec(pod, name); spec != nil && !equality.Semantic.DeepEqual(spec.Resources, res) {
			out[name] = res
		}
	}
	return out
}

func (m *machine) roomMade() {
	if m.Resize.Reason == v1.PodReasonDeferred {
		m.Resize.ask = true
	}
}

// resize asks for what is wanted, and applies what is allocated.
func (m *machine) resize() {
	r := &m.Resize
	if r.ask && !r.asking {
		r.ask, r.asking = false, true
		m.do(Allocate{Resources: r.Wanted})
	}
	if r.applying || !m.due(r.retry) {
		return
	}
	ids, cover, waiting := map[string]string{}, m.Pod, false
	for i := range m.Containers {
		c := &m.Containers[i]
		spec := Spec(m.Pod, c.Name)
		waiting = waiting || c.Again
		if spec == nil || c.Kind == Ephemeral || c.Kind == Init || c.Phase != Running && c.Phase != Starting {
			continue
		}
		if equality.Semantic.DeepEqual(spec.Resources, c.Applied) {
			continue
		}
		switch {
		case c.Phase == Starting, c.Killing: // the instance to come has them
			waiting = true
		case mustRestart(spec, c.Applied):
			waiting = true
			if !m.due(c.kill) {
				continue
			}
			c.Killing, c.KillGrace, c.Again = true, m.grace(), true
			m.do(KillContainer{Name: c.Name, ID: c.Facts.ID, Grace: c.KillGrace, Why: fmt.Sprintf("Container %s resize requires restart", c.Name)})
		default:
			ids[c.Name] = c.Facts.ID
			cover = covering(cover, c.Name, c.Applied)
		}
	}
	if len(ids) > 0 {
		r.applying, r.underway = true, true
		m.do(ResizeContainers{IDs: ids, Cover: cover})
		return
	}
	if r.underway && !waiting {
		r.underway, r.Err, r.retry = false, nil, retry{}
		m.do(Tell{Reason: "ResizeCompleted", Message: "Pod resize completed: " + m.described(nil, "")})
	}
}

// mustRestart says whether a container is to be restarted for its new resources.
func mustRestart(spec *v1.Container, applied v1.ResourceRequirements) bool {
	for _, p := range spec.ResizePolicy {
		if p.RestartPolicy == v1.RestartContainer && (differ(spec.Resources.Requests, applied.Requests, p.ResourceName) ||
			differ(spec.Resources.Limits, applied.Limits, p.ResourceName)) {
			return true
		}
	}
	return false
}

func differ(a, b v1.ResourceList, name v1.ResourceName) bool {
	x, hasX := a[name]
	y, hasY := b[name]
	return hasX != hasY || x.Cmp(y) != 0
}

// covering gives pod with a container that asks for, and is bound by, the larger of what it has and what it had. No bound
// is the largest.
func covering(pod *v1.Pod, name string, had v1.ResourceRequirements) *v1.Pod {
	pod = pod.DeepCopy()
	res := &Spec(pod, name).Resources
	for n, q := range had.Requests {
		if have, ok := res.Requests[n]; !ok || have.Cmp(q) < 0 {
			if res.Requests == nil {
				res.Requests = v1.ResourceList{}
			}
			res.Requests[n] = q
		}
	}
	for n, q := range res.Limits {
		switch old, ok := had.Limits[n]; {
		case !ok:
			delete(res.Limits, n)
		case old.Cmp(q) > 0:
			res.Limits[n] = old
		}
	}
	return pod
}

func (m *machine) resized(ev Resized) {
	r := &m.Resize
	r.applying = false
	for name, res := range ev.Applied {
		if c := m.Container(name); c != nil && c.Phase == Running {
			c.Applied = res
		}
	}
	if ev.Err == nil {
		r.Err, r.retry = nil, retry{}
		return
	}
	if r.Err == nil || r.Err.Error() != ev.Err.Error() {
		m.do(Tell{Warning: true, Reason: "ResizeError", Message: "Pod resize error: " + m.described(ev.Applied, ev.Err.Error())})
	}
	r.Err = ev.Err
	r.retry.failed(m.now, retryFirst, retryMax)
}

// described is a resize in the words of upstream's events.
func (m *machine) described(res Resources, message string) string {
	type container struct {
		Name      string                  `json:"name"`
		Resources v1.ResourceRequirements `json:"resources"`
	}
	said := struct {
		Containers []container `json:"containers"`
		Generation int64       `json:"generation"`
		Error      string      `json:"error,omitempty"`
	}{Containers: []container{}, Generation: m.Pod.Generation, Error: message}
	for i := range m.Containers {
		c := &m.Containers[i]
		spec := Spec(m.Pod, c.Name)
		if wanted, ok := res[c.Name]; ok {
			said.Containers = append(said.Containers, container{c.Name, wanted})
		} else if spec != nil && c.Kind != Ephemeral {
			said.Containers = append(said.Containers, container{c.Name, spec.Resources})
		}
	}
	text, err := json.Marshal(said)
	if err != nil { // quantities always encode
		return message
	}
	return string(text)
}

// resizeConditions are there only while there is something to say.
func (s *State) resizeConditions() []v1.PodCondition {
	var out []v1.PodCondition
	r := &s.Resize
	if r.Reason != "" {
		out = append(out, v1.PodCondition{Type: v1.PodResizePending, Status: v1.ConditionTrue, Reason: r.Reason, Message: r.Message})
	}
	if r.underway {
		c := v1.PodCondition{Type: v1.PodResizeInProgress, Status: v1.ConditionTrue}
		if r.Err != nil {
			c.Reason, c.Message = v1.PodReasonError, r.Err.Error()
		}
		out = append(out, c)
	}
	return out
}

// Reallocate gives a restored pod what was allocated to it before the kubelet was restarted: what was noted, else what its
// newest instances were made with. What the API asks for beyond that is judged anew.
func Reallocate(s State, noted Resources) State {
	s = s.clone()
	allocated := Resources{}
	for i := range s.Containers {
		c := &s.Containers[i]
		if res, ok := noted[c.Name]; ok {
			allocated[c.Name] = res
		} else if c.Facts.Resources != nil && slices.Contains([]Kind{App, Sidecar}, c.Kind) {
			allocated[c.Name] = *c.Facts.Resources
		}
	}
	var wanted Resources
	s.Pod, wanted = allocate(s.Pod, allocated)
	for i := range s.Containers {
		c := &s.Containers[i]
		if spec := Spec(s.Pod, c.Name); spec != nil && c.Phase == Running && c.Applied.Requests == nil && c.Applied.Limits == nil && c.Facts.Resources == nil {
			c.Applied = spec.Resources // made by a kubelet that did not say
		}
	}
	if len(wanted) > 0 {
		s.Resize.Wanted, s.Resize.ask = wanted, true
	}
	return s
}
