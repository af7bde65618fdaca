package defaults

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
)

// pod gives a pod what its spec has in a template too, and then what upstream gives to pods alone: a template keeps these
// fields empty, so that workloads' template hashes do not change with them.
func pod(p *corev1.Pod) {
	podSpec(&p.Spec)
	for _, cs := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range cs {
			requestsFromLimits(&cs[i].Resources)
			if p.Spec.HostNetwork {
				hostPorts(cs[i].Ports)
			}
		}
	}
	podRequests(p)
	setPtr(&p.Spec.EnableServiceLinks, true)
	podStatus(&p.Status)
}

func podStatus(s *corev1.PodStatus) {
	containerStatuses(s)
	roundUp(s.AllocatedResources)
	if s.Resources != nil {
		roundUp(s.Resources.Limits)
		roundUp(s.Resources.Requests)
	}
	ip := func(list []corev1.PodIP) string { return list[0].IP }
	alias(&s.PodIP, &s.PodIPs, ip, func(v string) []corev1.PodIP { return []corev1.PodIP{{IP: v}} })
}

// alias keeps a field that holds one value equal to the first of its younger brother, which holds a list. Where both are given
// and differ, the older field wins: only clients that know no other write it alone.
func alias[T any](one *string, list *[]T, first func([]T) string, make func(string) []T) {
	switch {
	case *one == "" && len(*list) > 0:
		*one = first(*list)
	case *one != "" && (len(*list) == 0 || first(*list) != *one):
		*list = make(*one)
	}
}

func containerStatuses(s *corev1.PodStatus) {
	for _, cs := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range cs {
			roundUp(cs[i].AllocatedResources)
			if cs[i].Resources != nil {
				roundUp(cs[i].Resources.Limits)
				roundUp(cs[i].Resources.Requests)
			}
		}
	}
}

// requestsFromLimits requests what is limited but not requested.
func requestsFromLimits(r *corev1.ResourceRequirements) {
	for name, q := range r.Limits {
		if _, ok := r.Requests[name]; ok {
			continue
		}
		if r.Requests == nil {
			r.Requests = corev1.ResourceList{}
		}
		r.Requests[name] = q.DeepCopy()
	}
}

// podRequests completes pod-level requests: from the containers' first, else from the pod-level limits.
func podRequests(p *corev1.Pod) {
	if p.Spec.Resources == nil || len(p.Spec.Resources.Requests) == 0 && len(p.Spec.Resources.Limits) == 0 {
		return
	}
	requests := corev1.ResourceList{}
	for name, q := range p.Spec.Resources.Requests {
		requests[name] = q
	}
	for name, q := range resource.AggregateContainerRequests(p, resource.PodResourcesOptions{}) {
		if _, ok := requests[name]; !ok && resource.IsSupportedPodLevelResource(name) {
			// Huge pages cannot be overcommitted: a pod-level limit decides alone.
			if _, limited := p.Spec.Resources.Limits[name]; limited && strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
				continue
			}
			requests[name] = q
		}
	}
	for name, q := range p.Spec.Resources.Limits {
		if _, ok := requests[name]; !ok && resource.IsSupportedPodLevelResource(name) {
			requests[name] = q.DeepCopy()
		}
	}
	if len(requests) > 0 {
		p.Spec.Resources.Requests = requests
	}
	// Huge pages of the containers limit the pod too: nobody may request them without a limit.
	for name, q := range requests {
		if _, ok := p.Spec.Resources.Limits[name]; !ok && strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
			if p.Spec.Resources.Limits == nil {
				p.Spec.Resources.Limits = corev1.ResourceList{}
			}
			p.Spec.Resources.Limits[name] = q.DeepCopy()
		}
	}
}

func hostPorts(ports []corev1.ContainerPort) {
	for i := range ports {
		set(&ports[i].HostPort, ports[i].ContainerPort)
	}
}

func podTemplate(t *corev1.PodTemplateSpec) { podSpec(&t.Spec) }

func podSpec(s *corev1.PodSpec) {
	set(&s.DNSPolicy, corev1.DNSClusterFirst)
	set(&s.RestartPolicy, corev1.RestartPolicyAlways)
	set(&s.SchedulerName, corev1.DefaultSchedulerName)
	setPtr(&s.TerminationGracePeriodSeconds, corev1.DefaultTerminationGracePeriodSeconds)
	setPtr(&s.SecurityContext, corev1.PodSecurityContext{})
	for i := range s.Volumes {
		volume(&s.Volumes[i])
	}
	for i := range s.InitContainers {
		container(&s.InitContainers[i])
	}
	for i := range s.Containers {
		container(&s.Containers[i])
	}
	for i := range s.EphemeralContainers {
		c := corev1.Container(s.EphemeralContainers[i].EphemeralContainerCommon)
		container(&c)
		s.EphemeralContainers[i].EphemeralContainerCommon = corev1.EphemeralContainerCommon(c)
	}
	roundUp(s.Overhead)
	if s.Resources != nil {
		roundUp(s.Resources.Limits)
		roundUp(s.Resources.Requests)
	}
	serviceAccountAlias(s)
}

// serviceAccountAlias keeps the deprecated name of the field equal to the current one, as clients of both expect.
func serviceAccountAlias(s *corev1.PodSpec) {
	set(&s.ServiceAccountName, s.DeprecatedServiceAccount)
	s.DeprecatedServiceAccount = s.ServiceAccountName
}

func container(c *corev1.Container) {
	set(&c.ImagePullPolicy, pullPolicy(c.Image))
	set(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	set(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		set(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		envVar(c.Env[i].ValueFrom)
	}
	roundUp(c.Resources.Limits)
	roundUp(c.Resources.Requests)
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		probe(p)
	}
	if c.Lifecycle != nil {
		for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil {
				httpGet(h.HTTPGet)
			}
		}
	}
}

func envVar(s *corev1.EnvVarSource) {
	if s == nil {
		return
	}
	if s.FieldRef != nil {
		set(&s.FieldRef.APIVersion, "v1")
	}
	if s.FileKeyRef != nil {
		setPtr(&s.FileKeyRef.Optional, false)
	}
}

func probe(p *corev1.Probe) {
	if p == nil {
		return
	}
	set(&p.TimeoutSeconds, 1)
	set(&p.PeriodSeconds, 10)
	set(&p.SuccessThreshold, 1)
	set(&p.FailureThreshold, 3)
	httpGet(p.HTTPGet)
	if p.GRPC != nil {
		setPtr(&p.GRPC.Service, "")
	}
}

func httpGet(a *corev1.HTTPGetAction) {
	if a == nil {
		return
	}
	set(&a.Path, "/")
	set(&a.Scheme, corev1.URISchemeHTTP)
}

// pullPolicy is Always for an image that floats with the tag latest, whether written or implied.
func pullPolicy(image string) corev1.PullPolicy {
	if imageTag(image) == "latest" {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

// imageTag is the image's tag; "latest" if it has neither tag nor digest, "" if it has a digest alone or is empty.
func imageTag(image string) string {
	name, digest, pinned := strings.Cut(image, "@")
	if name == "" {
		return ""
	}
	last := name[strings.LastIndexByte(name, '/')+1:]
	if _, tag, ok := strings.Cut(last, ":"); ok {
		return tag
	}
	if pinned && digest != "" {
		return ""
	}
	return "latest"
}

// roundUp rounds to milli units, the finest the API keeps.
func roundUp(l corev1.ResourceList) {
	for name, q := range l {
		if q.RoundUp(-3) {
			continue
		}
		l[name] = q
	}
}
