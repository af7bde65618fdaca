package replicaset

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	appsinformers "k8s.io/client-go/informers/apps/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
)

// ReplicaSets is the kind apps/v1 ReplicaSet.
func ReplicaSets(client kubernetes.Interface, informer appsinformers.ReplicaSetInformer) Kind {
	return Kind{
		GVK:              appsv1.SchemeGroupVersion.WithKind("ReplicaSet"),
		Informer:         informer.Informer(),
		TellsTerminating: true,
		Fetch: func(namespace, name string) (*Set, error) {
			rs, err := informer.Lister().ReplicaSets(namespace).Get(name)
			if apierrors.IsNotFound(err) {
				return nil, nil
			} else if err != nil {
				return nil, err
			}
			return fromReplicaSet(rs)
		},
		Live: func(ctx context.Context, namespace, name string) (metav1.Object, error) {
			return client.AppsV1().ReplicaSets(namespace).Get(ctx, name, metav1.GetOptions{})
		},
		WriteStatus: func(ctx context.Context, set *Set, status Status) error {
			rs := set.Object.(*appsv1.ReplicaSet).DeepCopy()
			rs.Status.Replicas, rs.Status.FullyLabeledReplicas = status.Replicas, status.FullyLabeled
			rs.Status.ReadyReplicas, rs.Status.AvailableReplicas = status.Ready, status.Available
			rs.Status.TerminatingReplicas, rs.Status.ObservedGeneration = status.Terminating, status.ObservedGeneration
			if status.Failure == "" {
				rs.Status.Conditions = nil
			} else if set.Status.Failure == "" {
				rs.Status.Conditions = []appsv1.ReplicaSetCondition{{
					Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue,
					LastTransitionTime: metav1.Now(), Reason: status.Failure, Message: status.FailureMessage,
				}}
			}
			_, err := client.AppsV1().ReplicaSets(rs.Namespace).UpdateStatus(ctx, rs, metav1.UpdateOptions{})
			return err
		},
	}
}

func fromReplicaSet(rs *appsv1.ReplicaSet) (*Set, error) {
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("selector of ReplicaSet %s/%s: %w", rs.Namespace, rs.Name, err)
	}
	set := &Set{
		Object: rs, Meta: rs, Selector: selector, Replicas: deref(rs.Spec.Replicas),
		MinReady: time.Duration(rs.Spec.MinReadySeconds) * time.Second, Template: &rs.Spec.Template,
		Status: Status{
			Replicas: rs.Status.Replicas, FullyLabeled: rs.Status.FullyLabeledReplicas, Ready: rs.Status.ReadyReplicas,
			Available: rs.Status.AvailableReplicas, Terminating: rs.Status.TerminatingReplicas,
			ObservedGeneration: rs.Status.ObservedGeneration,
		},
	}
	for _, c := range rs.Status.Conditions {
		if c.Type == appsv1.ReplicaSetReplicaFailure {
			set.Status.Failure, set.Status.FailureMessage = c.Reason, c.Message
		}
	}
	return set, nil
}

// ReplicationControllers is the kind v1 ReplicationController.
func ReplicationControllers(client kubernetes.Interface, informer coreinformers.ReplicationControllerInformer) Kind {
	return Kind{
		GVK:      corev1.SchemeGroupVersion.WithKind("ReplicationController"),
		Informer: informer.Informer(),
		Fetch: func(namespace, name string) (*Set, error) {
			rc, err := informer.Lister().ReplicationControllers(namespace).Get(name)
			if apierrors.IsNotFound(err) {
				return nil, nil
			} else if err != nil {
				return nil, err
			}
			return fromReplicationController(rc), nil
		},
		Live: func(ctx context.Context, namespace, name string) (metav1.Object, error) {
			return client.CoreV1().ReplicationControllers(namespace).Get(ctx, name, metav1.GetOptions{})
		},
		WriteStatus: func(ctx context.Context, set *Set, status Status) error {
			rc := set.Object.(*corev1.ReplicationController).DeepCopy()
			rc.Status.Replicas, rc.Status.FullyLabeledReplicas = status.Replicas, status.FullyLabeled
			rc.Status.ReadyReplicas, rc.Status.AvailableReplicas = status.Ready, status.Available
			rc.Status.ObservedGeneration = status.ObservedGeneration
			if status.Failure == "" {
				rc.Status.Conditions = nil
			} else if set.Status.Failure == "" {
				rc.Status.Conditions = []corev1.ReplicationControllerCondition{{
					Type: corev1.ReplicationControllerReplicaFailure, Status: corev1.ConditionTrue,
					LastTransitionTime: metav1.Now(), Reason: status.Failure, Message: status.FailureMessage,
				}}
			}
			_, err := client.CoreV1().ReplicationControllers(rc.Namespace).UpdateStatus(ctx, rc, metav1.UpdateOptions{})
			return err
		},
	}
}

func fromReplicationController(rc *corev1.ReplicationController) *Set {
	set := &Set{
		Object: rc, Meta: rc, Selector: labels.Set(rc.Spec.Selector).AsSelectorPreValidated(),
		Replicas: deref(rc.Spec.Replicas), MinReady: time.Duration(rc.Spec.MinReadySeconds) * time.Second,
		Template: rc.Spec.Template,
		Status: Status{
			Replicas: rc.Status.Replicas, FullyLabeled: rc.Status.FullyLabeledReplicas, Ready: rc.Status.ReadyReplicas,
			Available: rc.Status.AvailableReplicas, ObservedGeneration: rc.Status.ObservedGeneration,
		},
	}
	if set.Template == nil {
		set.Template = &corev1.PodTemplateSpec{}
	}
	for _, c := range rc.Status.Conditions {
		if c.Type == corev1.ReplicationControllerReplicaFailure {
			set.Status.Failure, set.Status.FailureMessage = c.Reason, c.Message
		}
	}
	return set
}

func deref(n *int32) int {
	if n == nil {
		return 1
	}
	return int(*n)
}
