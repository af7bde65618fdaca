package admission

import (
	"context"
	"errors"
	"fmt"
	"io"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	adm "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	componentmetrics "k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	podsecurity "k8s.io/pod-security-admission/admission"
	"k8s.io/pod-security-admission/admission/api/load"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/metrics"
	"k8s.io/pod-security-admission/policy"
)

// podSecurity holds pods to the level (privileged, baseline, restricted) that their namespace's labels ask for. The
// judging is the published library's; this is its seat in the API server.
type podSecurity struct {
	*adm.Handler
	caches
	judge      *podsecurity.Admission
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister
	pods       corelisters.PodLister
}

var (
	_ adm.ValidationInterface                      = (*podSecurity)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*podSecurity)(nil)
	_ initializer.WantsExternalKubeClientSet       = (*podSecurity)(nil)
)

// newRecorder counts decisions for /metrics, which shows the first recorder of a process: only tests make more.
func newRecorder() *metrics.PrometheusRecorder {
	r := metrics.NewPrometheusRecorder(api.GetAPIVersion())
	r.MustRegister(func(counters ...componentmetrics.Registerable) {
		for _, c := range counters {
			// A second one changes nothing.
			_ = legacyregistry.Register(c)
		}
	})
	return r
}

// newPodSecurity reads a PodSecurityConfiguration; nil or empty means upstream's defaults: all namespaces privileged.
func newPodSecurity(config io.Reader) (*podSecurity, error) {
	cfg, err := load.LoadFromReader(config)
	if err != nil {
		return nil, fmt.Errorf("read the PodSecurity configuration: %w", err)
	}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return nil, fmt.Errorf("set up PodSecurity checks: %w", err)
	}
	return &podSecurity{
		Handler: adm.NewHandler(adm.Create, adm.Update),
		judge: &podsecurity.Admission{
			Configuration:    cfg,
			Evaluator:        evaluator,
			Metrics:          newRecorder(),
			PodSpecExtractor: podsecurity.DefaultPodSpecExtractor{},
		},
	}, nil
}

func (p *podSecurity) SetExternalKubeClientSet(c kubernetes.Interface) { p.client = c }

func (p *podSecurity) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	namespaces, pods := f.Core().V1().Namespaces(), f.Core().V1().Pods()
	p.namespaces, p.pods = namespaces.Lister(), pods.Lister()
	p.synced = append(p.synced, namespaces.Informer().HasSynced, pods.Informer().HasSynced)
}

func (p *podSecurity) ValidateInitialization() error {
	if p.client == nil || p.namespaces == nil {
		return errors.New("PodSecurity: no informers or no client")
	}
	p.judge.NamespaceGetter, p.judge.PodLister = p, p
	if err := p.judge.CompleteConfiguration(); err != nil {
		return fmt.Errorf("complete the PodSecurity configuration: %w", err)
	}
	return p.judge.ValidateConfiguration()
}

// GetNamespace is asked for by the library.
func (p *podSecurity) GetNamespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	if ns, err := p.namespaces.Get(name); err == nil {
		return ns, nil
	}
	return p.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
}

// ListPods is asked for by the library, when a namespace's level rises.
func (p *podSecurity) ListPods(_ context.Context, namespace string) ([]*corev1.Pod, error) {
	return p.pods.Pods(namespace).List(labels.Everything())
}

func (p *podSecurity) Validate(ctx context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	resource := a.GetResource().GroupResource()
	if resource != corev1.Resource("namespaces") && !p.judge.PodSpecExtractor.HasPodSpec(resource) {
		return nil
	}
	if err := p.wait(ctx, a); err != nil {
		return err
	}
	result := p.judge.Validate(ctx, &api.AttributesRecord{
		Name: a.GetName(), Namespace: a.GetNamespace(), Kind: a.GetKind(), Resource: a.GetResource(), Subresource: a.GetSubresource(),
		Operation: admissionv1.Operation(a.GetOperation()), Object: a.GetObject(), OldObject: a.GetOldObject(), Username: a.GetUserInfo().GetName(),
	})
	for _, w := range result.Warnings {
		warning.AddWarning(ctx, "", w)
	}
	for k, v := range result.AuditAnnotations {
		if err := a.AddAnnotation("pod-security.kubernetes.io/"+k, v); err != nil {
			return adm.NewForbidden(a, fmt.Errorf("note the PodSecurity decision: %w", err))
		}
	}
	if result.Allowed {
		return nil
	}
	refusal := adm.NewForbidden(a, errors.New("not allowed by PodSecurity")).(*apierrors.StatusError)
	if r := result.Result; r != nil {
		// It says by itself what is forbidden.
		if r.Message != "" {
			refusal.ErrStatus.Message = r.Message
		}
		if r.Details != nil {
			refusal.ErrStatus.Details = r.Details
		}
		if r.Code != 0 {
			refusal.ErrStatus.Code, refusal.ErrStatus.Reason = r.Code, r.Reason
		}
	}
	return refusal
}
