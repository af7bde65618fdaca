// Package podset keeps the pods that belong to one controlling object.
//
// It holds what ReplicaSet, ReplicationController, DaemonSet, StatefulSet and Job
// have in common: which pods are theirs (Claim), which of them go first (Rank),
// making and deleting pods with events (Pods), and not acting on a cache that has
// not yet seen the last act (Expectations). It decides no numbers.
package podset

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
)

// Pods makes and deletes pods of a controlling object and tells of it in events.
type Pods struct {
	Client kubernetes.Interface
	Events record.EventRecorder
}

// FromTemplate returns the pod that template describes, owned by owner. The name is
// generated from the owner's.
func FromTemplate(template *corev1.PodTemplateSpec, owner metav1.Object, ref *metav1.OwnerReference) *corev1.Pod {
	prefix := owner.GetName()
	if len(prefix) > 57 { // leaves room for the dash and the five generated letters
		prefix = prefix[:57]
	}
	spec := template.Spec.DeepCopy()
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       owner.GetNamespace(),
			GenerateName:    strings.TrimRight(prefix, "-.") + "-",
			Labels:          maps.Clone(template.Labels),
			Annotations:     maps.Clone(template.Annotations),
			Finalizers:      slices.Clone(template.Finalizers),
			OwnerReferences: []metav1.OwnerReference{*ref},
		},
		Spec: *spec,
	}
}

// Create makes pod on behalf of owner.
func (p Pods) Create(ctx context.Context, owner runtime.Object, pod *corev1.Pod) (*corev1.Pod, error) {
	made, err := p.Client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			p.Events.Eventf(owner, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return nil, fmt.Errorf("create pod of %s: %w", pod.GenerateName+pod.Name, err)
	}
	p.Events.Eventf(owner, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", made.Name)
	return made, nil
}

// Delete deletes pod on behalf of owner, and tells whether an event of its end is still to come: not where it is gone
// already, which is a success, nor where deleting it failed.
func (p Pods) Delete(ctx context.Context, owner runtime.Object, pod *corev1.Pod) (coming bool, err error) {
	err = p.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name,
		metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	switch {
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		return false, nil
	case err != nil:
		p.Events.Eventf(owner, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		return false, fmt.Errorf("delete pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	p.Events.Eventf(owner, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", pod.Name)
	return true, nil
}

// Adopt makes ref the controller of pod, or returns an error where the pod changed meanwhile.
func (p Pods) Adopt(ctx context.Context, pod *corev1.Pod, ref *metav1.OwnerReference) error {
	patch := fmt.Sprintf(`{"metadata":{"uid":%q,"ownerReferences":[{"apiVersion":%q,"kind":%q,"name":%q,"uid":%q,`+
		`"controller":true,"blockOwnerDeletion":true}]}}`, pod.UID, ref.APIVersion, ref.Kind, ref.Name, ref.UID)
	_, err := p.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType,
		[]byte(patch), metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("adopt pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// Release takes the owner called uid off pod.
func (p Pods) Release(ctx context.Context, pod *corev1.Pod, owner types.UID) error {
	patch := fmt.Sprintf(`{"metadata":{"uid":%q,"ownerReferences":[{"$patch":"delete","uid":%q}]}}`, pod.UID, owner)
	_, err := p.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType,
		[]byte(patch), metav1.PatchOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
		return nil // gone, or it lost the owner meanwhile
	}
	if err != nil {
		return fmt.Errorf("release pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// SlowStart calls f count times, in batches of 1, 2, 4 ..., and stops after the first
// batch with an error: a template that no pod can be made from costs one call, not count.
// It returns how many calls succeeded.
func SlowStart(count int, f func(i int) error) (int, error) {
	succeeded, next := 0, 0
	for batch := 1; next < count; batch *= 2 {
		batch = min(batch, count-next)
		errs := make([]error, batch)
		var wg sync.WaitGroup
		for i := range batch {
			wg.Go(func() { errs[i] = f(next + i) })
		}
		wg.Wait()
		next += batch
		for _, err := range errs {
			if err == nil {
				succeeded++
			}
		}
		if err := errors.Join(errs...); err != nil {
			return succeeded, err
		}
	}
	return succeeded, nil
}
