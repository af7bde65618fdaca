package controlplane

import (
	"context"
	"fmt"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

// UnenforcedNote is what everybody should know who writes a NetworkPolicy.
const UnenforcedNote = "NetworkPolicies are stored, but nothing in this cluster enforces them yet: the pods that this one selects are NOT isolated"

// Unenforced tells namespaces of the network policies in them that nothing enforces. Whoever wrote a policy is told in the
// answer, too; the event is for those who only find the policy there.
type Unenforced struct {
	client  kubernetes.Interface
	written chan *networkingv1.NetworkPolicy
}

// NewUnenforced returns an Unenforced that writes events by client once it runs.
func NewUnenforced(client kubernetes.Interface) *Unenforced {
	return &Unenforced{client, make(chan *networkingv1.NetworkPolicy, 256)}
}

// Written says that policy was stored. It never blocks: of a burst that events cannot keep up with the rest goes without.
func (u *Unenforced) Written(policy *networkingv1.NetworkPolicy) {
	if policy.DeletionTimestamp != nil {
		return
	}
	select {
	case u.written <- policy.DeepCopy():
	default:
	}
}

// Run writes events until ctx ends.
func (u *Unenforced) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case policy := <-u.written:
			if err := Warn(ctx, u.client, "network-policy", policy, "NotEnforced", UnenforcedNote); err != nil {
				klog.FromContext(ctx).Error(err, "write event", "networkpolicy", fmt.Sprintf("%s/%s", policy.Namespace, policy.Name))
			}
		}
	}
}
