// Package pods serves pods and everything under them: status, binding, eviction, ephemeral containers, and the
// streams that lead to a node's kubelet.
package pods

import (
	"context"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubectl/pkg/util/qos"

	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
)

// Resource describes pods. Without allowPrivileged, pods with privileged containers are refused.
func Resource(allowPrivileged bool) *store.Resource {
	return &store.Resource{
		GV: corev1.SchemeGroupVersion, Kind: "Pod", Plural: "pods", Singular: "pod", Short: []string{"po"}, Categories: []string{"all"},
		Generation: true, ReturnDeleted: true, Fields: podFields, Index: "spec.nodeName",
		PrepareCreate: func(_ context.Context, obj runtime.Object) { begin(obj.(*corev1.Pod)) },
		PrepareStatus: func(_ context.Context, obj, old runtime.Object) {
			pod, was := obj.(*corev1.Pod), old.(*corev1.Pod)
			if pod.Status.QOSClass == "" {
				pod.Status.QOSClass = was.Status.QOSClass
			}
		},
		Graceful: func(_ context.Context, obj runtime.Object, options *metav1.DeleteOptions) bool {
			seconds := gracePeriod(obj.(*corev1.Pod), options.GracePeriodSeconds)
			options.GracePeriodSeconds = &seconds
			return true
		},
		Validate: func(_ context.Context, obj runtime.Object) field.ErrorList {
			if allowPrivileged {
				return nil
			}
			return refusePrivileged(&obj.(*corev1.Pod).Spec)
		},
	}
}

// begin completes a new pod's selectors and sets its status.
func begin(pod *corev1.Pod) {
	narrowSelectors(pod)
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: qos.GetPodQOS(pod)}
	if len(pod.Spec.SchedulingGates) > 0 {
		pod.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates", ObservedGeneration: 1,
		}}
	}
}

// gracePeriod is how long a pod may take to end: what the request asks for, else what the pod wants, but nothing
// for a pod that no kubelet has or that has ended.
func gracePeriod(pod *corev1.Pod, requested *int64) int64 {
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return 0
	}
	var seconds int64
	switch {
	case requested != nil:
		seconds = *requested
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		seconds = *pod.Spec.TerminationGracePeriodSeconds
	}
	if seconds < 0 {
		return 1
	}
	return seconds
}

func refusePrivileged(spec *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	check := func(list string, i int, sc *corev1.SecurityContext) {
		if sc != nil && sc.Privileged != nil && *sc.Privileged {
			errs = append(errs, field.Forbidden(field.NewPath("spec", list).Index(i).Child("securityContext", "privileged"),
				"disallowed by cluster policy"))
		}
	}
	for i := range spec.InitContainers {
		check("initContainers", i, spec.InitContainers[i].SecurityContext)
	}
	for i := range spec.Containers {
		check("containers", i, spec.Containers[i].SecurityContext)
	}
	return errs
}

func podFields(obj runtime.Object) fields.Set {
	pod := obj.(*corev1.Pod)
	return fields.Set{
		"spec.nodeName":            pod.Spec.NodeName,
		"spec.restartPolicy":       string(pod.Spec.RestartPolicy),
		"spec.schedulerName":       pod.Spec.SchedulerName,
		"spec.serviceAccountName":  pod.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(pod.Spec.HostNetwork),
		"status.phase":             string(pod.Status.Phase),
		"status.podIP":             pod.Status.PodIP,
		"status.nominatedNodeName": pod.Status.NominatedNodeName,
	}
}
