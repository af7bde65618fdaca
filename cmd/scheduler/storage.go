package scheduler

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/ephemeral"
)

// Storage is what the API says of the volumes in the cluster. Decide only reads it.
type Storage struct {
	Claims  map[string]*corev1.PersistentVolumeClaim // by namespace/name
	Volumes map[string]*corev1.PersistentVolume
	Classes map[string]*storagev1.StorageClass
	// Nodes say how many volumes of each driver a node takes.
	Nodes map[string]*storagev1.CSINode
	// Attached are by node, then by name.
	Attached map[string]map[string]*storagev1.VolumeAttachment
}

func newStorage() *Storage {
	return &Storage{
		Claims: map[string]*corev1.PersistentVolumeClaim{}, Volumes: map[string]*corev1.PersistentVolume{}, Classes: map[string]*storagev1.StorageClass{},
		Nodes: map[string]*storagev1.CSINode{}, Attached: map[string]map[string]*storagev1.VolumeAttachment{},
	}
}

// attach takes an attachment in.
func (s *Storage) attach(a *storagev1.VolumeAttachment) {
	if s.Attached[a.Spec.NodeName] == nil {
		s.Attached[a.Spec.NodeName] = map[string]*storagev1.VolumeAttachment{}
	}
	s.Attached[a.Spec.NodeName][a.Name] = a
}

// detach forgets it.
func (s *Storage) detach(a *storagev1.VolumeAttachment) {
	delete(s.Attached[a.Spec.NodeName], a.Name)
	if len(s.Attached[a.Spec.NodeName]) == 0 {
		delete(s.Attached, a.Spec.NodeName)
	}
}

// attachment is a volume as its CSI driver knows it.
type attachment struct{ driver, handle string }

// ofVolume says what a node attaches for a volume; ok is false for volumes of no CSI driver.
func ofVolume(v *corev1.PersistentVolume) (a attachment, ok bool) {
	if v == nil || v.Spec.CSI == nil {
		return a, false
	}
	return attachment{v.Spec.CSI.Driver, v.Spec.CSI.VolumeHandle}, true
}

// ofClaim says the same of a claim; one without a volume gets one of its class's provisioner.
func (s *Storage) ofClaim(key string) (a attachment, ok bool) {
	claim := s.Claims[key]
	if claim == nil {
		return a, false
	}
	if claim.Spec.VolumeName != "" {
		return ofVolume(s.Volumes[claim.Spec.VolumeName])
	}
	class := s.Classes[className(claim)]
	if class == nil || class.Provisioner == noProvisioner {
		return a, false
	}
	return attachment{class.Provisioner, "claim " + key}, true
}

// disk is a volume of a pod that names a device itself, and that two pods on a node cannot share.
type disk struct {
	kind     string
	name     string
	monitors []string // of a Ceph image
	readOnly bool
}

// clashes tells whether two pods on one node cannot have a and b. An EBS volume is never shared.
func (a disk) clashes(b disk) bool {
	switch {
	case a.kind != b.kind || a.name != b.name:
		return false
	case a.kind == kindRBD && !slices.ContainsFunc(a.monitors, func(m string) bool { return slices.Contains(b.monitors, m) }):
		return false
	}
	return a.kind == kindEBS || !a.readOnly || !b.readOnly
}

const (
	kindGCE   = "gce"
	kindEBS   = "ebs"
	kindISCSI = "iscsi"
	kindRBD   = "rbd"
)

// volumesOf lists the claims, by namespace/name, and the disks of a pod.
func volumesOf(p *corev1.Pod) (claims []string, disks []disk) {
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			claims = append(claims, p.Namespace+"/"+v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			claims = append(claims, p.Namespace+"/"+ephemeral.VolumeClaimName(p, v))
		case v.GCEPersistentDisk != nil:
			disks = append(disks, disk{kind: kindGCE, name: v.GCEPersistentDisk.PDName, readOnly: v.GCEPersistentDisk.ReadOnly})
		case v.AWSElasticBlockStore != nil:
			disks = append(disks, disk{kind: kindEBS, name: v.AWSElasticBlockStore.VolumeID})
		case v.ISCSI != nil:
			disks = append(disks, disk{kind: kindISCSI, name: v.ISCSI.IQN, readOnly: v.ISCSI.ReadOnly})
		case v.RBD != nil:
			disks = append(disks, disk{kind: kindRBD, name: v.RBD.RBDPool + "/" + v.RBD.RBDImage, monitors: v.RBD.CephMonitors, readOnly: v.RBD.ReadOnly})
		}
	}
	return claims, disks
}

// storageWants are what a pod's volumes ask of a node.
type storageWants struct {
	// alone are the pod's claims that one pod in the cluster may use at a time, and users how many others do so by node.
	alone []string
	users map[string]int
	using int // on all nodes
	// attaches are the volumes to attach.
	attaches []attachment
	zones    []zone
}

// zone is a place to which a volume is bound by a label.
type zone struct {
	key    string
	values []string
}

// zoneLabels are the labels that bind volumes to places, each with its older name.
func zoneLabels() map[string]string {
	return map[string]string{
		corev1.LabelTopologyZone: corev1.LabelFailureDomainBetaZone, corev1.LabelTopologyRegion: corev1.LabelFailureDomainBetaRegion,
	}
}

// wantsOf works out what the volumes of req ask for.
func wantsOf(snap *Snapshot, req *Request) (w storageWants) {
	s := snap.Storage
	if s == nil {
		return w
	}
	for _, key := range req.claims {
		if a, ok := s.ofClaim(key); ok && !slices.Contains(w.attaches, a) {
			w.attaches = append(w.attaches, a)
		}
		claim := s.Claims[key]
		if claim == nil {
			continue
		}
		if slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
			w.alone = append(w.alone, key)
		}
		if v := s.Volumes[claim.Spec.VolumeName]; v != nil {
			w.zones = append(w.zones, zonesOf(v)...)
		}
	}
	if len(w.alone) == 0 {
		return w
	}
	w.users = map[string]int{}
	for _, node := range snap.Nodes {
		if n := w.usersOn(node, req); n > 0 {
			w.users[node.Name] = n
			w.using += n
		}
	}
	return w
}

// usersOn counts the other pods on node with a claim that req wants for itself.
func (w *storageWants) usersOn(node *Node, req *Request) (n int) {
	for _, p := range node.pods {
		if p.UID != req.UID && slices.ContainsFunc(p.claims, func(c string) bool { return slices.Contains(w.alone, c) }) {
			n++
		}
	}
	return n
}

func zonesOf(v *corev1.PersistentVolume) (all []zone) {
	for key, older := range zoneLabels() {
		for _, k := range []string{key, older} {
			if value, ok := v.Labels[k]; ok {
				all = append(all, zone{k, strings.Split(value, "__")})
			}
		}
	}
	return all
}

// checkRestrictions keeps pods apart that cannot share a disk, or a claim.
func (d *decision) checkRestrictions(node *Node) []misfit {
	if len(d.req.disks) > 0 {
		for _, p := range node.pods {
			for _, a := range p.disks {
				if p.UID != d.req.UID && slices.ContainsFunc(d.req.disks, a.clashes) {
					return []misfit{{"node(s) had no available disk", byRestrictions, true}}
				}
			}
		}
	}
	if len(d.alone) > 0 && d.using-d.users[node.Name]+d.usersOn(node, d.req) > 0 {
		return []misfit{{"node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode", byRestrictions, true}}
	}
	return nil
}

// checkLimits counts the volumes that each driver would have on the node.
func (d *decision) checkLimits(node *Node) []misfit {
	s := d.snap.Storage
	limits := s.Nodes[node.Name]
	if limits == nil {
		return nil
	}
	used := s.usedOn(node, d.req)
	for _, driver := range limits.Spec.Drivers {
		if driver.Allocatable == nil || driver.Allocatable.Count == nil {
			continue
		}
		have, more := 0, 0
		for a := range used {
			if a.driver == driver.Name {
				have++
			}
		}
		for _, a := range d.attaches {
			if a.driver == driver.Name && !used[a] {
				more++
			}
		}
		if more > 0 && have+more > int(*driver.Allocatable.Count) {
			return []misfit{{"node(s) exceed max volume count", byLimits, true}}
		}
	}
	return nil
}

// usedOn are the volumes on node: of its pods but req, and those attached to it.
func (s *Storage) usedOn(node *Node, req *Request) map[attachment]bool {
	used := map[attachment]bool{}
	for _, p := range node.pods {
		if p.UID == req.UID {
			continue
		}
		for _, key := range p.claims {
			if a, ok := s.ofClaim(key); ok {
				used[a] = true
			}
		}
	}
	for _, va := range s.Attached[node.Name] {
		if name := va.Spec.Source.PersistentVolumeName; name != nil {
			if a, ok := ofVolume(s.Volumes[*name]); ok {
				used[a] = true
			}
		}
	}
	return used
}

// checkZone sees that the node is where the pod's volumes are. A node without any such label is taken to be everywhere.
func (d *decision) checkZone(node *Node) []misfit {
	labelled := false
	for key, older := range zoneLabels() {
		_, is := node.Labels[key]
		_, was := node.Labels[older]
		labelled = labelled || is || was
	}
	if !labelled {
		return nil
	}
	for _, z := range d.zones {
		value, ok := node.Labels[z.key]
		for key, older := range zoneLabels() {
			if !ok && z.key == older { // volumes of old, on a node with the new label
				value, ok = node.Labels[key]
			}
		}
		if !ok || !slices.Contains(z.values, value) {
			return []misfit{{"node(s) had no available volume zone", byZone, false}}
		}
	}
	return nil
}
