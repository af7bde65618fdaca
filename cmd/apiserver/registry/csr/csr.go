// Package csr serves certificate signing requests and their approval subresource.
package csr

import (
	"context"
	"maps"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
	rules "github.com/orlop-io/orlop/cmd/apiserver/validation"
)

// Resource describes certificate signing requests.
func Resource() *store.Resource {
	return &store.Resource{
		GV: certificatesv1.SchemeGroupVersion, Kind: "CertificateSigningRequest", Plural: "certificatesigningrequests",
		Singular: "certificatesigningrequest", Short: []string{"csr"}, Cluster: true,
		Fields: func(obj runtime.Object) fields.Set {
			return fields.Set{"spec.signerName": obj.(*certificatesv1.CertificateSigningRequest).Spec.SignerName}
		},
		PrepareCreate: func(ctx context.Context, obj runtime.Object) {
			signAs(ctx, obj.(*certificatesv1.CertificateSigningRequest))
		},
		// What was asked for never changes: an approver must be sure that what it read is what is signed.
		PrepareUpdate: func(_ context.Context, obj, old runtime.Object) {
			obj.(*certificatesv1.CertificateSigningRequest).Spec = *old.(*certificatesv1.CertificateSigningRequest).Spec.DeepCopy()
		},
		PrepareStatus: func(_ context.Context, obj, old runtime.Object) {
			csr, was := obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest)
			keepDecision(&csr.Status, was.Status)
			stampConditions(csr, was)
		},
	}
}

// signAs writes who asked, whatever the request says about it.
func signAs(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) {
	csr.Spec.Username, csr.Spec.UID, csr.Spec.Groups, csr.Spec.Extra = "", "", nil, nil
	user, ok := request.UserFrom(ctx)
	if !ok {
		return
	}
	csr.Spec.Username, csr.Spec.UID, csr.Spec.Groups = user.GetName(), user.GetUID(), user.GetGroups()
	if extra := user.GetExtra(); len(extra) > 0 {
		csr.Spec.Extra = map[string]certificatesv1.ExtraValue{}
		for k, v := range extra {
			csr.Spec.Extra[k] = v
		}
	}
}

func decision(t certificatesv1.RequestConditionType) bool {
	return t == certificatesv1.CertificateApproved || t == certificatesv1.CertificateDenied
}

// keepDecision undoes changes of the approval by updates of status: approving has a permission of its own.
func keepDecision(status *certificatesv1.CertificateSigningRequestStatus, was certificatesv1.CertificateSigningRequestStatus) {
	var kept []certificatesv1.CertificateSigningRequestCondition
	for _, c := range was.Conditions {
		if decision(c.Type) {
			kept = append(kept, c)
		}
	}
	for _, c := range status.Conditions {
		if !decision(c.Type) {
			kept = append(kept, c)
		}
	}
	status.Conditions = kept
}

// stampConditions sets the times that approvers leave out.
func stampConditions(csr, was *certificatesv1.CertificateSigningRequest) {
	now := metav1.Now()
	before := map[certificatesv1.RequestConditionType]certificatesv1.CertificateSigningRequestCondition{}
	for _, c := range was.Status.Conditions {
		before[c.Type] = c
	}
	for i := range csr.Status.Conditions {
		c := &csr.Status.Conditions[i]
		old, existed := before[c.Type]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if c.LastTransitionTime.IsZero() {
			c.LastTransitionTime = now
			if existed && old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
		}
	}
}

// Approval returns the storage of certificatesigningrequests/approval. s was made from Resource.
func Approval(s *store.Storage) *store.Subresource {
	a := approvalStrategy{s.StatusStrategy()}
	return s.Subresource(a, a)
}

type approvalStrategy struct{ store.UpdateStrategy }

// PrepareForUpdate takes the conditions and nothing else.
func (approvalStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	csr, was := obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest)
	kept := was.DeepCopy()
	conditions := csr.Status.Conditions
	labels, annotations := maps.Clone(csr.Labels), maps.Clone(csr.Annotations)
	managed := csr.ManagedFields
	version := csr.ResourceVersion
	kept.ObjectMeta.DeepCopyInto(&csr.ObjectMeta)
	csr.Labels, csr.Annotations, csr.ManagedFields, csr.ResourceVersion = labels, annotations, managed, version
	csr.Spec, csr.Status = kept.Spec, kept.Status
	csr.Status.Conditions = conditions
	stampConditions(csr, was)
}

func (approvalStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	csr, was := obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest)
	errs := validation.ValidateObjectMetaUpdate(&csr.ObjectMeta, &was.ObjectMeta, field.NewPath("metadata"))
	return append(errs, rules.SigningDecision(csr, was)...)
}

func (approvalStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{
		fieldpath.APIVersion(certificatesv1.SchemeGroupVersion.String()): fieldpath.NewSet(
			fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("status", "certificate")),
	}
}
