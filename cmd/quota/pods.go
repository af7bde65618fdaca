package quota

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/admission"
	library "k8s.io/apiserver/pkg/quota/v1"
	podresources "k8s.io/component-helpers/resource"
)

type quantity = resource.Quantity

// requestsPrefix is before the names of what pods ask for, limitsPrefix of what they may use.
const requestsPrefix, limitsPrefix = "requests.", "limits."

// plain are the resources that quotas may name with and without a prefix.
func plain() []corev1.ResourceName {
	return []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage}
}

func pods(lists Lists, now func() time.Time) library.Evaluator {
	gr := corev1.Resource("pods")
	return &evaluator{
		resource: gr, list: lists(gr), handles: handlesPod, counts: countsForPods, demand: demandOfPod, scope: podInScope,
		usage: func(obj runtime.Object) (corev1.ResourceList, error) {
			pod, err := as[*corev1.Pod](obj)
			if err != nil {
				return nil, err
			}
			return podUsage(pod, now()), nil
		},
	}
}

// handlesPod looks at what sets requests and limits: creation and resize.
func handlesPod(a admission.Attributes) bool {
	if a.GetSubresource() == "resize" {
		return a.GetOperation() == admission.Update
	}
	return onWrite(false)(a)
}

func countsForPods(n corev1.ResourceName) bool {
	if n == corev1.ResourcePods || n == countOf(corev1.Resource("pods")) || slices.Contains(plain(), n) || isHugePages(n) {
		return true
	}
	if rest, ok := strings.CutPrefix(string(n), limitsPrefix); ok {
		return slices.Contains(plain(), corev1.ResourceName(rest))
	}
	rest, ok := strings.CutPrefix(string(n), requestsPrefix)
	name := corev1.ResourceName(rest)
	return ok && (slices.Contains(plain(), name) || isHugePages(name) || isExtended(name))
}

func isHugePages(n corev1.ResourceName) bool {
	return strings.HasPrefix(string(n), corev1.ResourceHugePagesPrefix)
}

// isExtended tells names of devices and the like: of a domain that is not Kubernetes' own.
func isExtended(n corev1.ResourceName) bool {
	domain, _, ok := strings.Cut(string(n), "/")
	return ok && domain != "kubernetes.io" && !strings.HasSuffix(domain, ".kubernetes.io")
}

// Counts tells whether a pod still uses what it asked for: not when it has ended, nor when it
// should have long been gone.
func Counts(pod *corev1.Pod, now time.Time) bool {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return false
	}
	if pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil {
		return !now.After(pod.DeletionTimestamp.Add(time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second))
	}
	return true
}

func podUsage(pod *corev1.Pod, now time.Time) corev1.ResourceList {
	used := corev1.ResourceList{countOf(corev1.Resource("pods")): amount(1)}
	if !Counts(pod, now) {
		return used
	}
	opts := podresources.PodResourcesOptions{UseStatusResources: true}
	maps.Copy(used, namesOf(podresources.PodRequests(pod, opts), podresources.PodLimits(pod, opts)))
	used[corev1.ResourcePods] = amount(1)
	return used
}

// namesOf lists amounts under all names by which quotas know them.
func namesOf(requests, limits corev1.ResourceList) corev1.ResourceList {
	used := corev1.ResourceList{}
	for name, q := range requests {
		switch {
		case slices.Contains(plain(), name), isHugePages(name):
			used[name], used[requestsPrefix+name] = q, q
		case isExtended(name):
			used[requestsPrefix+name] = q
		}
	}
	for name, q := range limits {
		if slices.Contains(plain(), name) {
			used[limitsPrefix+name] = q
		}
	}
	return used
}

// demandOfPod wants every container to say how much CPU and memory it is about, where a quota
// limits these. Of other resources a container that says nothing uses nothing.
func demandOfPod(required []corev1.ResourceName, obj runtime.Object) error {
	pod, err := as[*corev1.Pod](obj)
	if err != nil {
		return err
	}
	whole := corev1.ResourceList{}
	if r := pod.Spec.Resources; r != nil {
		whole = namesOf(r.Requests, r.Limits)
	}
	missing := map[corev1.ResourceName][]string{}
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for _, c := range containers {
			said := namesOf(c.Resources.Requests, c.Resources.Limits)
			for _, name := range required {
				_, here := said[name]
				_, above := whole[name]
				if mustBeSaid(name) && !here && !above && !slices.Contains(missing[name], c.Name) {
					missing[name] = append(missing[name], c.Name)
				}
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		slices.Sort(missing[name])
		parts = append(parts, fmt.Sprintf("%s for: %s", name, strings.Join(missing[name], ",")))
	}
	return fmt.Errorf("must specify %s", strings.Join(parts, "; "))
}

func mustBeSaid(n corev1.ResourceName) bool {
	bare := strings.TrimPrefix(strings.TrimPrefix(string(n), requestsPrefix), limitsPrefix)
	return bare == string(corev1.ResourceCPU) || bare == string(corev1.ResourceMemory)
}

func podInScope(s corev1.ScopedResourceSelectorRequirement, obj runtime.Object) (bool, error) {
	pod, err := as[*corev1.Pod](obj)
	if err != nil {
		return false, err
	}
	terminating := pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
	switch s.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return terminating, nil
	case corev1.ResourceQuotaScopeNotTerminating:
		return !terminating, nil
	case corev1.ResourceQuotaScopeBestEffort:
		return bestEffort(pod), nil
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !bestEffort(pod), nil
	case corev1.ResourceQuotaScopePriorityClass:
		return matchesScope(s, pod.Spec.PriorityClassName)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return looksElsewhere(pod), nil
	}
	return false, nil
}

// matchesScope applies the operator to the class that an object names; empty names none.
func matchesScope(s corev1.ScopedResourceSelectorRequirement, class string) (bool, error) {
	var op selection.Operator
	switch s.Operator {
	case corev1.ScopeSelectorOpExists:
		return class != "", nil
	case corev1.ScopeSelectorOpDoesNotExist:
		op = selection.DoesNotExist
	case corev1.ScopeSelectorOpIn:
		op = selection.In
	case corev1.ScopeSelectorOpNotIn:
		op = selection.NotIn
	default:
		return false, fmt.Errorf("%q is not a valid scope selector operator", s.Operator)
	}
	requirement, err := labels.NewRequirement(string(s.ScopeName), op, s.Values)
	if err != nil {
		return false, err
	}
	set := labels.Set{}
	if class != "" {
		set[string(s.ScopeName)] = class
	}
	return requirement.Matches(set), nil
}

// bestEffort tells that nothing in the pod asks for CPU or memory, nor is limited in them.
func bestEffort(pod *corev1.Pod) bool {
	asks := func(lists ...corev1.ResourceList) bool {
		for _, l := range lists {
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				if q := l[name]; q.Sign() > 0 {
					return true
				}
			}
		}
		return false
	}
	if r := pod.Spec.Resources; r != nil && asks(r.Requests, r.Limits) {
		return false
	}
	return !slices.ContainsFunc(slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers), func(c corev1.Container) bool {
		return asks(c.Resources.Requests, c.Resources.Limits)
	})
}

// looksElsewhere tells that the pod's (anti-)affinity speaks of other namespaces.
func looksElsewhere(pod *corev1.Pod) bool {
	a := pod.Spec.Affinity
	if a == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	add := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		terms = append(terms, required...)
		for _, p := range preferred {
			terms = append(terms, p.PodAffinityTerm)
		}
	}
	if p := a.PodAffinity; p != nil {
		add(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		add(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
}
