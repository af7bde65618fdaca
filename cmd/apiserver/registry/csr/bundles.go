package csr

import (
	"context"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
)

// TrustBundles describes cluster trust bundles, whose names depend on their signer's.
func TrustBundles() *store.Resource {
	return &store.Resource{
		GV: certificatesv1.SchemeGroupVersion, Kind: "ClusterTrustBundle", Plural: "clustertrustbundles", Singular: "clustertrustbundle",
		Cluster: true, Name: path.ValidatePathSegmentName,
		Fields: func(obj runtime.Object) fields.Set {
			return fields.Set{"spec.signerName": obj.(*certificatesv1.ClusterTrustBundle).Spec.SignerName}
		},
		Validate: func(_ context.Context, obj runtime.Object) field.ErrorList {
			bundle := obj.(*certificatesv1.ClusterTrustBundle)
			var errs field.ErrorList
			for _, message := range bundleName(bundle.Name, bundle.Spec.SignerName) {
				errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), bundle.Name, message))
			}
			return errs
		},
	}
}

// bundleName says what is wrong with the name of a bundle of that signer.
func bundleName(name, signer string) []string {
	if signer == "" {
		if strings.Contains(name, ":") {
			return []string{`ClusterTrustBundle without signer name must not have ":" in its name`}
		}
		return validation.NameIsDNSSubdomain(name, false)
	}
	prefix := strings.ReplaceAll(signer, "/", ":") + ":"
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return []string{fmt.Sprintf("ClusterTrustBundle for signerName %s must be named with prefix %s", signer, prefix)}
	}
	return validation.NameIsDNSSubdomain(rest, false)
}

// PodRequests describes pod certificate requests.
func PodRequests() *store.Resource {
	return &store.Resource{
		GV: certificatesv1.SchemeGroupVersion, Kind: "PodCertificateRequest", Plural: "podcertificaterequests", Singular: "podcertificaterequest",
		Fields: func(obj runtime.Object) fields.Set {
			spec := &obj.(*certificatesv1.PodCertificateRequest).Spec
			return fields.Set{"spec.signerName": spec.SignerName, "spec.podName": spec.PodName, "spec.nodeName": string(spec.NodeName)}
		},
		PrepareStatus: func(_ context.Context, obj, old runtime.Object) {
			stampPodConditions(obj.(*certificatesv1.PodCertificateRequest), old.(*certificatesv1.PodCertificateRequest))
		},
	}
}

// stampPodConditions sets the times that signers leave out.
func stampPodConditions(p, was *certificatesv1.PodCertificateRequest) {
	now := metav1.Now()
	for i := range p.Status.Conditions {
		c := &p.Status.Conditions[i]
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		for _, old := range was.Status.Conditions {
			if old.Type == c.Type && old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
		}
	}
}
