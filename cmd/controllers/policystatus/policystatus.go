// Package policystatus checks the types in the expressions of ValidatingAdmissionPolicies against the schemas of what
// they apply to, and writes what it finds into their status.
//
// A warning keeps no policy from working: what the API server cannot evaluate, it treats as the policy's failurePolicy
// says.
package policystatus

import (
	"context"
	"fmt"
	"log/slog"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/admissionregistration/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// Check returns what is wrong with the expressions of a policy.
type Check func(*admissionv1.ValidatingAdmissionPolicy) []admissionv1.ExpressionWarning

// Controller watches all policies.
type Controller struct {
	client   kubernetes.Interface
	check    Check
	policies listers.ValidatingAdmissionPolicyLister
	loop     *loop.Loop
	synced   cache.InformerSynced
}

// New returns a Controller that has done nothing yet.
func New(client kubernetes.Interface, check Check, shared informers.SharedInformerFactory, log *slog.Logger) (*Controller, error) {
	policies := shared.Admissionregistration().V1().ValidatingAdmissionPolicies()
	c := &Controller{client: client, check: check, policies: policies.Lister(), synced: policies.Informer().HasSynced}
	c.loop = loop.New("validatingadmissionpolicy-status", c.sync, log)
	_, err := policies.Informer().AddEventHandler(c.loop.Handler())
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 1, c.synced) }

func (c *Controller) sync(ctx context.Context, name string) error {
	policy, err := c.policies.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	if policy.Status.ObservedGeneration == policy.Generation {
		return nil
	}
	policy = policy.DeepCopy()
	policy.Status.TypeChecking = &admissionv1.TypeChecking{ExpressionWarnings: c.check(policy)}
	policy.Status.ObservedGeneration = policy.Generation
	_, err = c.client.AdmissionregistrationV1().ValidatingAdmissionPolicies().UpdateStatus(ctx, policy, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}
