package authn

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// NewObjects looks in the informers first and asks the server when they do not have it (yet), or have another of its name:
// a pod's first request may come before our watch told us of the pod, or that it is not the one before. Secrets are always asked for, because a cache of all of them would cost
// memory for a rare question. Call it before the factory starts.
func NewObjects(client kubernetes.Interface, factory informers.SharedInformerFactory) Objects {
	core := factory.Core().V1()
	return &liveObjects{
		client:   client,
		accounts: core.ServiceAccounts().Lister(),
		pods:     core.Pods().Lister(),
		nodes:    core.Nodes().Lister(),
	}
}

type liveObjects struct {
	client   kubernetes.Interface
	accounts corelisters.ServiceAccountLister
	pods     corelisters.PodLister
	nodes    corelisters.NodeLister
}

func (o *liveObjects) ServiceAccount(ctx context.Context, namespace, name, uid string) (*corev1.ServiceAccount, error) {
	if sa, err := o.accounts.ServiceAccounts(namespace).Get(name); err == nil && string(sa.UID) == uid {
		return sa, nil
	}
	return o.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (o *liveObjects) Pod(ctx context.Context, namespace, name, uid string) (*corev1.Pod, error) {
	if pod, err := o.pods.Pods(namespace).Get(name); err == nil && string(pod.UID) == uid {
		return pod, nil
	}
	return o.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (o *liveObjects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return o.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (o *liveObjects) Node(ctx context.Context, name, uid string) (*corev1.Node, error) {
	if node, err := o.nodes.Get(name); err == nil && string(node.UID) == uid {
		return node, nil
	}
	return o.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
}

func (o *liveObjects) LabelSecret(ctx context.Context, namespace, name, label, value string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]string{label: value}}})
	if err != nil {
		return err
	}
	if _, err = o.client.CoreV1().Secrets(namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("label secret %s/%s: %w", namespace, name, err)
	}
	return nil
}
