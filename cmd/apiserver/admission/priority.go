package admission

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	adm "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	schedulinglisters "k8s.io/client-go/listers/scheduling/v1"
)

// priority turns a pod's priority class into the number that the scheduler goes by.
type priority struct {
	*adm.Handler
	caches
	client  kubernetes.Interface
	classes schedulinglisters.PriorityClassLister
}

var (
	_ adm.MutationInterface                        = (*priority)(nil)
	_ adm.ValidationInterface                      = (*priority)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*priority)(nil)
	_ initializer.WantsExternalKubeClientSet       = (*priority)(nil)
)

func newPriority() *priority {
	return &priority{Handler: adm.NewHandler(adm.Create, adm.Update, adm.Delete)}
}

func (p *priority) SetExternalKubeClientSet(c kubernetes.Interface) { p.client = c }

func (p *priority) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	informer := f.Scheduling().V1().PriorityClasses()
	p.classes = informer.Lister()
	p.synced = append(p.synced, informer.Informer().HasSynced)
}

func (p *priority) ValidateInitialization() error {
	if p.classes == nil || p.client == nil {
		return errors.New("Priority: no informers or no client")
	}
	return nil
}

// Admit fills in priority and preemption policy.
func (p *priority) Admit(ctx context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	pod, ok, err := podOf(a)
	if !ok || err != nil {
		return err
	}
	switch a.GetOperation() {
	case adm.Update:
		// A client that does not know the fields must not unset them.
		if old, ok := a.GetOldObject().(*corev1.Pod); ok {
			if pod.Spec.Priority == nil {
				pod.Spec.Priority = old.Spec.Priority
			}
			if pod.Spec.PreemptionPolicy == nil {
				pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
			}
		}
		return nil
	case adm.Create:
		class, err := p.classFor(ctx, a, pod.Spec.PriorityClassName)
		if err != nil {
			return err
		}
		return setPriority(a, pod, class)
	}
	return nil
}

// classFor returns the class that a pod gets; one without a name stands for "no class at all".
func (p *priority) classFor(ctx context.Context, a adm.Attributes, name string) (*schedulingv1.PriorityClass, error) {
	lower := corev1.PreemptLowerPriority
	// The pods that bring a cluster up may be mirrored before the server has made its two classes.
	switch name {
	case "system-node-critical":
		return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: 2000001000, PreemptionPolicy: &lower}, nil
	case "system-cluster-critical":
		return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: 2000000000, PreemptionPolicy: &lower}, nil
	}
	if err := p.wait(ctx, a); err != nil {
		return nil, err
	}
	if name == "" {
		class, err := p.defaultClass()
		if err != nil {
			return nil, adm.NewForbidden(a, fmt.Errorf("find the default priority class: %w", err))
		}
		return class, nil
	}
	class, err := p.classes.Get(name)
	if apierrors.IsNotFound(err) {
		class, err = p.client.SchedulingV1().PriorityClasses().Get(ctx, name, metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) {
		return nil, adm.NewForbidden(a, fmt.Errorf("no PriorityClass with name %v was found", name))
	}
	if err != nil {
		return nil, adm.NewForbidden(a, fmt.Errorf("find PriorityClass %s: %w", name, err))
	}
	return class, nil
}

// defaultClass is the lowest of the classes marked as default: there should be one, but two can be made at once.
func (p *priority) defaultClass() (*schedulingv1.PriorityClass, error) {
	all, err := p.classes.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var found *schedulingv1.PriorityClass
	for _, c := range all {
		if c.GlobalDefault && (found == nil || c.Value < found.Value) {
			found = c
		}
	}
	if found == nil {
		return new(schedulingv1.PriorityClass), nil
	}
	return found, nil
}

// setPriority refuses a number that the pod claims without its class giving it.
func setPriority(a adm.Attributes, pod *corev1.Pod, class *schedulingv1.PriorityClass) error {
	if pod.Spec.Priority != nil && *pod.Spec.Priority != class.Value {
		return adm.NewForbidden(a, fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *pod.Spec.Priority, class.Value))
	}
	policy := corev1.PreemptLowerPriority
	if class.PreemptionPolicy != nil {
		policy = *class.PreemptionPolicy
	}
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy != policy {
		return adm.NewForbidden(a, fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *pod.Spec.PreemptionPolicy, policy))
	}
	value := class.Value
	pod.Spec.Priority, pod.Spec.PreemptionPolicy = &value, &policy
	pod.Spec.PriorityClassName = class.Name
	return nil
}

// Validate keeps the default class the only one.
func (p *priority) Validate(ctx context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != schedulingv1.Resource("priorityclasses") || a.GetSubresource() != "" || a.GetOperation() == adm.Delete {
		return nil
	}
	class, ok := a.GetObject().(*schedulingv1.PriorityClass)
	if !ok {
		return adm.NewForbidden(a, errUnexpected(a.GetObject()))
	}
	if !class.GlobalDefault {
		return nil
	}
	if err := p.wait(ctx, a); err != nil {
		return err
	}
	all, err := p.classes.List(labels.Everything())
	if err != nil {
		return adm.NewForbidden(a, fmt.Errorf("find the default priority class: %w", err))
	}
	for _, c := range all {
		if c.GlobalDefault && c.Name != class.Name {
			return adm.NewForbidden(a, fmt.Errorf("PriorityClass %v is already marked as default. Only one default can exist", c.Name))
		}
	}
	return nil
}

func errUnexpected(obj runtime.Object) error { return fmt.Errorf("unexpected type %T", obj) }
