package admission

import (
	"context"
	"errors"
	"fmt"
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
			opts := podresources.PodResourcesOptions{}
			errs = append(errs, checkBounds(l, podresources.PodRequests(pod, opts), podresources.PodLimits(pod, opts))...)
		}
	}
	return utilerrors.NewAggregate(errs)
}

func checkClaimLimits(pvc *corev1.PersistentVolumeClaim, limits []corev1.LimitRangeItem) error {
	var errs []error
	for _, l := range limits {
		if l.Type == corev1.LimitTypePersistentVolumeClaim {
			// A claim has no limit of its own: what it asks for is what it gets.
			errs = append(errs, checkBounds(l, pvc.Spec.Resources.Requests, pvc.Spec.Resources.Requests)...)
		}
	}
	return utilerrors.NewAggregate(errs)
}

func checkBounds(l corev1.LimitRangeItem, requests, limits corev1.ResourceList) []error {
	var errs []error
	each := func(bounds corev1.ResourceList, f func(corev1.ResourceName, resource.Quantity) error) {
		for name, q := range bounds {
			if err := f(name, q); err != nil {
				errs = append(errs, err)
			}
		}
	}
	each(l.Min, func(name corev1.ResourceName, low resource.Quantity) error {
		request, ok := requests[name]
		if !ok {
			return fmt.Errorf("minimum %s usage per %s is %s.  No request is specified", name, l.Type, low.String())
		}
		if request.Cmp(low) < 0 {
			return fmt.Errorf("minimum %s usage per %s is %s, but request is %s", name, l.Type, low.String(), request.String())
		}
		if limit, ok := limits[name]; ok && limit.Cmp(low) < 0 {
			return fmt.Errorf("minimum %s usage per %s is %s, but limit is %s", name, l.Type, low.String(), limit.String())
		}
		return nil
	})
	each(l.Max, func(name corev1.ResourceName, high resource.Quantity) error {
		limit, ok := limits[name]
		if !ok {
			return fmt.Errorf("maximum %s usage per %s is %s.  No limit is specified", name, l.Type, high.String())
		}
		if limit.Cmp(high) > 0 {
			return fmt.Errorf("maximum %s usage per %s is %s, but limit is %s", name, l.Type, high.String(), limit.String())
		}
		if request, ok := requests[name]; ok && request.Cmp(high) > 0 {
			return fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, l.Type, high.String(), request.String())
		}
		return nil
	})
	each(l.MaxLimitRequestRatio, func(name corev1.ResourceName, most resource.Quantity) error {
		request, ok1 := requests[name]
		limit, ok2 := limits[name]
		if !ok1 || request.IsZero() || !ok2 || limit.IsZero() {
			return fmt.Errorf("%s max limit to request ratio per %s is %s, but no request or limit is specified or it is 0", name, l.Type, most.String())
		}
		if ratio := limit.AsApproximateFloat64() / request.AsApproximateFloat64(); ratio > most.AsApproximateFloat64() {
			return fmt.Errorf("%s max limit to request ratio per %s is %s, but provided ratio is %f", name, l.Type, most.String(), ratio)
		}
		return nil
	})
	return errs
}
