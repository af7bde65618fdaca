// Package csr approves, signs and forgets CertificateSigningRequests.
//
// It approves only what a node asks for itself or a bootstrap token asks for a node,
// and only if the API server says that they may: kubeadm's rules for client
// certificates. Serving certificates of kubelets are approved too where the node may
// create certificatesigningrequests/selfnodeserver, for the names that its Node
// object alone has; without that right they wait for a person, as with upstream. It
// signs what is approved, for the signers that a cluster has by default.
package csr

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	certinformers "k8s.io/client-go/informers/certificates/v1"
	"k8s.io/client-go/kubernetes"
	certlisters "k8s.io/client-go/listers/certificates/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// Approver approves nodes' requests.
type Approver struct {
	client   kubernetes.Interface
	requests certlisters.CertificateSigningRequestLister
	loop     *loop.Loop
	synced   cache.InformerSynced
}

// NewApprover returns an Approver that has done nothing yet.
func NewApprover(client kubernetes.Interface, requests certinformers.CertificateSigningRequestInformer, log *slog.Logger) (*Approver, error) {
	a := &Approver{client: client, requests: requests.Lister(), synced: requests.Informer().HasSynced}
	a.loop = loop.New("csrapproving", a.sync, log)
	_, err := requests.Informer().AddEventHandler(a.loop.Handler())
	return a, err
}

// Run approves until ctx ends.
func (a *Approver) Run(ctx context.Context) error { return a.loop.Run(ctx, 1, a.synced) }

func (a *Approver) sync(ctx context.Context, name string) error {
	csr, err := a.requests.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	if len(csr.Status.Certificate) > 0 || has(csr, certificatesv1.CertificateApproved) || has(csr, certificatesv1.CertificateDenied) {
		return nil
	}
	if req, ok := serves(csr); ok {
		return a.approveServing(ctx, csr, req)
	}
	rule, ok := match(csr)
	if !ok {
		return nil
	}
	for _, right := range rule {
		allowed, err := a.mayCreate(ctx, csr, right.subresource)
		if err != nil {
			return fmt.Errorf("review access: %w", err)
		}
		if !allowed {
			continue
		}
		return a.approve(ctx, csr, right.message)
	}
	return fmt.Errorf("recognized csr %q as %s but subject access review was not approved", name, rule[0].subresource)
}

func (a *Approver) approve(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, why string) error {
	approved := csr.DeepCopy()
	approved.Status.Conditions = append(approved.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: why,
	})
	_, err := a.client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, approved, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("approve: %w", err)
	}
	return nil
}

// approveServing approves a kubelet's serving certificate. The error of a node that has not the right, or is not known by its names, yet
// makes it be looked at again: a kubelet asks when it has just registered.
func (a *Approver) approveServing(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, req *x509.CertificateRequest) error {
	allowed, err := a.mayCreate(ctx, csr, "selfnodeserver")
	if err != nil {
		return fmt.Errorf("review access: %w", err)
	}
	if !allowed { // the role's binding may come later than the node, as while a cluster begins
		return fmt.Errorf("recognized csr %q as selfnodeserver but subject access review was not approved: bind a role with that right to the node, or approve it by hand", csr.Name)
	}
	nodes, err := a.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return fmt.Errorf("look who node %s is: %w", csr.Spec.Username, err)
	}
	if err := ownNames(req, nodes.Items); err != nil {
		return fmt.Errorf("serving certificate: %w", err)
	}
	return a.approve(ctx, csr, "Auto approving kubelet serving certificate after SubjectAccessReview: its names are the node's.")
}

// mayCreate asks whether the requester may create that subresource of requests.
func (a *Approver) mayCreate(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, subresource string) (bool, error) {
	extra := make(map[string]authorizationv1.ExtraValue, len(csr.Spec.Extra))
	for k, v := range csr.Spec.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	review, err := a.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: csr.Spec.Username, UID: csr.Spec.UID, Groups: csr.Spec.Groups, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Group: "certificates.k8s.io", Resource: "certificatesigningrequests", Verb: "create", Subresource: subresource, Version: "*",
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return review.Status.Allowed, nil
}

func has(csr *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(csr.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == kind })
}

// Signing signs approved requests.
type Signing struct {
	client   kubernetes.Interface
	requests certlisters.CertificateSigningRequestLister
	signer   *Signer
	loop     *loop.Loop
	synced   cache.InformerSynced
}

// NewSigning returns a Signing that has done nothing yet.
func NewSigning(client kubernetes.Interface, requests certinformers.CertificateSigningRequestInformer, signer *Signer, log *slog.Logger) (*Signing, error) {
	s := &Signing{client: client, requests: requests.Lister(), signer: signer, synced: requests.Informer().HasSynced}
	s.loop = loop.New("csrsigning", s.sync, log)
	_, err := requests.Informer().AddEventHandler(s.loop.Handler())
	return s, err
}

// Run signs until ctx ends.
func (s *Signing) Run(ctx context.Context) error { return s.loop.Run(ctx, 1, s.synced) }

func (s *Signing) sync(ctx context.Context, name string) error {
	csr, err := s.requests.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	if !has(csr, certificatesv1.CertificateApproved) || has(csr, certificatesv1.CertificateDenied) ||
		has(csr, certificatesv1.CertificateFailed) || len(csr.Status.Certificate) > 0 || !signs(csr.Spec.SignerName) {
		return nil
	}
	signed := csr.DeepCopy()
	var refused *refusal
	pem, err := s.signer.Sign(csr, time.Now())
	switch {
	case errors.As(err, &refused):
		signed.Status.Conditions = append(signed.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure",
			Message: refused.Error(), LastUpdateTime: metav1.Now(),
		})
	case err != nil:
		return fmt.Errorf("sign: %w", err)
	default:
		signed.Status.Certificate = pem
	}
	_, err = s.client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, signed, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write certificate: %w", err)
	}
	return nil
}

// Cleaner deletes requests that nobody waits for any more.
type Cleaner struct {
	client   kubernetes.Interface
	requests certlisters.CertificateSigningRequestLister
	synced   cache.InformerSynced
	log      *slog.Logger
}

// NewCleaner returns a Cleaner that has done nothing yet.
func NewCleaner(client kubernetes.Interface, requests certinformers.CertificateSigningRequestInformer, log *slog.Logger) *Cleaner {
	return &Cleaner{client: client, requests: requests.Lister(), synced: requests.Informer().HasSynced, log: log}
}

// Run cleans every hour until ctx ends.
func (c *Cleaner) Run(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), c.synced) {
		return ctx.Err()
	}
	for {
		if err := c.once(ctx); err != nil {
			c.log.Warn("clean certificate requests", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Hour):
		}
	}
}

func (c *Cleaner) once(ctx context.Context) error {
	all, err := c.requests.List(labels.Everything())
	if err != nil {
		return err
	}
	var errs []error
	for _, csr := range all {
		if !Stale(csr, time.Now()) {
			continue
		}
		err := c.client.CertificatesV1().CertificateSigningRequests().Delete(ctx, csr.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(csr.UID))})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // another one of that name is not meant
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
