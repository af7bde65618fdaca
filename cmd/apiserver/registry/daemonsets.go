package registry

import (
	"maps"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// numberTemplate keeps the number of ds's template, which counts its changes since ds was made, in the annotation that
// took the place of the field spec.templateGeneration of versions before apps/v1. Old is nil where ds is new: only then
// may its author choose the number.
func numberTemplate(ds, old *appsv1.DaemonSet) {
	number := max(templateNumber(ds), 1)
	if old != nil {
		if number = templateNumber(old); !equality.Semantic.DeepEqual(old.Spec.Template, ds.Spec.Template) {
			number++
		}
	}
	annotations := maps.Clone(ds.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(number, 10)
	ds.Annotations = annotations
}

// templateNumber is 0 where ds says none.
func templateNumber(ds *appsv1.DaemonSet) int64 {
	n, err := strconv.ParseInt(ds.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	if err != nil {
		return 0
	}
	return n
}
