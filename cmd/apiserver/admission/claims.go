package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	adm "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	storagelisters "k8s.io/client-go/listers/storage/v1"
)

// inUse keeps what pods use from going away under them: a controller takes the finalizer off when nothing does any more.
type inUse struct{ *adm.Handler }

var _ adm.MutationInterface = inUse{}

func newInUse() inUse { return inUse{adm.NewHandler(adm.Create)} }

func (inUse) Admit(_ context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	if a.GetSubresource() != "" {
		return nil
	}
	finalizer := ""
	switch a.GetResource().GroupResource() {
	case corev1.Resource("persistentvolumeclaims"):
		finalizer = "kubernetes.io/pvc-protection"
	case corev1.Resource("persistentvolumes"):
		finalizer = "kubernetes.io/pv-protection"
	case storagev1.Resource("volumeattributesclasses"):
		finalizer = "kubernetes.io/vac-protection"
	default:
		return nil
	}
	o, ok := a.GetObject().(metav1.Object)
	if !ok {
		return adm.NewForbidden(a, errUnexpected(a.GetObject()))
	}
	if !slices.Contains(o.GetFinalizers(), finalizer) {
		o.SetFinalizers(append(o.GetFinalizers(), finalizer))
	}
	return nil
}

// claimResize lets only those claims grow whose class can make volumes grow.
type claimResize struct {
	*adm.Handler
	classes storagelisters.StorageClassLister
	client  kubernetes.Interface
}

var (
	_ adm.ValidationInterface                      = (*claimResize)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*claimResize)(nil)
	_ initializer.WantsExternalKubeClientSet       = (*claimResize)(nil)
)

func newClaimResize() *claimResize { return &claimResize{Handler: adm.NewHandler(adm.Update)} }

func (r *claimResize) SetExternalKubeClientSet(c kubernetes.Interface) { r.client = c }

func (r *claimResize) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	r.classes = f.Storage().V1().StorageClasses().Lister()
}

func (r *claimResize) ValidateInitialization() error {
	if r.classes == nil || r.client == nil {
		return errors.New("PersistentVolumeClaimResize: no informers or no client")
	}
	return nil
}

func (r *claimResize) Validate(ctx context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("persistentvolumeclaims") || a.GetSubresource() != "" {
		return nil
	}
	pvc, ok1 := a.GetObject().(*corev1.PersistentVolumeClaim)
	old, ok2 := a.GetOldObject().(*corev1.PersistentVolumeClaim)
	if !ok1 || !ok2 {
		return adm.NewForbidden(a, errUnexpected(a.GetObject()))
	}
	was, is := old.Spec.Resources.Requests[corev1.ResourceStorage], pvc.Spec.Resources.Requests[corev1.ResourceStorage]
	if is.Cmp(was) <= 0 {
		return nil
	}
	if old.Status.Phase != corev1.ClaimBound {
		return adm.NewForbidden(a, errors.New("Only bound persistent volume claims can be expanded"))
	}
	grows, err := r.grows(ctx, classOf(pvc), classOf(old))
	if err != nil {
		return adm.NewForbidden(a, fmt.Errorf("find the storage class of the claim: %w", err))
	}
	if !grows {
		return adm.NewForbidden(a, errors.New("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
	}
	return nil
}

func (r *claimResize) grows(ctx context.Context, class, old string) (bool, error) {
	if class == "" || class != old {
		return false, nil
	}
	found, err := r.classes.Get(class)
	if apierrors.IsNotFound(err) {
		found, err = r.client.StorageV1().StorageClasses().Get(ctx, class, metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return found.AllowVolumeExpansion != nil && *found.AllowVolumeExpansion, nil
}

func classOf(pvc *corev1.PersistentVolumeClaim) string {
	if class, ok := pvc.Annotations[storageClassAnnotation]; ok {
		return class
	}
	if pvc.Spec.StorageClassName != nil {
		return *pvc.Spec.StorageClassName
	}
	return ""
}
