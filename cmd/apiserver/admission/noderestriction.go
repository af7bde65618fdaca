package admission

import (
	"context"
	"errors"
	"fmt"

	authnv1 "k8s.io/api/authentication/v1"
	certv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	adm "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"

	"github.com/orlop-io/orlop/cmd/apiserver/nodeauthz"
)

// nodeRestriction keeps a kubelet's writes to its own node and the pods bound to it. The Node authorizer judges names;
// this plugin judges contents.
type nodeRestriction struct {
	*adm.Handler
	client  kubernetes.Interface
	pods    corelisters.PodLister
	nodes   corelisters.NodeLister
	drivers storagelisters.CSIDriverLister
	authz   authorizer.UnconditionalAuthorizer
}

var (
	_ adm.MutationInterface                        = (*nodeRestriction)(nil)
	_ adm.ValidationInterface                      = (*nodeRestriction)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*nodeRestriction)(nil)
	_ initializer.WantsExternalKubeClientSet       = (*nodeRestriction)(nil)
	_ initializer.WantsUnconditionalAuthorizer     = (*nodeRestriction)(nil)
)

func newNodeRestriction() *nodeRestriction {
	return &nodeRestriction{Handler: adm.NewHandler(adm.Create, adm.Update, adm.Delete)}
}

func (p *nodeRestriction) SetExternalKubeClientSet(c kubernetes.Interface) { p.client = c }

func (p *nodeRestriction) SetUnconditionalAuthorizer(a authorizer.UnconditionalAuthorizer) {
	p.authz = a
}

func (p *nodeRestriction) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	p.pods = f.Core().V1().Pods().Lister()
	p.nodes = f.Core().V1().Nodes().Lister()
	p.drivers = f.Storage().V1().CSIDrivers().Lister()
}

func (p *nodeRestriction) ValidateInitialization() error {
	if p.client == nil || p.pods == nil || p.authz == nil {
		return errors.New("NodeRestriction: no informers, no client or no authorizer")
	}
	return nil
}

// Admit changes nothing. It judges what the kubelet itself sent, before the server fills in defaults such as a token's
// audiences.
func (p *nodeRestriction) Admit(ctx context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	return p.restrict(ctx, a)
}

// Validate judges once more after all other plugins' changes: what it sees is what will be stored.
func (p *nodeRestriction) Validate(ctx context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	if a.GetResource().GroupResource() == corev1.Resource("serviceaccounts") {
		return nil // by now the audiences are filled in
	}
	return p.restrict(ctx, a)
}

func (p *nodeRestriction) restrict(ctx context.Context, a adm.Attributes) error {
	node, isNode := nodeauthz.Identity(a.GetUserInfo())
	if !isNode {
		return nil
	}
	if node == "" {
		return adm.NewForbidden(a, fmt.Errorf("could not determine node from user %q", a.GetUserInfo().GetName()))
	}
	var err error
	switch a.GetResource().GroupResource() {
	case corev1.Resource("pods"):
		err = p.pod(ctx, node, a)
	case corev1.Resource("nodes"):
		err = restrictNode(node, a)
	case corev1.Resource("persistentvolumeclaims"):
		err = restrictClaim(node, a)
	case corev1.Resource("serviceaccounts"):
		err = p.token(ctx, node, a)
	case coordinationv1.Resource("leases"):
		err = restrictLease(node, a)
	case storagev1.Resource("csinodes"):
		err = restrictCSINode(node, a)
	case resourcev1.Resource("resourceslices"):
		err = restrictSlice(node, a)
	case certv1.Resource("certificatesigningrequests"):
		err = restrictCSR(node, a)
	case certv1.Resource("podcertificaterequests"):
		err = p.podCertificate(ctx, node, a)
	}
	if err != nil && !apierrors.IsForbidden(err) {
		return adm.NewForbidden(a, err)
	}
	return err
}

func (p *nodeRestriction) pod(ctx context.Context, node string, a adm.Attributes) error {
	switch a.GetSubresource() {
	case "":
		switch a.GetOperation() {
		case adm.Create:
			pod, ok := a.GetObject().(*corev1.Pod)
			if !ok {
				return errUnexpected(a.GetObject())
			}
			if err := restrictMirror(node, pod); err != nil {
				return err
			}
			return p.ownedByNode(ctx, node, pod)
		case adm.Delete:
			pod, err := p.podOn(ctx, node, a.GetNamespace(), a.GetName(), "")
			if apierrors.IsNotFound(err) {
				return nil // the deletion itself will say so
			}
			if err != nil {
				return err
			}
			if pod.Spec.NodeName != node {
				return fmt.Errorf("node %q can only delete pods with spec.nodeName set to itself", node)
			}
			return nil
		}
		return fmt.Errorf("unexpected operation %q, node %q can only create and delete mirror pods", a.GetOperation(), node)
	case "status":
		return restrictPodStatus(node, a)
	case "eviction":
		return p.eviction(ctx, node, a)
	}
	return fmt.Errorf("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", a.GetSubresource())
}

// restrictMirror allows a kubelet to show its static pods, and no pod that would gain it something.
func restrictMirror(node string, pod *corev1.Pod) error {
	if !isMirror(pod) {
		return fmt.Errorf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node)
	}
	if pod.Spec.NodeName != node {
		return fmt.Errorf("node %q can only create pods with spec.nodeName set to itself", node)
	}
	if pod.Spec.ServiceAccountName != "" {
		return fmt.Errorf("node %q can not create pods that reference a service account", node)
	}
	if len(secretNames(pod)) > 0 || len(pod.Spec.ImagePullSecrets) > 0 {
		return fmt.Errorf("node %q can not create pods that reference secrets", node)
	}
	if len(configMapNames(pod)) > 0 {
		return fmt.Errorf("node %q can not create pods that reference configmaps", node)
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return fmt.Errorf("node %q can not create pods that reference resourceclaims", node)
	}
	for _, v := range pod.Spec.Volumes {
		if v.PersistentVolumeClaim != nil || v.Ephemeral != nil {
			return fmt.Errorf("node %q can not create pods that reference persistentvolumeclaims", node)
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil || s.ClusterTrustBundle != nil || s.PodCertificate != nil {
				return fmt.Errorf("node %q can not create pods that reference service account tokens, trust bundles or certificates", node)
			}
		}
	}
	return nil
}

// ownedByNode checks that a mirror pod's owner is the kubelet's own, existing node, so that the pod goes with it.
func (p *nodeRestriction) ownedByNode(ctx context.Context, node string, pod *corev1.Pod) error {
	if len(pod.OwnerReferences) == 0 {
		return fmt.Errorf("node %q can only create pods with an owner reference set to itself", node)
	}
	if len(pod.OwnerReferences) > 1 {
		return fmt.Errorf("node %q can only create pods with a single owner reference set to itself", node)
	}
	owner := pod.OwnerReferences[0]
	if owner.APIVersion != corev1.SchemeGroupVersion.String() || owner.Kind != "Node" || owner.Name != node {
		return fmt.Errorf("node %q can only create pods with an owner reference set to itself", node)
	}
	if owner.Controller == nil || !*owner.Controller {
		return fmt.Errorf("node %q can only create pods with a controller owner reference set to itself", node)
	}
	if owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion {
		return fmt.Errorf("node %q must not set blockOwnerDeletion on an owner reference", node)
	}
	found, err := p.nodes.Get(node)
	if err != nil || found.UID != owner.UID {
		found, err = p.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) {
		return err
	}
	if err != nil {
		return fmt.Errorf("looking up node %s to validate uid: %w", node, err)
	}
	if found.UID != owner.UID {
		return fmt.Errorf("node %s UID mismatch: expected %s got %s", node, owner.UID, found.UID)
	}
	return nil
}

func restrictPodStatus(node string, a adm.Attributes) error {
	if a.GetOperation() != adm.Update {
		return fmt.Errorf("unexpected operation %q", a.GetOperation())
	}
	old, ok1 := a.GetOldObject().(*corev1.Pod)
	pod, ok2 := a.GetObject().(*corev1.Pod)
	if !ok1 || !ok2 {
		return errUnexpected(a.GetObject())
	}
	if old.Spec.NodeName != node {
		return fmt.Errorf("node %q can only update pod status for pods with spec.nodeName set to itself", node)
	}
	if !equal(old.Labels, pod.Labels) {
		return fmt.Errorf("node %q cannot update labels through pod status", node)
	}
	if !equal(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses) {
		return fmt.Errorf("node %q cannot update resource claim statuses", node)
	}
	if !equal(old.Status.ExtendedResourceClaimStatus, pod.Status.ExtendedResourceClaimStatus) {
		return fmt.Errorf("node %q cannot update extended resource claim status", node)
	}
	return nil
}

func (p *nodeRestriction) eviction(ctx context.Context, node string, a adm.Attributes) error {
	if a.GetOperation() != adm.Create {
		return fmt.Errorf("unexpected operation %s", a.GetOperation())
	}
	name := a.GetName()
	if name == "" {
		eviction, ok := a.GetObject().(*policyv1.Eviction)
		if !ok {
			return errUnexpected(a.GetObject())
		}
		name = eviction.Name
	}
	if name == "" {
		return errors.New("could not determine pod from request data")
	}
	pod, err := p.podOn(ctx, node, a.GetNamespace(), name, "")
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if pod.Spec.NodeName != node {
		return fmt.Errorf("node %s can only evict pods with spec.nodeName set to itself", node)
	}
	return nil
}

// podOn finds a pod in the cache if that has it on the node, and otherwise on the server: a kubelet hears of a binding, and
// of a new pod under an old name, no later than this cache does.
func (p *nodeRestriction) podOn(ctx context.Context, node, namespace, name string, uid types.UID) (*corev1.Pod, error) {
	if pod, err := p.pods.Pods(namespace).Get(name); err == nil && pod.Spec.NodeName == node && (uid == "" || pod.UID == uid) {
		return pod, nil
	}
	return p.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
}

// token allows a kubelet only tokens that end with a pod on its node, for audiences that the pod asks for.
func (p *nodeRestriction) token(ctx context.Context, node string, a adm.Attributes) error {
	if a.GetOperation() != adm.Create || a.GetSubresource() != "token" {
		return nil
	}
	tr, ok := a.GetObject().(*authnv1.TokenRequest)
	if !ok {
		return errUnexpected(a.GetObject())
	}
	ref := tr.Spec.BoundObjectRef
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "" {
		return fmt.Errorf("node requested token not bound to a pod")
	}
	if ref.UID == "" {
		return fmt.Errorf("node requested token with a pod binding without a uid")
	}
	pod, err := p.podOn(ctx, node, a.GetNamespace(), ref.Name, ref.UID)
	if err != nil {
		return err
	}
	if pod.UID != ref.UID {
		return fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", ref.UID, pod.UID)
	}
	if pod.Spec.NodeName != node {
		return fmt.Errorf("node requested token bound to a pod scheduled on a different node")
	}
	return p.audiences(ctx, a, pod, tr.Spec.Audiences)
}
