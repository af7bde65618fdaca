// Package quota says how much of a namespace's ResourceQuota an object uses.
//
// It is a leaf for the two that count: the API server's admission, which refuses what is too
// much, and the controller that counts anew. It owns no state and writes nothing.
package quota

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	library "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
)

// Lists returns how the objects of a resource in one namespace are listed. Admission, which
// only looks at one object at a time, passes nil.
type Lists func(schema.GroupResource) generic.ListFuncByNamespace

// Evaluators returns what counts the resources that have a meaning beyond their number, and
// those that quotas may also name without "count/". now tells when a pod's grace is over.
func Evaluators(lists Lists, now func() time.Time) []library.Evaluator {
	if lists == nil {
		lists = func(schema.GroupResource) generic.ListFuncByNamespace { return nil }
	}
	all := []library.Evaluator{pods(lists, now), services(lists), claims(lists), deviceClaims(lists)}
	for _, name := range []corev1.ResourceName{
		corev1.ResourceConfigMaps, corev1.ResourceQuotas, corev1.ResourceReplicationControllers, corev1.ResourceSecrets,
	} {
		gr := corev1.Resource(string(name))
		all = append(all, generic.NewObjectCountEvaluator(gr, lists(gr), name))
	}
	return all
}

// Ignored are the resources that no quota counts: they come in floods, or are never stored.
func Ignored() map[schema.GroupResource]struct{} {
	ignored := map[schema.GroupResource]struct{}{}
	for group, resources := range map[string][]string{
		"": {"events", "bindings", "componentstatuses"}, "events.k8s.io": {"events"},
		"authentication.k8s.io": {"tokenreviews", "selfsubjectreviews"},
		"authorization.k8s.io":  {"subjectaccessreviews", "localsubjectaccessreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews"},
	} {
		for _, r := range resources {
			ignored[schema.GroupResource{Group: group, Resource: r}] = struct{}{}
		}
	}
	return ignored
}

// evaluator is one resource's way of counting.
type evaluator struct {
	resource schema.GroupResource
	list     generic.ListFuncByNamespace
	// handles says which writes can change what is used.
	handles func(admission.Attributes) bool
	// counts tells whether a quota's entry of that name speaks of this resource.
	counts func(corev1.ResourceName) bool
	// demand refuses an object that leaves open what a quota must know; nil accepts all.
	demand func(required []corev1.ResourceName, obj runtime.Object) error
	// scope tells whether obj is in the scope; nil knows none.
	scope generic.MatchesScopeFunc
	usage generic.UsageFunc
}

var _ library.Evaluator = (*evaluator)(nil)

func (e *evaluator) GroupResource() schema.GroupResource { return e.resource }

func (e *evaluator) Handles(a admission.Attributes) bool { return e.handles(a) }

func (e *evaluator) Constraints(required []corev1.ResourceName, obj runtime.Object) error {
	if e.demand == nil {
		return nil
	}
	return e.demand(required, obj)
}

func (e *evaluator) Matches(q *corev1.ResourceQuota, obj runtime.Object) (bool, error) {
	return generic.Matches(q, obj, e.MatchingResources, e.inScope)
}

func (e *evaluator) inScope(s corev1.ScopedResourceSelectorRequirement, obj runtime.Object) (bool, error) {
	if e.scope == nil {
		return false, nil
	}
	return e.scope(s, obj)
}

func (e *evaluator) MatchingScopes(obj runtime.Object, scopes []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	matched := []corev1.ScopedResourceSelectorRequirement{}
	for _, s := range scopes {
		in, err := e.inScope(s, obj)
		if err != nil {
			return nil, fmt.Errorf("match scope %s: %w", s.ScopeName, err)
		}
		if in {
			matched = append(matched, s)
		}
	}
	return matched, nil
}

// UncoveredQuotaScopes returns the limited scopes of which no quota speaks.
func (e *evaluator) UncoveredQuotaScopes(limited, covered []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	return slices.DeleteFunc(slices.Clone(limited), func(l corev1.ScopedResourceSelectorRequirement) bool {
		return slices.ContainsFunc(covered, func(c corev1.ScopedResourceSelectorRequirement) bool { return c.ScopeName == l.ScopeName })
	}), nil
}

func (e *evaluator) MatchingResources(names []corev1.ResourceName) []corev1.ResourceName {
	return slices.DeleteFunc(slices.Clone(names), func(n corev1.ResourceName) bool { return !e.counts(n) })
}

func (e *evaluator) Usage(obj runtime.Object) (corev1.ResourceList, error) { return e.usage(obj) }

func (e *evaluator) UsageStats(o library.UsageStatsOptions) (library.UsageStats, error) {
	return generic.CalculateUsageStats(o, e.list, e.inScope, e.usage)
}

// onWrite handles creation, and updates of the object itself where these count.
func onWrite(updates bool) func(admission.Attributes) bool {
	return func(a admission.Attributes) bool {
		return a.GetSubresource() == "" && (a.GetOperation() == admission.Create || updates && a.GetOperation() == admission.Update)
	}
}

// countOf is the quota's generic name for the number of objects of gr.
func countOf(gr schema.GroupResource) corev1.ResourceName {
	return generic.ObjectCountQuotaResourceNameFor(gr)
}

func amount(n int64) resource.Quantity { return *resource.NewQuantity(n, resource.DecimalSI) }

// as reads obj as what the evaluator is for.
func as[T runtime.Object](obj runtime.Object) (T, error) {
	typed, ok := obj.(T)
	if !ok {
		return typed, fmt.Errorf("expected %T, got %T", typed, obj)
	}
	return typed, nil
}

func services(lists Lists) library.Evaluator {
	gr := corev1.Resource("services")
	names := []corev1.ResourceName{countOf(gr), corev1.ResourceServices, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers}
	return &evaluator{
		resource: gr, list: lists(gr), handles: onWrite(true), // an update may change the type
		counts: func(n corev1.ResourceName) bool { return slices.Contains(names, n) },
		usage: func(obj runtime.Object) (corev1.ResourceList, error) {
			svc, err := as[*corev1.Service](obj)
			if err != nil {
				return nil, err
			}
			return serviceUsage(svc), nil
		},
	}
}

func serviceUsage(svc *corev1.Service) corev1.ResourceList {
	nodePorts, balancers := 0, 0
	switch svc.Spec.Type {
	case corev1.ServiceTypeNodePort:
		nodePorts = len(svc.Spec.Ports)
	case corev1.ServiceTypeLoadBalancer:
		balancers, nodePorts = 1, len(svc.Spec.Ports)
		if allocate := svc.Spec.AllocateLoadBalancerNodePorts; allocate != nil && !*allocate {
			nodePorts = 0 // but for those it asks for by number
			for _, p := range svc.Spec.Ports {
				if p.NodePort != 0 {
					nodePorts++
				}
			}
		}
	}
	return corev1.ResourceList{
		countOf(corev1.Resource("services")): amount(1), corev1.ResourceServices: amount(1),
		corev1.ResourceServicesNodePorts: amount(int64(nodePorts)), corev1.ResourceServicesLoadBalancers: amount(int64(balancers)),
	}
}

// deviceSuffix ends the names under which quotas count the devices of a class.
const deviceSuffix = ".deviceclass.resource.k8s.io/devices"

func deviceClaims(lists Lists) library.Evaluator {
	gr := resourcev1.Resource("resourceclaims")
	return &evaluator{
		resource: gr, list: lists(gr), handles: onWrite(true),
		counts: func(n corev1.ResourceName) bool { return n == countOf(gr) || hasSuffix(n, deviceSuffix) },
		usage: func(obj runtime.Object) (corev1.ResourceList, error) {
			claim, err := as[*resourcev1.ResourceClaim](obj)
			if err != nil {
				return nil, err
			}
			return deviceUsage(claim), nil
		},
	}
}

// deviceUsage counts the devices that claim may get: of alternatives, the most of each class.
func deviceUsage(claim *resourcev1.ResourceClaim) corev1.ResourceList {
	number := func(mode resourcev1.DeviceAllocationMode, count int64) int64 {
		if mode == resourcev1.DeviceAllocationModeAll {
			return resourcev1.AllocationResultsMaxSize
		}
		return count
	}
	devices := map[string]int64{}
	for _, r := range claim.Spec.Devices.Requests {
		if r.Exactly != nil {
			devices[r.Exactly.DeviceClassName] += number(r.Exactly.AllocationMode, r.Exactly.Count)
			continue
		}
		most := map[string]int64{}
		for _, sub := range r.FirstAvailable {
			most[sub.DeviceClassName] = max(most[sub.DeviceClassName], number(sub.AllocationMode, sub.Count))
		}
		for class, n := range most {
			devices[class] += n
		}
	}
	used := corev1.ResourceList{countOf(resourcev1.Resource("resourceclaims")): amount(1)}
	for class, n := range devices {
		used[corev1.ResourceName(class+deviceSuffix)] = amount(n)
	}
	return used
}
