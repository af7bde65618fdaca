package admission

import (
	"context"
	"errors"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	adm "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"sigs.k8s.io/yaml"
)

// namespaceReader finds namespaces in the cache or, since that may lag behind, on the server.
type namespaceReader struct {
	namespaces corelisters.NamespaceLister
	client     kubernetes.Interface
}

func (n *namespaceReader) SetExternalKubeClientSet(c kubernetes.Interface) { n.client = c }

func (n *namespaceReader) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	n.namespaces = f.Core().V1().Namespaces().Lister()
}

func (n *namespaceReader) ValidateInitialization() error {
	if n.namespaces == nil || n.client == nil {
		return errors.New("no informers or no client")
	}
	return nil
}

func (n *namespaceReader) find(ctx context.Context, name string) (*corev1.Namespace, error) {
	if ns, err := n.namespaces.Get(name); err == nil {
		return ns, nil
	}
	return n.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
}

// inNamespace says whether a request is about something in a namespace, and not the namespace itself.
func inNamespace(a adm.Attributes) bool {
	return a.GetNamespace() != "" && a.GetResource().GroupResource() != corev1.Resource("namespaces")
}

// namespaceExists refuses requests about namespaces that are not there.
type namespaceExists struct {
	*adm.Handler
	namespaceReader
}

var (
	_ adm.ValidationInterface                      = (*namespaceExists)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*namespaceExists)(nil)
	_ initializer.WantsExternalKubeClientSet       = (*namespaceExists)(nil)
)

func newNamespaceExists() *namespaceExists {
	return &namespaceExists{Handler: adm.NewHandler(adm.Create, adm.Update, adm.Delete)}
}

func (n *namespaceExists) Validate(ctx context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	if !inNamespace(a) {
		return nil
	}
	_, err := n.find(ctx, a.GetNamespace())
	if err == nil || apierrors.IsNotFound(err) {
		return err
	}
	return apierrors.NewInternalError(err)
}

// autoProvision makes the namespace that something is created in.
type autoProvision struct {
	*adm.Handler
	namespaceReader
}

var (
	_ adm.MutationInterface                        = (*autoProvision)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*autoProvision)(nil)
	_ initializer.WantsExternalKubeClientSet       = (*autoProvision)(nil)
)

func newAutoProvision() *autoProvision { return &autoProvision{Handler: adm.NewHandler(adm.Create)} }

func (p *autoProvision) Admit(ctx context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	if a.IsDryRun() || !inNamespace(a) {
		return nil
	}
	if _, err := p.find(ctx, a.GetNamespace()); !apierrors.IsNotFound(err) {
		return err
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: a.GetNamespace()}}
	if _, err := p.client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return adm.NewForbidden(a, err)
	}
	return nil
}

const (
	nodeSelectorAnnotation = "scheduler.alpha.kubernetes.io/node-selector"
	clusterSelectorKey     = "clusterDefaultNodeSelector"
)

// podNodeSelector keeps the pods of a namespace to the nodes that its annotation selects. The configuration gives the
// selector of namespaces without one, and for each namespace what its pods may select at all.
type podNodeSelector struct {
	*adm.Handler
	namespaceReader
	selectors map[string]string
}

var (
	_ adm.MutationInterface                        = (*podNodeSelector)(nil)
	_ adm.ValidationInterface                      = (*podNodeSelector)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*podNodeSelector)(nil)
	_ initializer.WantsExternalKubeClientSet       = (*podNodeSelector)(nil)
)

// newPodNodeSelector reads a podNodeSelectorPluginConfig; nil or empty means that all is left to annotations.
func newPodNodeSelector(config io.Reader) (*podNodeSelector, error) {
	p := &podNodeSelector{Handler: adm.NewHandler(adm.Create)}
	if config == nil {
		return p, nil
	}
	text, err := io.ReadAll(config)
	if err != nil {
		return nil, fmt.Errorf("read the PodNodeSelector configuration: %w", err)
	}
	var cfg struct {
		Selectors map[string]string `json:"podNodeSelectorPluginConfig"`
	}
	if err := yaml.UnmarshalStrict(text, &cfg); err != nil {
		return nil, fmt.Errorf("read the PodNodeSelector configuration: %w", err)
	}
	for name, selector := range cfg.Selectors {
		if _, err := labels.ConvertSelectorToLabelsMap(selector); err != nil {
			return nil, fmt.Errorf("read the PodNodeSelector configuration of %s: %w", name, err)
		}
	}
	p.selectors = cfg.Selectors
	return p, nil
}

func (p *podNodeSelector) Admit(ctx context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	pod, wanted, err := p.selector(ctx, a)
	if pod == nil || err != nil {
		return err
	}
	if labels.Conflicts(wanted, labels.Set(pod.Spec.NodeSelector)) {
		return adm.NewForbidden(a, errors.New("pod node label selector conflicts with its namespace node label selector"))
	}
	pod.Spec.NodeSelector = labels.Merge(wanted, labels.Set(pod.Spec.NodeSelector))
	if len(pod.Spec.NodeSelector) == 0 {
		pod.Spec.NodeSelector = nil
	}
	return p.Validate(ctx, a, nil)
}

func (p *podNodeSelector) Validate(ctx context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	pod, wanted, err := p.selector(ctx, a)
	if pod == nil || err != nil {
		return err
	}
	if labels.Conflicts(wanted, labels.Set(pod.Spec.NodeSelector)) {
		return adm.NewForbidden(a, errors.New("pod node label selector conflicts with its namespace node label selector"))
	}
	allowed, err := labels.ConvertSelectorToLabelsMap(p.selectors[a.GetNamespace()])
	if err != nil {
		return err
	}
	for key, value := range pod.Spec.NodeSelector {
		if had, ok := allowed[key]; len(allowed) > 0 && (!ok || had != value) {
			return adm.NewForbidden(a, errors.New("pod node label selector labels conflict with its namespace whitelist"))
		}
	}
	return nil
}

// selector returns the pod of a request and what its namespace selects; the pod is nil for other requests.
func (p *podNodeSelector) selector(ctx context.Context, a adm.Attributes) (*corev1.Pod, labels.Set, error) {
	pod, ok, err := podOf(a)
	if !ok || err != nil {
		return nil, nil, err
	}
	ns, err := p.find(ctx, a.GetNamespace())
	if err != nil {
		return nil, nil, apierrors.NewInternalError(err)
	}
	text, ok := ns.Annotations[nodeSelectorAnnotation]
	if !ok {
		text = p.selectors[clusterSelectorKey]
	}
	wanted, err := labels.ConvertSelectorToLabelsMap(text)
	if err != nil {
		return nil, nil, adm.NewForbidden(a, fmt.Errorf("read the node selector of namespace %s: %w", ns.Name, err))
	}
	return pod, wanted, nil
}
