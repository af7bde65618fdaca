package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	adm "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// ownerReferences lets only those change an object's owners who may delete it, since an owner takes it along when it
// goes; and only those hold up an owner's end who may set the owner's finalizers.
type ownerReferences struct {
	*adm.Handler
	authz  authorizer.UnconditionalAuthorizer
	mapper meta.RESTMapper
}

var (
	_ adm.ValidationInterface                  = (*ownerReferences)(nil)
	_ initializer.WantsUnconditionalAuthorizer = (*ownerReferences)(nil)
	_ initializer.WantsRESTMapper              = (*ownerReferences)(nil)
)

func newOwnerReferences() *ownerReferences {
	return &ownerReferences{Handler: adm.NewHandler(adm.Create, adm.Update)}
}

func (o *ownerReferences) SetUnconditionalAuthorizer(a authorizer.UnconditionalAuthorizer) {
	o.authz = a
}

func (o *ownerReferences) SetRESTMapper(m meta.RESTMapper) { o.mapper = m }

func (o *ownerReferences) ValidateInitialization() error {
	if o.authz == nil || o.mapper == nil {
		return errors.New("OwnerReferencesPermissionEnforcement: no authorizer or no REST mapper")
	}
	return nil
}

func (o *ownerReferences) Validate(ctx context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	if a.GetSubresource() == "status" {
		return nil // which keeps metadata as it is
	}
	now, old := owners(a.GetObject()), owners(a.GetOldObject())
	if equal(now, old) {
		return nil
	}
	if a.GetOperation() == adm.Update {
		attrs := authorizer.AttributesRecord{User: a.GetUserInfo(), Verb: "delete", Namespace: a.GetNamespace(), APIGroup: a.GetResource().Group,
			APIVersion: a.GetResource().Version, Resource: a.GetResource().Resource, Subresource: a.GetSubresource(), Name: a.GetName(), ResourceRequest: true}
		if allowed, reason, err := o.may(ctx, attrs); !allowed {
			return adm.NewForbidden(a, fmt.Errorf("cannot set an ownerRef on a resource you can't delete: %v, %v", reason, err))
		}
	}
	for _, ref := range newlyBlocking(now, old) {
		if err := o.mayBlock(ctx, a, ref); err != nil {
			return adm.NewForbidden(a, err)
		}
	}
	return nil
}

func (o *ownerReferences) may(ctx context.Context, attrs authorizer.Attributes) (bool, string, error) {
	decision, reason, err := o.authz.Authorize(ctx, attrs)
	return decision == authorizer.DecisionAllow, reason, err
}

func (o *ownerReferences) mayBlock(ctx context.Context, a adm.Attributes, ref metav1.OwnerReference) error {
	const refusal = "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: "
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return fmt.Errorf("cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion %v Kind %v: %v", ref.APIVersion, ref.Kind, err)
	}
	mappings, err := o.mapper.RESTMappings(gv.WithKind(ref.Kind).GroupKind(), gv.Version)
	if err != nil {
		return fmt.Errorf("cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion %v Kind %v: %v", ref.APIVersion, ref.Kind, err)
	}
	for _, m := range mappings {
		attrs := authorizer.AttributesRecord{User: a.GetUserInfo(), Verb: "update", APIGroup: m.Resource.Group, APIVersion: m.Resource.Version,
			Resource: m.Resource.Resource, Subresource: "finalizers", Name: ref.Name, ResourceRequest: true}
		if m.Scope.Name() == meta.RESTScopeNameNamespace {
			attrs.Namespace = a.GetNamespace()
		}
		if allowed, reason, err := o.may(ctx, attrs); !allowed {
			return fmt.Errorf(refusal+"%v, %v", reason, err)
		}
	}
	return nil
}

func owners(obj any) []metav1.OwnerReference {
	if o, ok := obj.(metav1.Object); ok && obj != nil {
		return o.GetOwnerReferences()
	}
	return nil
}

// newlyBlocking lists the references that hold up their owner's end and did not before.
func newlyBlocking(now, old []metav1.OwnerReference) []metav1.OwnerReference {
	blocks := func(r metav1.OwnerReference) bool { return r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion }
	var out []metav1.OwnerReference
	for _, r := range now {
		if blocks(r) && !slices.ContainsFunc(old, func(was metav1.OwnerReference) bool { return was.UID == r.UID && blocks(was) }) {
			out = append(out, r)
		}
	}
	return out
}
