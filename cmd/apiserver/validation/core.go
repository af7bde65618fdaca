package validation

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func coreRules(obj runtime.Object) (rules, bool) {
	switch obj.(type) {
	case *corev1.Pod:
		return kind(pod, podUpdate, podStatus), true
	case *corev1.PodTemplate:
		return kind(func(t *corev1.PodTemplate) field.ErrorList {
			return podTemplate(&t.Template, field.NewPath("template"))
		}, nil, nil), true
	case *corev1.ReplicationController:
		return kind(replicationController, nil, func(c, _ *corev1.ReplicationController) field.ErrorList {
			return controllerCounts(&c.Status)
		}), true
	case *corev1.Service:
		return kind(service, serviceUpdate, serviceStatus), true
	case *corev1.Endpoints:
		return kind(endpoints, nil, nil), true
	case *corev1.Namespace:
		return kind(namespace, func(*corev1.Namespace, *corev1.Namespace) field.ErrorList { return nil }, namespaceStatus), true
	case *corev1.Node:
		return kind(node, nodeUpdate, nodeUpdate), true
	case *corev1.PersistentVolume:
		return kind(persistentVolume, persistentVolumeUpdate, nil), true
	case *corev1.PersistentVolumeClaim:
		return kind(claim, claimUpdate, claimStatus), true
	case *corev1.ConfigMap:
		return kind(configMap, configMapUpdate, nil), true
	case *corev1.Secret:
		return kind(secret, secretUpdate, nil), true
	case *corev1.Event:
		return kind(event, nil, nil), true
	case *corev1.LimitRange:
		return kind(limitRange, nil, nil), true
	case *corev1.ResourceQuota:
		return kind(quota, quotaUpdate, quotaStatus), true
	case *corev1.Binding:
		return kind(binding, nil, nil), true
	}
	return rules{}, false
}

func binding(b *corev1.Binding) field.ErrorList {
	var errs field.ErrorList
	if b.Target.Kind != "" && b.Target.Kind != "Node" {
		errs = append(errs, field.NotSupported(field.NewPath("target", "kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	return append(errs, subdomain(b.Target.Name, field.NewPath("target", "name"))...)
}

func namespace(n *corev1.Namespace) field.ErrorList { return NamespaceFinalize(n) }

// NamespaceFinalize validates the finalizers of a namespace's spec, which its finalize subresource sets.
func NamespaceFinalize(n *corev1.Namespace) field.ErrorList {
	var errs field.ErrorList
	for i, f := range n.Spec.Finalizers {
		at := spec().Child("finalizers").Index(i)
		errs = append(errs, apivalidation.ValidateFinalizerName(string(f), at)...)
		switch string(f) {
		case string(corev1.FinalizerKubernetes), metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents:
			continue
		}
		if !strings.Contains(string(f), "/") {
			errs = append(errs, field.Invalid(at, f, "name is neither a standard finalizer name nor is it fully qualified"))
		}
	}
	return errs
}

func namespaceStatus(n, _ *corev1.Namespace) field.ErrorList {
	switch {
	case n.DeletionTimestamp.IsZero() && n.Status.Phase != corev1.NamespaceActive:
		return field.ErrorList{field.Invalid(status().Child("Phase"), n.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")}
	case !n.DeletionTimestamp.IsZero() && n.Status.Phase != corev1.NamespaceTerminating:
		return field.ErrorList{field.Invalid(status().Child("phase"), n.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")}
	}
	return nil
}
