package admission

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	adm "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	podresources "k8s.io/component-helpers/resource"
)

const limitRangerAnnotation = "kubernetes.io/limit-ranger"

// limitRanger fills in a namespace's default requests and limits, and holds pods and claims to its bounds.
type limitRanger struct {
	*adm.Handler
	caches
	ranges corelisters.LimitRangeLister
}

var (
	_ adm.MutationInterface                        = (*limitRanger)(nil)
	_ adm.ValidationInterface                      = (*limitRanger)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*limitRanger)(nil)
)

func newLimitRanger() *limitRanger {
	return &limitRanger{Handler: adm.NewHandler(adm.Create, adm.Update)}
}

func (l *limitRanger) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	i := f.Core().V1().LimitRanges()
	l.ranges, l.synced = i.Lister(), append(l.synced, i.Informer().HasSynced)
}

func (l *limitRanger) ValidateInitialization() error {
	if l.ranges == nil {
		return errors.New("LimitRanger: no informers")
	}
	return nil
}

// limits lists the namespace's limits as the cache has them: a new LimitRange holds for pods made some milliseconds after
// it. Asking the server would cost every pod of a namespace without limits a request.
func (l *limitRanger) limits(ctx context.Context, a adm.Attributes) ([]corev1.LimitRangeItem, error) {
	if err := l.wait(ctx, a); err != nil {
		return nil, err
	}
	all, err := l.ranges.LimitRanges(a.GetNamespace()).List(labels.Everything())
	if err != nil {
		return nil, adm.NewForbidden(a, fmt.Errorf("unable to %s %v at this time because there was an error enforcing limit ranges", a.GetOperation(), a.GetResource()))
	}
	var items []corev1.LimitRangeItem
	for _, r := range all {
		items = append(items, r.Spec.Limits...)
	}
	return items, nil
}

// Admit fills in defaults when a pod is made; what a pod asks for is fixed then.
func (l *limitRanger) Admit(ctx context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	pod, ok, err := podOf(a)
	if !ok || err != nil || a.GetOperation() != adm.Create {
		return err
	}
	limits, err := l.limits(ctx, a)
	if err != nil {
		return err
	}
	if notes := applyLimitDefaults(pod, limits); len(notes) > 0 {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[limitRangerAnnotation] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
	}
	return nil
}

func (l *limitRanger) Validate(ctx context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	var check func([]corev1.LimitRangeItem) error
	switch o := a.GetObject().(type) {
	case *corev1.Pod:
		if a.GetSubresource() != "" && a.GetSubresource() != "resize" || a.GetSubresource() == "" && a.GetOperation() != adm.Create {
			return nil
		}
		check = func(limits []corev1.LimitRangeItem) error { return checkPodLimits(o, limits) }
	case *corev1.PersistentVolumeClaim:
		if a.GetSubresource() != "" {
			return nil
		}
		check = func(limits []corev1.LimitRangeItem) error { return checkClaimLimits(o, limits) }
	default:
		return nil
	}
	limits, err := l.limits(ctx, a)
	if err != nil {
		return err
	}
	if err := check(limits); err != nil {
		return adm.NewForbidden(a, err)
	}
	return nil
}

// applyLimitDefaults fills in what containers leave open and says what it did.
func applyLimitDefaults(pod *corev1.Pod, limits []corev1.LimitRangeItem) []string {
	requests, bounds := corev1.ResourceList{}, corev1.ResourceList{}
	for _, l := range limits {
		if l.Type != corev1.LimitTypeContainer {
			continue
		}
		for name, q := range l.DefaultRequest {
			requests[name] = q.DeepCopy()
		}
		for name, q := range l.Default {
			bounds[name] = q.DeepCopy()
		}
	}
	var notes []string
	apply := func(what string, c *corev1.Container) {
		if set := fill(&c.Resources.Requests, requests); len(set) > 0 {
			notes = append(notes, fmt.Sprintf("%s request for %s %s", strings.Join(set, ", "), what, c.Name))
		}
		if set := fill(&c.Resources.Limits, bounds); len(set) > 0 {
			notes = append(notes, fmt.Sprintf("%s limit for %s %s", strings.Join(set, ", "), what, c.Name))
		}
	}
	for i := range pod.Spec.Containers {
		apply("container", &pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		apply("init container", &pod.Spec.InitContainers[i])
	}
	return notes
}

func fill(into *corev1.ResourceList, defaults corev1.ResourceList) []string {
	var set []string
	for name, q := range defaults {
		if _, ok := (*into)[name]; ok {
			continue
		}
		if *into == nil {
			*into = corev1.ResourceList{}
		}
		(*into)[name] = q.DeepCopy()
		set = append(set, string(name))
	}
	slices.Sort(set)
	return set
}

func checkPodLimits(pod *corev1.Pod, limits []corev1.LimitRangeItem) error {
	var errs []error
	for _, l := range limits {
		switch l.Type {
		case corev1.LimitTypeContainer:
			for _, cs := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
				for _, c := range cs {
					errs = append(errs, checkBounds(l, c.Resources.Requests, c.Resources.Limits)...)
				}
			}
		case corev1.LimitTypePod:
			// The runtime's overhead is no choice of who makes the pod.
			opts := podresources.PodResourcesOptions{ExcludeOverhead: true}
			errs = append(errs, checkBounds(l, podresources.PodRequests(pod, opts), podresources.PodLimits(pod, opts))...)
		}
	}
	return utilerrors.NewAggregate(errs)
}

func checkClaimLimits(pvc *corev1.PersistentVolumeClaim, limits []corev1.LimitRangeItem) error {
	var errs []error
	for _, l := range limits {
		if l.Type != corev1.LimitTypePersistentVolumeClaim {
			continue
		}
		// A claim has no limit of its own: what it asks for is what it gets.
		b := bound{kind: l.Type, requests: pvc.Spec.Resources.Requests}
		errs = append(errs, each(l.Min, b.requestAtLeast)...)
		errs = append(errs, each(l.Max, b.requestAtMost)...)
	}
	return utilerrors.NewAggregate(errs)
}

func checkBounds(l corev1.LimitRangeItem, requests, limits corev1.ResourceList) []error {
	b := bound{l.Type, requests, limits}
	return slices.Concat(each(l.Min, b.atLeast), each(l.Max, b.atMost), each(l.MaxLimitRequestRatio, b.ratio))
}

// each asks check about every resource, in the order of their names.
func each(bounds corev1.ResourceList, check func(corev1.ResourceName, resource.Quantity) error) []error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(bounds)) {
		if err := check(name, bounds[name]); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// bound compares what one container, pod or claim asks for with one bound.
type bound struct {
	kind             corev1.LimitType
	requests, limits corev1.ResourceList
}

func (b bound) requestAtLeast(name corev1.ResourceName, low resource.Quantity) error {
	request, ok := b.requests[name]
	if !ok {
		return fmt.Errorf("minimum %s usage per %s is %s.  No request is specified", name, b.kind, low.String())
	}
	if request.Cmp(low) < 0 {
		return fmt.Errorf("minimum %s usage per %s is %s, but request is %s", name, b.kind, low.String(), request.String())
	}
	return nil
}

func (b bound) requestAtMost(name corev1.ResourceName, high resource.Quantity) error {
	request, ok := b.requests[name]
	if !ok {
		return fmt.Errorf("maximum %s usage per %s is %s.  No request is specified", name, b.kind, high.String())
	}
	if request.Cmp(high) > 0 {
		return fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, b.kind, high.String(), request.String())
	}
	return nil
}

func (b bound) atLeast(name corev1.ResourceName, low resource.Quantity) error {
	if err := b.requestAtLeast(name, low); err != nil {
		return err
	}
	if limit, ok := b.limits[name]; ok && limit.Cmp(low) < 0 {
		return fmt.Errorf("minimum %s usage per %s is %s, but limit is %s", name, b.kind, low.String(), limit.String())
	}
	return nil
}

func (b bound) atMost(name corev1.ResourceName, high resource.Quantity) error {
	limit, ok := b.limits[name]
	if !ok {
		return fmt.Errorf("maximum %s usage per %s is %s.  No limit is specified", name, b.kind, high.String())
	}
	if limit.Cmp(high) > 0 {
		return fmt.Errorf("maximum %s usage per %s is %s, but limit is %s", name, b.kind, high.String(), limit.String())
	}
	if request, ok := b.requests[name]; ok && request.Cmp(high) > 0 {
		return fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, b.kind, high.String(), request.String())
	}
	return nil
}

func (b bound) ratio(name corev1.ResourceName, most resource.Quantity) error {
	request, limit := b.requests[name], b.limits[name]
	if request.IsZero() {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", name, b.kind, most.String())
	}
	if limit.IsZero() {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no limit is specified or limit is 0", name, b.kind, most.String())
	}
	if ratio := limit.AsApproximateFloat64() / request.AsApproximateFloat64(); ratio > most.AsApproximateFloat64() {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but provided ratio is %f", name, b.kind, most.String(), ratio)
	}
	return nil
}
