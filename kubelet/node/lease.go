package node

import (
	"context"
	"fmt"
	"time"

	coordv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// renew keeps the node's lease fresh until ctx ends.
func (n *Node) renew(ctx context.Context, client kubernetes.Interface) {
	var lease *coordv1.Lease
	every := n.cfg.LeaseDuration / 4
	for {
		wait := every
		next, err := n.renewOnce(ctx, client, lease)
		lease = next
		if err != nil && ctx.Err() == nil {
			n.log.Warn("renew node lease", "err", err)
			wait = min(every, time.Second)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// renewOnce renews the lease as last written, or reads or makes it anew; nil says to read it next time.
func (n *Node) renewOnce(ctx context.Context, client kubernetes.Interface, have *coordv1.Lease) (*coordv1.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.LeaseDuration/4)
	defer cancel()
	leases := client.CoordinationV1().Leases(v1.NamespaceNodeLease)
	if have == nil {
		var err error
		have, err = leases.Get(ctx, n.cfg.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			have, err = leases.Create(ctx, n.fill(&coordv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: n.cfg.Name, Namespace: v1.NamespaceNodeLease}}), metav1.CreateOptions{})
			if err != nil {
				return nil, fmt.Errorf("create lease: %w", err)
			}
			return have, nil
		}
		if err != nil {
			return nil, fmt.Errorf("get lease: %w", err)
		}
	}
	out, err := leases.Update(ctx, n.fill(have.DeepCopy()), metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("update lease: %w", err)
	}
	return out, nil
}

func (n *Node) fill(l *coordv1.Lease) *coordv1.Lease {
	seconds := int32(n.cfg.LeaseDuration / time.Second)
	l.Spec.HolderIdentity, l.Spec.LeaseDurationSeconds = &n.cfg.Name, &seconds
	l.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
	if uid := n.UID(); uid != "" && len(l.OwnerReferences) == 0 {
		l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: n.cfg.Name, UID: uid}}
	}
	return l
}
