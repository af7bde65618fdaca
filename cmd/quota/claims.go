package quota

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	library "k8s.io/apiserver/pkg/quota/v1"
)

// The ends of the names under which quotas count the claims of one storage class.
const (
	classStorage = ".storageclass.storage.k8s.io/requests.storage"
	classClaims  = ".storageclass.storage.k8s.io/persistentvolumeclaims"
)

func hasSuffix(n corev1.ResourceName, suffix string) bool {
	return strings.HasSuffix(string(n), suffix)
}

func claims(lists Lists) library.Evaluator {
	gr := corev1.Resource("persistentvolumeclaims")
	names := []corev1.ResourceName{countOf(gr), corev1.ResourcePersistentVolumeClaims, corev1.ResourceRequestsStorage}
	return &evaluator{
		resource: gr, list: lists(gr), handles: handlesClaim, scope: claimInScope,
		counts: func(n corev1.ResourceName) bool {
			return slices.Contains(names, n) || hasSuffix(n, classStorage) || hasSuffix(n, classClaims)
		},
		usage: func(obj runtime.Object) (corev1.ResourceList, error) {
			pvc, err := as[*corev1.PersistentVolumeClaim](obj)
			if err != nil {
				return nil, err
			}
			return claimUsage(pvc), nil
		},
	}
}

// handlesClaim also looks at status updates: a failed expansion that is given up frees storage.
func handlesClaim(a admission.Attributes) bool {
	if a.GetSubresource() != "status" {
		return onWrite(true)(a)
	}
	pvc, err1 := as[*corev1.PersistentVolumeClaim](a.GetObject())
	old, err2 := as[*corev1.PersistentVolumeClaim](a.GetOldObject())
	return err1 == nil && err2 == nil && ClaimFrees(old, pvc)
}

// ClaimFrees tells whether the change of a claim changes what it uses.
func ClaimFrees(old, pvc *corev1.PersistentVolumeClaim) bool {
	before, after := claimStorage(old), claimStorage(pvc)
	return before.Cmp(after) != 0 || !slices.Equal(attributesClasses(old), attributesClasses(pvc))
}

func claimUsage(pvc *corev1.PersistentVolumeClaim) corev1.ResourceList {
	used := corev1.ResourceList{countOf(corev1.Resource("persistentvolumeclaims")): amount(1), corev1.ResourcePersistentVolumeClaims: amount(1)}
	class := pvc.Annotations[corev1.BetaStorageClassAnnotation]
	if class == "" && pvc.Spec.StorageClassName != nil {
		class = *pvc.Spec.StorageClassName
	}
	if class != "" {
		used[corev1.ResourceName(class+classClaims)] = amount(1)
	}
	if _, ok := pvc.Spec.Resources.Requests[corev1.ResourceStorage]; ok {
		storage := claimStorage(pvc)
		storage.RoundUp(0) // parts of a byte count as one
		used[corev1.ResourceRequestsStorage] = storage
		if class != "" {
			used[corev1.ResourceName(class+classStorage)] = storage
		}
	}
	return used
}

// claimStorage is what the claim asks for, or what was set aside for it where that is more.
func claimStorage(pvc *corev1.PersistentVolumeClaim) (storage quantity) {
	storage = pvc.Spec.Resources.Requests[corev1.ResourceStorage].DeepCopy()
	if allocated, ok := pvc.Status.AllocatedResources[corev1.ResourceStorage]; ok && allocated.Cmp(storage) > 0 {
		return allocated.DeepCopy()
	}
	return storage
}

// attributesClasses are the VolumeAttributesClasses that the claim has, wants, or is on its way to.
func attributesClasses(pvc *corev1.PersistentVolumeClaim) []string {
	var names []string
	add := func(name *string) {
		if name != nil && *name != "" && !slices.Contains(names, *name) {
			names = append(names, *name)
		}
	}
	add(pvc.Spec.VolumeAttributesClassName)
	add(pvc.Status.CurrentVolumeAttributesClassName)
	if m := pvc.Status.ModifyVolumeStatus; m != nil {
		add(&m.TargetVolumeAttributesClassName)
	}
	slices.Sort(names)
	return names
}

func claimInScope(s corev1.ScopedResourceSelectorRequirement, obj runtime.Object) (bool, error) {
	pvc, err := as[*corev1.PersistentVolumeClaim](obj)
	if err != nil {
		return false, err
	}
	if s.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass {
		return false, nil
	}
	names := attributesClasses(pvc)
	if len(names) == 0 {
		return matchesScope(s, "")
	}
	for _, name := range names {
		if in, err := matchesScope(s, name); in || err != nil {
			return in, err
		}
	}
	return false, nil
}
