package scheduler

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/utils/ptr"
)

// selectedNode is the annotation that tells a provisioner where a claim's volume is needed.
const selectedNode = "volume.kubernetes.io/selected-node"

// offer is a volume that a claim could get.
type offer struct {
	volume   *corev1.PersistentVolume
	size     int64
	affinity *nodeaffinity.LazyErrorNodeSelector // nil is any node
}

func (o offer) reaches(node *Node) bool {
	if o.affinity == nil {
		return true
	}
	ok, err := o.affinity.Match(node.Node)
	return err == nil && ok
}

// delayedClaim is a claim that gets its volume only when its first pod gets a node.
type delayedClaim struct {
	claim *corev1.PersistentVolumeClaim
	// offers are in order of size, then of name.
	offers []offer
	// provisioned tells that a volume can be made where topologies allow; without any, everywhere.
	provisioned bool
	topologies  []corev1.TopologySelectorTerm
}

// assignment is what a claim gets on a node: a volume, or with nil one to be made there.
type assignment struct {
	claim  *corev1.PersistentVolumeClaim
	volume *corev1.PersistentVolume
}

// assign finds volumes for all the claims on node; ok is false where one gets none.
func (r *Request) assign(node *Node) (all []assignment, ok bool) {
	taken := map[string]bool{}
	for _, d := range r.Delayed {
		if chosen := d.claim.Annotations[selectedNode]; chosen != "" {
			if chosen != node.Name {
				return nil, false // its volume is being made elsewhere
			}
			all = append(all, assignment{claim: d.claim})
			continue
		}
		at := slices.IndexFunc(d.offers, func(o offer) bool { return !taken[o.volume.Name] && o.reaches(node) })
		switch {
		case at >= 0:
			taken[d.offers[at].volume.Name] = true
			all = append(all, assignment{d.claim, d.offers[at].volume})
		case d.provisioned && allowed(d.topologies, node):
			all = append(all, assignment{claim: d.claim})
		default:
			return nil, false
		}
	}
	return all, true
}

// allowed tells whether node is in one of the topologies.
func allowed(terms []corev1.TopologySelectorTerm, node *Node) bool {
	return len(terms) == 0 || slices.ContainsFunc(terms, func(t corev1.TopologySelectorTerm) bool {
		return !slices.ContainsFunc(t.MatchLabelExpressions, func(e corev1.TopologySelectorLabelRequirement) bool {
			return !slices.Contains(e.Values, node.Labels[e.Key])
		})
	})
}

func (d *decision) checkVolumes(node *Node) []misfit {
	for _, v := range d.req.Volumes {
		if ok, err := v.Match(node.Node); err != nil || !ok {
			return []misfit{{"node(s) didn't match PersistentVolume's node affinity", byBinding, false}}
		}
	}
	if _, ok := d.req.assign(node); !ok {
		return []misfit{{"node(s) didn't find available persistent volumes to bind", byBinding, false}}
	}
	return nil
}

func className(claim *corev1.PersistentVolumeClaim) string {
	return cmp.Or(claim.Annotations[corev1.BetaStorageClassAnnotation], ptr.Deref(claim.Spec.StorageClassName, ""))
}

// isDelayed tells classes whose claims wait for their first pod.
func isDelayed(class *storagev1.StorageClass) bool {
	return ptr.Deref(class.VolumeBindingMode, storagev1.VolumeBindingImmediate) == storagev1.VolumeBindingWaitForFirstConsumer
}

// offersFor lists the volumes that claim could get; kept are volumes that others were promised.
func offersFor(claim *corev1.PersistentVolumeClaim, volumes []*corev1.PersistentVolume, kept func(name string) bool) []offer {
	want := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	selector := labels.Everything()
	if claim.Spec.Selector != nil {
		selector = selectorOf(claim.Spec.Selector)
	}
	var offers []offer
	for _, v := range volumes {
		size := v.Spec.Capacity[corev1.ResourceStorage]
		switch {
		case v.DeletionTimestamp != nil || kept(v.Name) || !isFor(v, claim):
		case cmp.Or(v.Annotations[corev1.BetaStorageClassAnnotation], v.Spec.StorageClassName) != className(claim):
		case ptr.Deref(v.Spec.VolumeMode, corev1.PersistentVolumeFilesystem) != ptr.Deref(claim.Spec.VolumeMode, corev1.PersistentVolumeFilesystem):
		case ptr.Deref(v.Spec.VolumeAttributesClassName, "") != ptr.Deref(claim.Spec.VolumeAttributesClassName, ""):
		case size.Cmp(want) < 0 || !selector.Matches(labels.Set(v.Labels)):
		case slices.ContainsFunc(claim.Spec.AccessModes, func(m corev1.PersistentVolumeAccessMode) bool { return !slices.Contains(v.Spec.AccessModes, m) }):
		default:
			o := offer{volume: v, size: size.Value()}
			if v.Spec.NodeAffinity != nil && v.Spec.NodeAffinity.Required != nil {
				o.affinity = nodeaffinity.NewLazyErrorNodeSelector(v.Spec.NodeAffinity.Required)
			}
			offers = append(offers, o)
		}
	}
	slices.SortFunc(offers, func(a, b offer) int {
		return cmp.Or(cmp.Compare(a.size, b.size), cmp.Compare(a.volume.Name, b.volume.Name))
	})
	return offers
}

// isFor tells that v is free, or kept for claim by somebody.
func isFor(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	ref := v.Spec.ClaimRef
	if ref == nil {
		return v.Status.Phase == corev1.VolumeAvailable || v.Status.Phase == corev1.VolumePending || v.Status.Phase == ""
	}
	return ref.Namespace == claim.Namespace && ref.Name == claim.Name && (ref.UID == "" || ref.UID == claim.UID)
}
