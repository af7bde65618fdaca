package resourcequota

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	library "k8s.io/apiserver/pkg/quota/v1"

	"github.com/orlop-io/orlop/cmd/quota"
)

// Status returns the status that q should have when so much is used, and whether it differs
// from the one it has. What could not be counted keeps its last number.
func Status(q *corev1.ResourceQuota, counted corev1.ResourceList) (corev1.ResourceQuotaStatus, bool) {
	status := corev1.ResourceQuotaStatus{Hard: q.Spec.Hard.DeepCopy(), Used: q.Status.Used.DeepCopy()}
	if status.Used == nil {
		status.Used = corev1.ResourceList{}
	}
	for name, n := range counted {
		status.Used[name] = n
	}
	status.Used = library.Mask(status.Used, library.ResourceNames(status.Hard))
	return status, !library.Equals(status.Hard, q.Status.Hard) || !library.Equals(status.Used, q.Status.Used)
}

// Counted lists the resources that a quota with those limits counts, beyond pods, services
// and claims, in order of name.
func Counted(hard corev1.ResourceList) []schema.GroupResource {
	ignored := quota.Ignored()
	var all []schema.GroupResource
	for name := range hard {
		gr, ok := countedBy(name)
		if _, never := ignored[gr]; ok && !never && !slices.Contains(all, gr) {
			all = append(all, gr)
		}
	}
	slices.SortFunc(all, func(a, b schema.GroupResource) int { return strings.Compare(a.String(), b.String()) })
	return all
}

func countedBy(name corev1.ResourceName) (schema.GroupResource, bool) {
	switch name {
	case corev1.ResourceConfigMaps, corev1.ResourceSecrets, corev1.ResourceQuotas, corev1.ResourceReplicationControllers:
		return corev1.Resource(string(name)), true
	}
	if strings.HasSuffix(string(name), ".deviceclass.resource.k8s.io/devices") {
		return resourcev1.Resource("resourceclaims"), true
	}
	resource, ok := strings.CutPrefix(string(name), "count/")
	if !ok {
		return schema.GroupResource{}, false
	}
	gr := schema.ParseGroupResource(resource)
	switch gr {
	case corev1.Resource("pods"), corev1.Resource("services"), corev1.Resource("persistentvolumeclaims"):
		return gr, false
	}
	return gr, gr.Resource != ""
}
