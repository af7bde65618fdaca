package warnings

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// pod warns of a pod, which has no path of its own, or of the template of pods at p.
func pod(t *corev1.PodTemplateSpec, p *field.Path, isPod bool) []string {
	spec, meta := p.Child("spec"), p.Child("metadata")
	var out []string
	if isPod && t.Name != "" {
		if bad := validation.IsDNS1123Label(t.Name); len(bad) > 0 {
			out = append(out, fmt.Sprintf("%s: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: %v", meta.Child("name"), bad))
		}
	}
	s := &t.Spec
	for _, k := range slices.Sorted(maps.Keys(s.NodeSelector)) {
		if why := oldLabel(k); why != "" {
			out = append(out, fmt.Sprintf("%s: %s", spec.Child("nodeSelector").Key(k), why))
		}
	}
	if s.Affinity != nil {
		out = append(out, affinity(s.Affinity, spec.Child("affinity"))...)
	}
	for i, c := range s.TopologySpreadConstraints {
		at := spec.Child("topologySpreadConstraints").Index(i)
		if why := oldLabel(c.TopologyKey); why != "" {
			out = append(out, fmt.Sprintf("%s: %s is %s", at.Child("topologyKey"), c.TopologyKey, why))
		}
		if c.LabelSelector == nil {
			out = append(out, fmt.Sprintf("%s: a null labelSelector results in matching no pod", at.Child("labelSelector")))
		}
	}
	out = append(out, annotations(t.Annotations, s, meta.Child("annotations"))...)
	for i := range s.Volumes {
		out = append(out, volume(&s.Volumes[i].VolumeSource, spec.Child("volumes").Index(i))...)
	}
	out = append(out, names(s, spec)...)
	for _, l := range lists(s) {
		for i := range l.containers {
			out = append(out, container(&l.containers[i], spec.Child(l.name).Index(i))...)
		}
	}
	out = append(out, ports(s, spec)...)
	if g := s.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		out = append(out, fmt.Sprintf("%s: must be >= 0; negative values are invalid and will be treated as 1", spec.Child("terminationGracePeriodSeconds")))
	}
	return append(out, overhead(s, spec)...)
}

// oldLabel says since when a label of nodes has another name, "" if it has not.
func oldLabel(key string) string {
	return map[string]string{
		"beta.kubernetes.io/arch":           `deprecated since v1.14; use "kubernetes.io/arch" instead`,
		"beta.kubernetes.io/os":             `deprecated since v1.14; use "kubernetes.io/os" instead`,
		corev1.LabelFailureDomainBetaRegion: `deprecated since v1.17; use "topology.kubernetes.io/region" instead`,
		corev1.LabelFailureDomainBetaZone:   `deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
		corev1.LabelInstanceType:            `deprecated since v1.17; use "node.kubernetes.io/instance-type" instead`,
	}[key]
}

func affinity(a *corev1.Affinity, p *field.Path) []string {
	const needed, preferred = "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"
	var out []string
	if n := a.NodeAffinity; n != nil {
		at := p.Child("nodeAffinity")
		if r := n.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
			for i := range r.NodeSelectorTerms {
				out = append(out, nodeTerm(&r.NodeSelectorTerms[i], at.Child(needed, "nodeSelectorTerms").Index(i))...)
			}
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			out = append(out, nodeTerm(&n.PreferredDuringSchedulingIgnoredDuringExecution[i].Preference, at.Child(preferred).Index(i).Child("preference"))...)
		}
	}
	terms := func(required []corev1.PodAffinityTerm, weighted []corev1.WeightedPodAffinityTerm, at *field.Path) {
		for i := range required {
			out = append(out, podTerm(&required[i], at.Child(needed).Index(i))...)
		}
		for i := range weighted {
			out = append(out, podTerm(&weighted[i].PodAffinityTerm, at.Child(preferred).Index(i).Child("podAffinityTerm"))...)
		}
	}
	if t := a.PodAffinity; t != nil {
		terms(t.RequiredDuringSchedulingIgnoredDuringExecution, t.PreferredDuringSchedulingIgnoredDuringExecution, p.Child("podAffinity"))
	}
	if t := a.PodAntiAffinity; t != nil {
		terms(t.RequiredDuringSchedulingIgnoredDuringExecution, t.PreferredDuringSchedulingIgnoredDuringExecution, p.Child("podAntiAffinity"))
	}
	return out
}

func nodeTerm(t *corev1.NodeSelectorTerm, p *field.Path) []string {
	var out []string
	for i, e := range t.MatchExpressions {
		if why := oldLabel(e.Key); why != "" {
			out = append(out, fmt.Sprintf("%s: %s is %s", p.Child("matchExpressions").Index(i).Child("key"), e.Key, why))
		}
	}
	return out
}

func podTerm(t *corev1.PodAffinityTerm, p *field.Path) []string {
	if t.LabelSelector != nil {
		return nil
	}
	return []string{fmt.Sprintf("%s: a null labelSelector results in matching no pod", p.Child("labelSelector"))}
}

func annotations(m map[string]string, s *corev1.PodSpec, p *field.Path) []string {
	var out []string
	warn := func(key, text string) {
		if _, ok := m[key]; ok {
			out = append(out, fmt.Sprintf("%s: %s", p.Key(key), text))
		}
	}
	warn("scheduler.alpha.kubernetes.io/critical-pod", `non-functional in v1.16+; use the "priorityClassName" field instead`)
	warn("security.alpha.kubernetes.io/sysctls", `non-functional in v1.11+; use the "sysctls" field instead`)
	warn("security.alpha.kubernetes.io/unsafe-sysctls", `non-functional in v1.11+; use the "sysctls" field instead`)
	warn(corev1.SeccompPodAnnotationKey, `non-functional in v1.27+; use the "seccompProfile" field instead`)
	for _, l := range lists(s) {
		for i := range l.containers {
			c := &l.containers[i]
			warn(corev1.SeccompContainerAnnotationKeyPrefix+c.Name, `non-functional in v1.27+; use the "seccompProfile" field instead`)
			field := c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil
			if whole := s.SecurityContext != nil && s.SecurityContext.AppArmorProfile != nil; !field && !whole {
				warn(corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name, `deprecated since v1.30; use the "appArmorProfile" field instead`)
			}
		}
	}
	return out
}

// names warns of names and addresses that are empty or given twice, where the second has no effect.
func names(s *corev1.PodSpec, p *field.Path) []string {
	var out []string
	seen := map[string]bool{}
	for i, a := range s.HostAliases {
		at := p.Child("hostAliases").Index(i).Child("ip")
		out = append(out, address(at, a.IP)...)
		if seen[a.IP] {
			out = append(out, fmt.Sprintf("%s: duplicate ip %q", at, a.IP))
		}
		seen[a.IP] = true
	}
	secrets := map[string]bool{}
	for i, r := range s.ImagePullSecrets {
		at := p.Child("imagePullSecrets").Index(i).Child("name")
		switch {
		case r.Name == "":
			out = append(out, fmt.Sprintf("%s: invalid empty name %q", at, r.Name))
		case secrets[r.Name]:
			out = append(out, fmt.Sprintf("%s: duplicate name %q", at, r.Name))
		}
		secrets[r.Name] = true
	}
	if s.DNSConfig != nil {
		for i, ip := range s.DNSConfig.Nameservers {
			out = append(out, address(p.Child("dnsConfig", "nameservers").Index(i), ip)...)
		}
	}
	return out
}

func container(c *corev1.Container, p *field.Path) []string {
	var out []string
	for _, n := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		out = append(out, fraction(c.Resources.Limits, n, p.Child("resources", "limits"))...)
		out = append(out, fraction(c.Resources.Requests, n, p.Child("resources", "requests"))...)
	}
	seen := map[string]bool{}
	for i, e := range c.Env {
		// A definition that refers to the one before it is no mistake: that is how a variable is extended.
		if seen[e.Name] && !strings.Contains(e.Value, "$("+e.Name+")") {
			out = append(out, fmt.Sprintf("%s: hides previous definition of %q, which may be dropped when using apply", p.Child("env").Index(i), e.Name))
		}
		seen[e.Name] = true
	}
	return out
}

func overhead(s *corev1.PodSpec, p *field.Path) []string {
	var out []string
	for _, n := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		out = append(out, fraction(s.Overhead, n, p.Child("overhead"))...)
	}
	return out
}

type containerList struct {
	name       string
	containers []corev1.Container
}

func lists(s *corev1.PodSpec) []containerList {
	return []containerList{{"initContainers", s.InitContainers}, {"containers", s.Containers}}
}

// ports warns of ports that two containers of a pod name, or number, alike: they share one address.
func ports(s *corev1.PodSpec, p *field.Path) []string {
	type known struct {
		port corev1.ContainerPort
		at   *field.Path
	}
	type number struct {
		port     int32
		protocol corev1.Protocol
	}
	var out []string
	numbers, named := map[number][]known{}, map[string]*field.Path{}
	for _, l := range lists(s) {
		for i := range l.containers {
			c := &l.containers[i]
			if l.name == "initContainers" && (c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways) {
				continue // it has ended before the others begin
			}
			for j, port := range c.Ports {
				at := p.Child(l.name).Index(i).Child("ports").Index(j)
				if port.HostIP != "" && port.HostPort == 0 {
					out = append(out, fmt.Sprintf("%s: hostIP set without hostPort: %+v", at, port))
				}
				n := number{port.ContainerPort, port.Protocol}
				for _, o := range numbers[n] {
					if word := clash(&port, &o.port); word != "" {
						out = append(out, fmt.Sprintf("%s: %s port definition with %s", at, word, o.at))
						break
					}
				}
				numbers[n] = append(numbers[n], known{port, at})
				if port.Name == "" {
					continue
				}
				if first, ok := named[port.Name]; ok {
					out = append(out, fmt.Sprintf("%s: duplicate port name %q with %s, services and probes that select ports by name will use %s", at, port.Name, first, first))
				} else {
					named[port.Name] = at
				}
			}
		}
	}
	return out
}

// clash says how two ports of the same number and protocol get in each other's way on the host.
func clash(a, b *corev1.ContainerPort) string {
	switch {
	case a.HostIP == b.HostIP && a.HostPort == b.HostPort:
		return "duplicate"
	case a.HostPort == 0 || b.HostPort == 0:
		return "overlapping"
	case a.HostPort == b.HostPort && (a.HostIP == "") != (b.HostIP == ""):
		return "overlapping"
	}
	return ""
}
