package corev1

import (
	"context"
	"strings"

	"k8s.io/apimachinery/pkg/api/operation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateCustom_EvictionResponder_Name keeps the project's own domains from other responders.
func ValidateCustom_EvictionResponder_Name(_ context.Context, _ operation.Operation, p *field.Path, obj, _ *string) field.ErrorList {
	if obj == nil {
		return nil
	}
	domain, _, _ := strings.Cut(*obj, "/")
	for _, reserved := range []string{"k8s.io", "kubernetes.io"} {
		if domain == reserved || strings.HasSuffix(domain, "."+reserved) {
			return field.ErrorList{field.Invalid(p, *obj, "domain names *.k8s.io, *.kubernetes.io are reserved")}
		}
	}
	return nil
}

// ValidateCustom_EvictionResponder_Priority keeps the lowest priorities for the project's own responders, which the name's rule
// does not let in.
func ValidateCustom_EvictionResponder_Priority(_ context.Context, _ operation.Operation, p *field.Path, obj, _ *int32) field.ErrorList {
	if obj != nil && *obj >= 0 && *obj < 1000 {
		return field.ErrorList{field.Invalid(p, *obj, "the interval 0-999 is reserved")}
	}
	return nil
}
