package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	adm "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	nodelisters "k8s.io/client-go/listers/node/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
)

const (
	defaultStorageAnnotation     = "storageclass.kubernetes.io/is-default-class"
	betaDefaultStorageAnnotation = "storageclass.beta.kubernetes.io/is-default-class"
	storageClassAnnotation       = "volume.beta.kubernetes.io/storage-class"
)

// defaultStorageClass gives claims that name no class the default one.
type defaultStorageClass struct {
	*adm.Handler
	caches
	classes storagelisters.StorageClassLister
}

var (
	_ adm.MutationInterface                        = (*defaultStorageClass)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*defaultStorageClass)(nil)
)

func newDefaultStorageClass() *defaultStorageClass {
	return &defaultStorageClass{Handler: adm.NewHandler(adm.Create)}
}

func (d *defaultStorageClass) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	i := f.Storage().V1().StorageClasses()
	d.classes, d.synced = i.Lister(), append(d.synced, i.Informer().HasSynced)
}

func (d *defaultStorageClass) ValidateInitialization() error {
	if d.classes == nil {
		return errors.New("DefaultStorageClass: no informers")
	}
	return nil
}

func (d *defaultStorageClass) Admit(ctx context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("persistentvolumeclaims") || a.GetSubresource() != "" {
		return nil
	}
	pvc, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	if !ok {
		return adm.NewForbidden(a, errUnexpected(a.GetObject()))
	}
	if _, old := pvc.Annotations[storageClassAnnotation]; old || pvc.Spec.StorageClassName != nil {
		return nil // "" is a choice too: no class at all
	}
	if err := d.wait(ctx, a); err != nil {
		return err
	}
	all, err := d.classes.List(labels.Everything())
	if err != nil {
		return adm.NewForbidden(a, fmt.Errorf("find the default storage class: %w", err))
	}
	all = slices.DeleteFunc(slices.Clone(all), func(c *storagev1.StorageClass) bool {
		return c.Annotations[defaultStorageAnnotation] != "true" && c.Annotations[betaDefaultStorageAnnotation] != "true"
	})
	if c := newest(all); c != nil {
		pvc.Spec.StorageClassName = &c.Name
	}
	return nil
}

// defaultIngressClass gives ingresses that name no class the default one.
type defaultIngressClass struct {
	*adm.Handler
	caches
	classes networkinglisters.IngressClassLister
}

var (
	_ adm.MutationInterface                        = (*defaultIngressClass)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*defaultIngressClass)(nil)
)

func newDefaultIngressClass() *defaultIngressClass {
	return &defaultIngressClass{Handler: adm.NewHandler(adm.Create)}
}

func (d *defaultIngressClass) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	i := f.Networking().V1().IngressClasses()
	d.classes, d.synced = i.Lister(), append(d.synced, i.Informer().HasSynced)
}

func (d *defaultIngressClass) ValidateInitialization() error {
	if d.classes == nil {
		return errors.New("DefaultIngressClass: no informers")
	}
	return nil
}

func (d *defaultIngressClass) Admit(ctx context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != networkingv1.Resource("ingresses") || a.GetSubresource() != "" {
		return nil
	}
	ingress, ok := a.GetObject().(*networkingv1.Ingress)
	if !ok {
		return adm.NewForbidden(a, errUnexpected(a.GetObject()))
	}
	if ingress.Spec.IngressClassName != nil || ingress.Annotations["kubernetes.io/ingress.class"] != "" {
		return nil
	}
	if err := d.wait(ctx, a); err != nil {
		return err
	}
	all, err := d.classes.List(labels.Everything())
	if err != nil {
		return adm.NewForbidden(a, fmt.Errorf("find the default ingress class: %w", err))
	}
	all = slices.DeleteFunc(slices.Clone(all), func(c *networkingv1.IngressClass) bool {
		return c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] != "true"
	})
	if c := newest(all); c != nil {
		ingress.Spec.IngressClassName = &c.Name
	}
	return nil
}

// newest returns the object made last; of several made in one second the first by name, so that all servers agree.
func newest[T metav1.Object](all []T) (found T) {
	for i, o := range all {
		was, is := found, o
		if i == 0 || is.GetCreationTimestamp().After(was.GetCreationTimestamp().Time) ||
			is.GetCreationTimestamp().Time.Equal(was.GetCreationTimestamp().Time) && is.GetName() < was.GetName() {
			found = o
		}
	}
	return found
}

// runtimeClass brings what a runtime class says about overhead and nodes into its pods.
type runtimeClass struct {
	*adm.Handler
	classes nodelisters.RuntimeClassLister
	client  kubernetes.Interface
}

var (
	_ adm.MutationInterface                        = (*runtimeClass)(nil)
	_ adm.ValidationInterface                      = (*runtimeClass)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*runtimeClass)(nil)
	_ initializer.WantsExternalKubeClientSet       = (*runtimeClass)(nil)
)

func newRuntimeClass() *runtimeClass { return &runtimeClass{Handler: adm.NewHandler(adm.Create)} }

func (r *runtimeClass) SetExternalKubeClientSet(c kubernetes.Interface) { r.client = c }

func (r *runtimeClass) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	r.classes = f.Node().V1().RuntimeClasses().Lister()
}

func (r *runtimeClass) ValidateInitialization() error {
	if r.classes == nil || r.client == nil {
		return errors.New("RuntimeClass: no informers or no client")
	}
	return nil
}

func (r *runtimeClass) class(ctx context.Context, a adm.Attributes, pod *corev1.Pod) (*nodev1.RuntimeClass, error) {
	if pod.Spec.RuntimeClassName == nil {
		return nil, nil
	}
	name := *pod.Spec.RuntimeClassName
	class, err := r.classes.Get(name)
	if apierrors.IsNotFound(err) {
		class, err = r.client.NodeV1().RuntimeClasses().Get(ctx, name, metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) {
		return nil, adm.NewForbidden(a, fmt.Errorf("pod rejected: RuntimeClass %q not found", name))
	}
	if err != nil {
		return nil, adm.NewForbidden(a, fmt.Errorf("find RuntimeClass %s: %w", name, err))
	}
	return class, nil
}

func (r *runtimeClass) Admit(ctx context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	pod, ok, err := podOf(a)
	if !ok || err != nil {
		return err
	}
	class, err := r.class(ctx, a, pod)
	if class == nil || err != nil {
		return err
	}
	if class.Overhead != nil {
		if pod.Spec.Overhead != nil && !equal(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return adm.NewForbidden(a, errors.New("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
		}
		pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
	}
	if s := class.Scheduling; s != nil {
		for k, v := range s.NodeSelector {
			if had, ok := pod.Spec.NodeSelector[k]; ok && had != v {
				return adm.NewForbidden(a, fmt.Errorf("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", k, v, k, had))
			}
			if pod.Spec.NodeSelector == nil {
				pod.Spec.NodeSelector = map[string]string{}
			}
			pod.Spec.NodeSelector[k] = v
		}
		for _, t := range s.Tolerations {
			if !slices.ContainsFunc(pod.Spec.Tolerations, func(had corev1.Toleration) bool { return equal(had, t) }) {
				pod.Spec.Tolerations = append(pod.Spec.Tolerations, *t.DeepCopy())
			}
		}
	}
	return nil
}

func (r *runtimeClass) Validate(ctx context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	pod, ok, err := podOf(a)
	if !ok || err != nil {
		return err
	}
	class, err := r.class(ctx, a, pod)
	if err != nil {
		return err
	}
	if pod.Spec.Overhead != nil && (class == nil || class.Overhead == nil || !equal(class.Overhead.PodFixed, pod.Spec.Overhead)) {
		return adm.NewForbidden(a, errors.New("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
	}
	return nil
}

// podTopology tells a pod where its node stands, by the labels of the binding that puts it there.
type podTopology struct {
	*adm.Handler
	nodes  corelisters.NodeLister
	client kubernetes.Interface
}

var (
	_ adm.MutationInterface                        = (*podTopology)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*podTopology)(nil)
	_ initializer.WantsExternalKubeClientSet       = (*podTopology)(nil)
)

func newPodTopology() *podTopology { return &podTopology{Handler: adm.NewHandler(adm.Create)} }

func (p *podTopology) SetExternalKubeClientSet(c kubernetes.Interface) { p.client = c }

func (p *podTopology) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	p.nodes = f.Core().V1().Nodes().Lister()
}

func (p *podTopology) ValidateInitialization() error {
	if p.nodes == nil || p.client == nil {
		return errors.New("PodTopologyLabels: no informers or no client")
	}
	return nil
}

func (p *podTopology) Admit(ctx context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("pods") {
		return nil
	}
	var meta *metav1.ObjectMeta
	node := ""
	switch o := a.GetObject().(type) {
	case *corev1.Binding:
		if a.GetSubresource() != "binding" || o.Target.Kind != "" && o.Target.Kind != "Node" {
			return nil
		}
		meta, node = &o.ObjectMeta, o.Target.Name
	case *corev1.Pod:
		if a.GetSubresource() != "" {
			return nil
		}
		meta, node = &o.ObjectMeta, o.Spec.NodeName
	default:
		return nil
	}
	if node == "" {
		return nil
	}
	found, err := p.nodes.Get(node)
	if apierrors.IsNotFound(err) {
		found, err = p.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) {
		return nil // a pod may be bound before its node joins
	}
	if err != nil {
		return adm.NewForbidden(a, fmt.Errorf("find node %s: %w", node, err))
	}
	for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
		value, ok := found.Labels[key]
		if !ok {
			continue
		}
		if meta.Labels == nil {
			meta.Labels = map[string]string{}
		}
		meta.Labels[key] = value
	}
	return nil
}
