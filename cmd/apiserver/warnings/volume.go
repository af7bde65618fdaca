package warnings

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// plugin is a sort of volume that is on its way out, or gone.
type plugin struct {
	name, state string
	used        bool
}

func plugins(list []plugin, p *field.Path) []string {
	var out []string
	for _, g := range list {
		if g.used {
			out = append(out, fmt.Sprintf("%s: %s", p.Child(g.name), g.state))
		}
	}
	return out
}

const (
	goneIn116 = "deprecated in v1.11, non-functional in v1.16+"
	goneIn122 = "deprecated in v1.16, non-functional in v1.22+"
	goneIn125 = "deprecated in v1.22, non-functional in v1.25+"
	goneIn126 = "deprecated in v1.25, non-functional in v1.26+"
	goneIn131 = "deprecated in v1.28, non-functional in v1.31+"
)

func volume(s *corev1.VolumeSource, p *field.Path) []string {
	out := plugins([]plugin{
		{"photonPersistentDisk", goneIn116, s.PhotonPersistentDisk != nil},
		{"gitRepo", "deprecated in v1.11, and disabled by default in v1.33+", s.GitRepo != nil},
		{"scaleIO", goneIn122, s.ScaleIO != nil},
		{"flocker", goneIn125, s.Flocker != nil},
		{"storageos", goneIn125, s.StorageOS != nil},
		{"quobyte", goneIn125, s.Quobyte != nil},
		{"glusterfs", goneIn126, s.Glusterfs != nil},
		{"cephfs", goneIn131, s.CephFS != nil},
		{"rbd", goneIn131, s.RBD != nil},
	}, p)
	if s.Ephemeral != nil && s.Ephemeral.VolumeClaimTemplate != nil {
		t := s.Ephemeral.VolumeClaimTemplate
		for _, w := range claim(&t.Spec, t.Annotations) {
			out = append(out, fmt.Sprintf("%s.%s", p.Child("ephemeral", "volumeClaimTemplate"), w))
		}
	}
	return out
}

func persistentVolume(v *corev1.PersistentVolume) []string {
	annotations := field.NewPath("metadata", "annotations")
	var out []string
	for _, d := range []struct{ key, field, since string }{
		{corev1.BetaStorageClassAnnotation, "storageClassName", "v1.8"}, {corev1.MountOptionAnnotation, "mountOptions", "v1.31"},
	} {
		if _, ok := v.Annotations[d.key]; ok {
			out = append(out, fmt.Sprintf("%s: deprecated since %s; use %q attribute instead", annotations.Key(d.key), d.since, d.field))
		}
	}
	s, spec := &v.Spec, field.NewPath("spec")
	if s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		out = append(out, fmt.Sprintf("%s: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.", spec.Child("persistentVolumeReclaimPolicy")))
	}
	if n := s.NodeAffinity; n != nil && n.Required != nil {
		for i := range n.Required.NodeSelectorTerms {
			out = append(out, nodeTerm(&n.Required.NodeSelectorTerms[i], spec.Child("nodeAffinity", "required", "nodeSelectorTerms").Index(i))...)
		}
	}
	return append(out, plugins([]plugin{
		{"photonPersistentDisk", goneIn116, s.PhotonPersistentDisk != nil},
		{"scaleIO", goneIn122, s.ScaleIO != nil},
		{"flocker", goneIn125, s.Flocker != nil},
		{"storageos", goneIn125, s.StorageOS != nil},
		{"quobyte", goneIn125, s.Quobyte != nil},
		{"glusterfs", goneIn126, s.Glusterfs != nil},
		{"cephfs", goneIn131, s.CephFS != nil},
		{"rbd", goneIn131, s.RBD != nil},
	}, spec)...)
}

func claim(s *corev1.PersistentVolumeClaimSpec, annotations map[string]string) []string {
	var out []string
	if _, ok := annotations[corev1.BetaStorageClassAnnotation]; ok {
		out = append(out, fmt.Sprintf("%s: deprecated since v1.8; use \"storageClassName\" attribute instead", field.NewPath("metadata", "annotations").Key(corev1.BetaStorageClassAnnotation)))
	}
	resources := field.NewPath("spec", "resources")
	out = append(out, fraction(s.Resources.Requests, corev1.ResourceStorage, resources.Child("requests"))...)
	return append(out, fraction(s.Resources.Limits, corev1.ResourceStorage, resources.Child("limits"))...)
}

// fraction warns of a part of a byte, as 100m (a tenth) is when 100M (a hundred million) was meant.
func fraction(l corev1.ResourceList, name corev1.ResourceName, p *field.Path) []string {
	q, ok := l[name]
	if !ok || q.MilliValue()%int64(1000) == 0 || q.Cmp(*resource.NewQuantity(1<<40, resource.BinarySI)) > 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s: fractional byte value %q is invalid, must be an integer", p.Key(string(name)), q.String())}
}
