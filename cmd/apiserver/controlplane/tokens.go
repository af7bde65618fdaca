package controlplane

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	// trackingName is the ConfigMap in kube-system that says since when it is noted which tokens of Secrets are used.
	trackingName = "kube-apiserver-legacy-service-account-token-tracking"
	trackedSince = "since"
)

// EnsureTokenTracking says, once and for all API servers, that uses of tokens of Secrets are noted from today on. Whoever
// cleans up takes no token for unused before it was watched for long enough.
func EnsureTokenTracking(ctx context.Context, client kubernetes.Interface, now time.Time) error {
	data := map[string]string{trackedSince: now.UTC().Format(time.DateOnly)}
	maps := client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	have, err := maps.Get(ctx, trackingName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: trackingName, Namespace: metav1.NamespaceSystem}, Data: data}, metav1.CreateOptions{})
		return existing("create config map "+trackingName, err)
	}
	if err != nil {
		return fmt.Errorf("get config map %s: %w", trackingName, err)
	}
	if _, err := time.Parse(time.DateOnly, have.Data[trackedSince]); err == nil {
		return nil
	}
	have = have.DeepCopy()
	have.Data = data
	if _, err := maps.Update(ctx, have, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) { // somebody else was first
		return fmt.Errorf("update config map %s: %w", trackingName, err)
	}
	return nil
}
