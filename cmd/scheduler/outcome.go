package scheduler

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// refused tells that an error of the API server says that nothing was written. A lost connection and a timeout say nothing.
func refused(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsInvalid(err) || apierrors.IsForbidden(err) ||
		apierrors.IsUnauthorized(err) || apierrors.IsBadRequest(err) || apierrors.IsTooManyRequests(err)
}

// outcome returns nil where the binding to node that ended with err was written all the same. It waits for as long as nobody can
// tell: a node that is thought free of a pod that it has would be filled twice.
func (s *Scheduler) outcome(ctx context.Context, pod *Pod, node string, err error) error {
	for {
		live, getErr := s.client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(getErr) || getErr == nil && live.UID != pod.UID:
			return apierrors.NewNotFound(corev1.Resource("pods"), pod.Name)
		case getErr == nil && live.Spec.NodeName == node:
			return nil
		case getErr == nil || apierrors.IsForbidden(getErr) || apierrors.IsUnauthorized(getErr):
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}
