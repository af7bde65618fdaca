package scheduler

import (
	"fmt"
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/utils/ptr"
)

// randomVolume is one of a few claims, or of a few disks.
func randomVolume(r *rand.Rand) corev1.Volume {
	v := corev1.Volume{Name: fmt.Sprint("v", r.Int())}
	switch r.IntN(5) {
	case 0:
		v.GCEPersistentDisk = &corev1.GCEPersistentDiskVolumeSource{PDName: fmt.Sprint("d", r.IntN(2)), ReadOnly: r.IntN(2) == 0}
	default:
		v.PersistentVolumeClaim = &corev1.PersistentVolumeClaimVolumeSource{ClaimName: fmt.Sprint("c", r.IntN(6))}
	}
	return v
}

// randomStorage has six claims, bound to volumes of one driver: some are for one pod at a time, some bound to zones by labels or
// by affinity. Some nodes take two volumes at most, and some have one attached that no pod has.
func randomStorage(r *rand.Rand, nodes []*corev1.Node) *Storage {
	s := newStorage()
	for i := range 6 {
		name := fmt.Sprint("c", i)
		claim := testClaim(name, "1Gi", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.VolumeName = name
			if r.IntN(3) == 0 {
				c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
			}
		})
		s.Claims["default/"+name] = claim
		s.Volumes[name] = testVolume(name, "1Gi", func(v *corev1.PersistentVolume) {
			v.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: fmt.Sprint("h", i)}
			switch r.IntN(6) {
			case 0:
				v.Labels = map[string]string{corev1.LabelTopologyZone: []string{"0", "1", "0__1"}[r.IntN(3)]}
			case 1:
				v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
					MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{"1"}}}}}}}
			}
		})
	}
	for _, n := range nodes {
		if zone := n.Labels["zone"]; zone != "" && r.IntN(2) == 0 {
			n.Labels[corev1.LabelTopologyZone] = zone
		}
		if r.IntN(2) == 0 {
			s.Nodes[n.Name] = &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: n.Name}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{
				{Name: "d", Allocatable: &storagev1.VolumeNodeResources{Count: ptr.To[int32](2)}}}}}
		}
		if r.IntN(4) == 0 {
			a := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "a-" + n.Name}}
			a.Spec.NodeName, a.Spec.Source.PersistentVolumeName = n.Name, ptr.To("c0")
			s.attach(a)
		}
	}
	return s
}

// claimsOf are the names of p's claims.
func claimsOf(p *corev1.Pod) map[string]bool {
	names := map[string]bool{}
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			names[v.PersistentVolumeClaim.ClaimName] = true
		}
	}
	return names
}

// bound are the affinities of the volumes of p's claims.
func (m model) bound(p *corev1.Pod) (all []*nodeaffinity.LazyErrorNodeSelector) {
	for name := range claimsOf(p) {
		if a := m.storage.Volumes[name].Spec.NodeAffinity; a != nil {
			all = append(all, nodeaffinity.NewLazyErrorNodeSelector(a.Required))
		}
	}
	return all
}

// volumesFit asks each claim of each pod, one after the other.
func (m model) volumesFit(p *corev1.Pod, n *corev1.Node) bool {
	on := map[string]bool{}
	for _, a := range m.storage.Attached[n.Name] {
		on[*a.Spec.Source.PersistentVolumeName] = true
	}
	for _, o := range m.pods {
		for name := range claimsOf(o) {
			if claimsOf(p)[name] && m.storage.Claims["default/"+name].Spec.AccessModes[0] == corev1.ReadWriteOncePod {
				return false
			}
			if o.Spec.NodeName == n.Name {
				on[name] = true
			}
		}
		if o.Spec.NodeName == n.Name && shareDisk(p, o) {
			return false
		}
	}
	more := false
	for name := range claimsOf(p) {
		more = more || !on[name]
		on[name] = true
		v := m.storage.Volumes[name]
		if v.Spec.NodeAffinity != nil && n.Labels["zone"] != "1" {
			return false
		}
		here, zoned := n.Labels[corev1.LabelTopologyZone]
		if there := v.Labels[corev1.LabelTopologyZone]; zoned && there != "" && there != "0__1" && there != here {
			return false
		}
	}
	return m.storage.Nodes[n.Name] == nil || !more || len(on) <= 2
}

// shareDisk tells whether p and o both want a disk that one of them writes.
func shareDisk(p, o *corev1.Pod) bool {
	for _, a := range p.Spec.Volumes {
		for _, b := range o.Spec.Volumes {
			if x, y := a.GCEPersistentDisk, b.GCEPersistentDisk; x != nil && y != nil && x.PDName == y.PDName && !(x.ReadOnly && y.ReadOnly) {
				return true
			}
		}
	}
	return false
}
