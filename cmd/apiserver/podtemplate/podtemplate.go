// Package podtemplate knows which kinds make pods, and where in them the pods' template is.
package podtemplate

import (
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Of returns the template in obj and its path, nil for a kind that has none. The template is obj's own, not a copy.
func Of(obj runtime.Object) (*corev1.PodTemplateSpec, *field.Path) {
	path := field.NewPath("spec", "template")
	switch o := obj.(type) {
	case *corev1.PodTemplate:
		return &o.Template, field.NewPath("template")
	case *corev1.ReplicationController:
		return o.Spec.Template, path
	case *appsv1.Deployment:
		return &o.Spec.Template, path
	case *appsv1.ReplicaSet:
		return &o.Spec.Template, path
	case *appsv1.DaemonSet:
		return &o.Spec.Template, path
	case *appsv1.StatefulSet:
		return &o.Spec.Template, path
	case *batchv1.Job:
		return &o.Spec.Template, path
	case *batchv1.CronJob:
		return &o.Spec.JobTemplate.Spec.Template, field.NewPath("spec", "jobTemplate", "spec", "template")
	}
	return nil, nil
}
