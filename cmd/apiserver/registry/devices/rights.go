package devices

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// statusRights asks more than the right to write the status of claims, which every driver needs to report on its devices:
// allocations and reservations are written by those who may update resourceclaims/binding, and a driver's reports by those who
// may update resourceclaims/driver under the driver's name, from the claim's node or from any.
func statusRights(ctx context.Context, authz authorizer.Authorizer, claim, old *resourcev1.ResourceClaim) field.ErrorList {
	who, ok := request.UserFrom(ctx)
	info, known := request.RequestInfoFrom(ctx)
	if authz == nil || !ok || !known {
		return nil // nobody asked: the server itself, or a test
	}
	may := func(verb, subresource, name string) error {
		decision, reason, err := authz.Authorize(ctx, authorizer.AttributesRecord{
			User: who, Verb: verb, Namespace: claim.Namespace, APIGroup: resourcev1.GroupName, APIVersion: "*",
			Resource: "resourceclaims", Subresource: subresource, Name: name, ResourceRequest: true,
		})
		if decision == authorizer.DecisionAllow {
			return nil
		}
		if err != nil {
			reason = err.Error()
		}
		return fmt.Errorf("user %q cannot %s resource \"resourceclaims/%s\" in API group %q in the namespace %q: %s",
			who.GetName(), verb, subresource, resourcev1.GroupName, claim.Namespace, reason)
	}
	var errs field.ErrorList
	for name, changed := range map[string]bool{
		"allocation":  !equality.Semantic.DeepEqual(claim.Status.Allocation, old.Status.Allocation),
		"reservedFor": !equality.Semantic.DeepEqual(claim.Status.ReservedFor, old.Status.ReservedFor),
	} {
		if !changed {
			continue
		}
		if err := may(info.Verb, resourcev1.SubresourceBinding, claim.Name); err != nil {
			errs = append(errs, field.Forbidden(field.NewPath("status", name), err.Error()))
		}
	}
	for _, driver := range changedDrivers(claim.Status.Devices, old.Status.Devices) {
		err := may(resourcev1.VerbPrefixArbitraryNode+info.Verb, resourcev1.SubresourceDriver, driver)
		if err != nil && onNodeOf(who, claim.Status.Allocation) {
			err = may(resourcev1.VerbPrefixAssociatedNode+info.Verb, resourcev1.SubresourceDriver, driver)
		}
		if err != nil {
			errs = append(errs, field.Forbidden(field.NewPath("status", "devices"), err.Error()))
		}
	}
	return errs
}

// changedDrivers lists the drivers whose reports differ.
func changedDrivers(now, old []resourcev1.AllocatedDeviceStatus) []string {
	by := func(all []resourcev1.AllocatedDeviceStatus) map[string][]resourcev1.AllocatedDeviceStatus {
		out := map[string][]resourcev1.AllocatedDeviceStatus{}
		for _, d := range all {
			out[d.Driver] = append(out[d.Driver], d)
		}
		return out
	}
	a, b := by(now), by(old)
	var out []string
	for driver := range a {
		if !equality.Semantic.DeepEqual(a[driver], b[driver]) {
			out = append(out, driver)
		}
	}
	for driver := range b {
		if _, ok := a[driver]; !ok {
			out = append(out, driver)
		}
	}
	slices.Sort(out)
	return out
}

// onNodeOf says whether the user is a service account whose token is bound to the node that the allocation is for.
func onNodeOf(who user.Info, a *resourcev1.AllocationResult) bool {
	nodes := who.GetExtra()[serviceaccount.NodeNameKey]
	if len(nodes) != 1 || a == nil || a.NodeSelector == nil {
		return false
	}
	for _, term := range a.NodeSelector.NodeSelectorTerms {
		for _, f := range term.MatchFields {
			if f.Key == metav1.ObjectNameField && f.Operator == corev1.NodeSelectorOpIn && len(f.Values) == 1 && f.Values[0] == nodes[0] {
				return true
			}
		}
	}
	return false
}
