package pods

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/client-go/util/retry"

	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
)

// maxDisrupted bounds the pods that a budget may await the end of: a controller that has stopped must not make the
// object grow for ever.
const maxDisrupted = 2000

// Eviction serves pods/eviction: a delete that asks the pod's disruption budget first.
type Eviction struct {
	pods, budgets *store.Storage
	budgetStatus  *store.Subresource
	podStatus     *store.Subresource
}

// NewEviction returns pods/eviction over the storages of pods and of poddisruptionbudgets.
func NewEviction(pods, budgets *store.Storage) *Eviction {
	return &Eviction{pods, budgets, budgets.Status(), pods.Status()}
}

func (e *Eviction) New() runtime.Object { return &policyv1.Eviction{} }

// Destroy does nothing: the stores belong to pods and budgets.
func (e *Eviction) Destroy() {}

// GroupVersionKind tells the endpoints that an Eviction is of another group than pods.
func (e *Eviction) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return policyv1.SchemeGroupVersion.WithKind("Eviction")
}

func (e *Eviction) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, o *metav1.CreateOptions) (runtime.Object, error) {
	eviction, ok := obj.(*policyv1.Eviction)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Eviction object: %T", obj))
	}
	if eviction.Name != name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	if validate != nil {
		if err := validate(ctx, eviction.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	options := metav1.NewDeleteOptions(0)
	options.GracePeriodSeconds = nil
	if eviction.DeleteOptions != nil {
		options = eviction.DeleteOptions.DeepCopy()
	}
	if dryrun.IsDryRun(o.DryRun) {
		if len(options.DryRun) > 0 && !slices.Equal(options.DryRun, o.DryRun) {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("Non-matching dry-run options in request and content: %v and %v", o.DryRun, options.DryRun))
		}
		options.DryRun = o.DryRun
	}
	pinned := options.Preconditions != nil && options.Preconditions.ResourceVersion != nil
	err := retry.OnError(retry.DefaultRetry, func(err error) bool { return apierrors.IsConflict(err) && !pinned }, func() error {
		return e.evict(ctx, name, options.DeepCopy())
	})
	if err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

func (e *Eviction) evict(ctx context.Context, name string, options *metav1.DeleteOptions) error {
	pod, err := e.get(ctx, name)
	if err != nil {
		return err
	}
	// Before the budget is asked: a pod that is not the one meant must cost it nothing.
	if err := mustBe(pod, options.Preconditions); err != nil {
		return err
	}
	if err := e.allow(ctx, pod, options); err != nil {
		return err
	}
	if err := e.mark(ctx, name, options); err != nil {
		return err
	}
	_, _, err = e.pods.Delete(ctx, name, rest.ValidateAllObjectFunc, options)
	return err
}

// mustBe compares pod with what the client demands of it.
func mustBe(pod *corev1.Pod, p *metav1.Preconditions) error {
	gr := schema.GroupResource{Resource: "pods"}
	switch {
	case p == nil:
	case p.UID != nil && *p.UID != pod.UID:
		return apierrors.NewConflict(gr, pod.Name, fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *p.UID, pod.UID))
	case p.ResourceVersion != nil && *p.ResourceVersion != pod.ResourceVersion:
		return apierrors.NewConflict(gr, pod.Name,
			fmt.Errorf("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", *p.ResourceVersion, pod.ResourceVersion))
	}
	return nil
}

// pin makes the deletion one of pod as it is: what was judged of it must still hold when it goes.
func pin(pod *corev1.Pod, options *metav1.DeleteOptions) {
	if options.Preconditions == nil {
		options.Preconditions = &metav1.Preconditions{}
	}
	options.Preconditions.ResourceVersion = &pod.ResourceVersion
}

func (e *Eviction) get(ctx context.Context, name string) (*corev1.Pod, error) {
	obj, err := e.pods.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Pod), nil
}

// allow asks the budget of pod, and takes one disruption from it. It returns nil for a pod that counts for nothing.
func (e *Eviction) allow(ctx context.Context, pod *corev1.Pod, options *metav1.DeleteOptions) error {
	if ignoresBudget(pod) {
		if pod.Status.Phase == corev1.PodPending && pod.DeletionTimestamp == nil {
			pin(pod, options) // it must not have started meanwhile
		}
		return nil
	}
	budgets, err := e.matching(ctx, pod)
	if err != nil {
		return err
	}
	switch len(budgets) {
	case 0:
		return nil
	case 1:
	default:
		return apierrors.NewInternalError(errors.New("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."))
	}
	budget := &budgets[0]
	if !ready(pod) && unhealthyMayGo(budget) {
		pin(pod, options)
		return nil
	}
	return e.take(ctx, pod.Name, budget.Name, options)
}

// ignoresBudget says that pod is no healthy pod in the sense of any budget.
func ignoresBudget(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed ||
		pod.Status.Phase == corev1.PodPending || pod.DeletionTimestamp != nil
}

func ready(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// unhealthyMayGo says whether a pod that is not ready may be evicted without asking budget.
func unhealthyMayGo(budget *policyv1.PodDisruptionBudget) bool {
	if p := budget.Spec.UnhealthyPodEvictionPolicy; p != nil && *p == policyv1.AlwaysAllow {
		return true
	}
	return budget.Status.CurrentHealthy >= budget.Status.DesiredHealthy && budget.Status.DesiredHealthy > 0
}

func (e *Eviction) matching(ctx context.Context, pod *corev1.Pod) ([]policyv1.PodDisruptionBudget, error) {
	ctx = request.WithNamespace(ctx, pod.Namespace)
	obj, err := e.budgets.List(ctx, &internalversion.ListOptions{})
	if err != nil {
		return nil, err
	}
	var out []policyv1.PodDisruptionBudget
	for _, b := range obj.(*policyv1.PodDisruptionBudgetList).Items {
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err == nil && selector.Matches(labels.Set(pod.Labels)) {
			out = append(out, b)
		}
	}
	return out, nil
}

// take counts the disruption in the budget's status, so that no other eviction can use it too.
func (e *Eviction) take(ctx context.Context, pod, budget string, options *metav1.DeleteOptions) error {
	update := func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
		b := old.DeepCopyObject().(*policyv1.PodDisruptionBudget)
		return b, spend(b, pod, metav1.Now())
	}
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		_, _, err := e.budgetStatus.Update(ctx, budget, rest.DefaultUpdatedObjectInfo(nil, update), rest.ValidateAllObjectFunc,
			rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{DryRun: options.DryRun})
		return err
	})
}

// spend takes one disruption from the budget for pod, or says why it has none.
func spend(b *policyv1.PodDisruptionBudget, pod string, now metav1.Time) error {
	s := &b.Status
	switch {
	case s.ObservedGeneration < b.Generation:
		return tooMany("The disruption budget %s is still being processed by the server.", 10, b.Name)
	case s.DisruptionsAllowed < 0:
		return apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), b.Name, errors.New("pdb disruptions allowed is negative"))
	case len(s.DisruptedPods) > maxDisrupted:
		return apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), b.Name, errors.New("DisruptedPods map too big - too many evictions not confirmed by PDB controller"))
	case s.DisruptionsAllowed == 0:
		if c := meta.FindStatusCondition(s.Conditions, policyv1.DisruptionAllowedCondition); c != nil && c.Reason == policyv1.SyncFailedReason {
			return tooMany("The disruption budget %s does not allow evicting pods currently because it failed sync: %s", 0, b.Name, c.Message)
		}
		return tooMany("The disruption budget %s needs %d healthy pods and has %d currently", 0, b.Name, s.DesiredHealthy, s.CurrentHealthy)
	}
	s.DisruptionsAllowed--
	if s.DisruptedPods == nil {
		s.DisruptedPods = map[string]metav1.Time{}
	}
	s.DisruptedPods[pod] = now
	return nil
}

func tooMany(cause string, retryAfter int, args ...any) error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", retryAfter)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes,
		metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: fmt.Sprintf(cause, args...)})
	return err
}

// mark writes into the pod's status why it goes. Job controllers count such an end differently.
func (e *Eviction) mark(ctx context.Context, name string, options *metav1.DeleteOptions) error {
	update := func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
		pod := old.DeepCopyObject().(*corev1.Pod)
		if p := options.Preconditions; p != nil && p.ResourceVersion != nil && *p.ResourceVersion != pod.ResourceVersion {
			return nil, apierrors.NewConflict(schema.GroupResource{Resource: "pods"}, name, errors.New("the pod changed while it was being evicted"))
		}
		setDisrupted(pod, time.Now())
		return pod, nil
	}
	obj, _, err := e.podStatus.Update(ctx, name, rest.DefaultUpdatedObjectInfo(nil, update), rest.ValidateAllObjectFunc,
		rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{DryRun: options.DryRun})
	if err != nil {
		return err
	}
	if options.Preconditions != nil && options.Preconditions.ResourceVersion != nil {
		version := obj.(*corev1.Pod).ResourceVersion
		options.Preconditions.ResourceVersion = &version
	}
	return nil
}

func setDisrupted(pod *corev1.Pod, now time.Time) {
	c := corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI",
		Message: "Eviction API: evicting", LastTransitionTime: metav1.NewTime(now), ObservedGeneration: pod.Generation,
	}
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == c.Type {
			pod.Status.Conditions[i] = c
			return
		}
	}
	pod.Status.Conditions = append(pod.Status.Conditions, c)
}

var _ rest.NamedCreater = &Eviction{}
