package volumebinder

import (
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// The annotations that tell how far a binding has come, and who chose it.
const (
	bindCompleted     = "pv.kubernetes.io/bind-completed"
	boundByController = "pv.kubernetes.io/bound-by-controller"
	provisionedBy     = "pv.kubernetes.io/provisioned-by"
	selectedNode      = "volume.kubernetes.io/selected-node"
	provisioner       = "volume.kubernetes.io/storage-provisioner"
	betaProvisioner   = "volume.beta.kubernetes.io/storage-provisioner"
	isDefault         = "storageclass.kubernetes.io/is-default-class"
	betaIsDefault     = "storageclass.beta.kubernetes.io/is-default-class"
)

// noProvisioner is the provisioner of classes whose volumes are made by hand.
const noProvisioner = "kubernetes.io/no-provisioner"

// Plan is what one sync writes, in this order; nil is nothing. Cut off anywhere, the next sync goes on: a volume that
// names a claim is that claim's, whatever the claim says yet.
type Plan struct {
	Volume       *corev1.PersistentVolume      // its spec
	VolumeStatus *corev1.PersistentVolume      // its status
	Claim        *corev1.PersistentVolumeClaim // its spec
	ClaimStatus  *corev1.PersistentVolumeClaim // its status
	// Delete tells that the volume that was looked at goes, and Recycle that it is emptied and given free.
	Delete, Recycle bool
	Events          []event
}

type event struct{ kind, reason, message string }

func (p *Plan) tell(kind, reason, format string, args ...any) {
	p.Events = append(p.Events, event{kind, reason, fmt.Sprintf(format, args...)})
}

// DecideClaim binds claim to one of volumes, or says why not. class is claim's, nil where it has none.
func DecideClaim(claim *corev1.PersistentVolumeClaim, volumes []*corev1.PersistentVolume, class *storagev1.StorageClass) Plan {
	var p Plan
	byName := func(name string) *corev1.PersistentVolume {
		for _, v := range volumes {
			if v.Name == name {
				return v
			}
		}
		return nil
	}
	if claim.Annotations[bindCompleted] != "" {
		p.keep(claim, byName(claim.Spec.VolumeName))
		return p
	}
	if claim.Spec.VolumeName == "" {
		if v := pick(claim, volumes); v != nil && (!delayed(claim, class) || reservedFor(v, claim)) {
			p.bind(v, claim)
			return p
		}
		p.wait(claim, class)
		return p
	}
	v := byName(claim.Spec.VolumeName)
	switch {
	case v == nil:
		p.phase(claim, corev1.ClaimPending)
	case v.Spec.ClaimRef == nil:
		if why := mismatch(v, claim); why != "" {
			p.tell(corev1.EventTypeWarning, "VolumeMismatch", "Cannot bind to requested volume %q: %s", v.Name, why)
			p.phase(claim, corev1.ClaimPending)
			return p
		}
		p.bind(v, claim)
	case reservedFor(v, claim):
		p.bind(v, claim)
	default:
		p.tell(corev1.EventTypeWarning, "FailedBinding", "volume %q already bound to a different claim.", v.Name)
		p.phase(claim, corev1.ClaimPending)
	}
	return p
}

// keep looks after a claim that was bound.
func (p *Plan) keep(claim *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
	switch {
	case v == nil:
		if claim.Status.Phase != corev1.ClaimLost {
			p.tell(corev1.EventTypeWarning, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
		}
		p.phase(claim, corev1.ClaimLost)
	case v.Spec.ClaimRef == nil || reservedFor(v, claim):
		p.bind(v, claim)
	default:
		if claim.Status.Phase != corev1.ClaimLost {
			p.tell(corev1.EventTypeWarning, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
		}
		p.phase(claim, corev1.ClaimLost)
	}
}

func delayed(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) bool {
	return class != nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer &&
		claim.Annotations[selectedNode] == ""
}

// wait says what an unbound claim waits for.
func (p *Plan) wait(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) {
	switch {
	case delayed(claim, class):
		p.tell(corev1.EventTypeNormal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case className(claim) == "":
		p.tell(corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	case class == nil:
		p.tell(corev1.EventTypeWarning, "ProvisioningFailed", "storageclass.storage.k8s.io %q not found", className(claim))
	case class.Provisioner == noProvisioner:
		p.tell(corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim, and storage class %q makes none", class.Name)
	default:
		p.tell(corev1.EventTypeNormal, "ExternalProvisioning", "Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. "+
			"If volume creation is delayed, please verify that the provisioner is running and correctly registered.", class.Provisioner)
		p.claim(claim, map[string]string{provisioner: class.Provisioner, betaProvisioner: class.Provisioner}, "")
	}
	p.phase(claim, corev1.ClaimPending)
}

// claim plans annotations for claim, and its volume unless name is "".
func (p *Plan) claim(claim *corev1.PersistentVolumeClaim, annotations map[string]string, name string) {
	changed := claim.DeepCopy()
	if changed.Annotations == nil {
		changed.Annotations = map[string]string{}
	}
	maps.Copy(changed.Annotations, annotations)
	if name != "" {
		changed.Spec.VolumeName = name
	}
	if !maps.Equal(changed.Annotations, claim.Annotations) || changed.Spec.VolumeName != claim.Spec.VolumeName {
		p.Claim = changed
	}
}

func (p *Plan) phase(claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase) {
	if claim.Status.Phase != phase {
		p.ClaimStatus = claim.DeepCopy()
		p.ClaimStatus.Status.Phase = phase
	}
}

// bind makes v and claim each other's: the volume first, as only one claim can win it.
func (p *Plan) bind(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) {
	if ref := v.Spec.ClaimRef; ref == nil || ref.UID != claim.UID {
		p.Volume = v.DeepCopy()
		p.Volume.Spec.ClaimRef = &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, ResourceVersion: claim.ResourceVersion}
		if ref == nil {
			if p.Volume.Annotations == nil {
				p.Volume.Annotations = map[string]string{}
			}
			p.Volume.Annotations[boundByController] = "yes"
		}
	}
	p.volumePhase(v, corev1.VolumeBound, "")
	notes := map[string]string{bindCompleted: "yes"}
	if claim.Spec.VolumeName == "" {
		notes[boundByController] = "yes"
	}
	p.claim(claim, notes, v.Name)
	status := claim.Status.DeepCopy()
	status.Phase, status.AccessModes = corev1.ClaimBound, v.Spec.AccessModes
	if claim.Status.Phase != corev1.ClaimBound || status.Capacity == nil {
		status.Capacity = corev1.ResourceList{corev1.ResourceStorage: *size(v)}
	}
	if claim.Spec.VolumeAttributesClassName != nil && status.CurrentVolumeAttributesClassName == nil {
		status.CurrentVolumeAttributesClassName = v.Spec.VolumeAttributesClassName
	}
	if !equality.Semantic.DeepEqual(*status, claim.Status) {
		p.ClaimStatus = claim.DeepCopy()
		p.ClaimStatus.Status = *status
	}
}

func (p *Plan) volumePhase(v *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, message string) {
	if v.Status.Phase != phase || v.Status.Message != message {
		p.VolumeStatus = v.DeepCopy()
		p.VolumeStatus.Status.Phase, p.VolumeStatus.Status.Message, p.VolumeStatus.Status.Reason = phase, message, ""
	}
}

// DecideVolume keeps v's phase, and does with a released one what its policy says. claim is the one that v names, nil
// where there is none any more.
func DecideVolume(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) Plan {
	var p Plan
	switch ref := v.Spec.ClaimRef; {
	case ref == nil || ref.UID == "" && (claim == nil || claim.Spec.VolumeName != v.Name):
		p.volumePhase(v, corev1.VolumeAvailable, "")
	case claim == nil || claim.UID != ref.UID && ref.UID != "":
		p.reclaim(v)
	case claim.Spec.VolumeName == v.Name:
		p.volumePhase(v, corev1.VolumeBound, "")
	case v.Annotations[boundByController] != "" && (claim.Spec.VolumeName != "" || v.DeletionTimestamp != nil):
		p.Volume = v.DeepCopy() // the claim has another volume, or will: this one was chosen in vain
		p.Volume.Spec.ClaimRef = nil
		delete(p.Volume.Annotations, boundByController)
		p.volumePhase(v, corev1.VolumeAvailable, "")
	case claim.Spec.VolumeName == "" && v.DeletionTimestamp != nil:
		p.volumePhase(v, corev1.VolumeAvailable, "") // its protection ends with the phase
	case claim.Spec.VolumeName != "":
		p.reclaim(v)
	}
	return p
}

func (p *Plan) reclaim(v *corev1.PersistentVolume) {
	if v.Status.Phase != corev1.VolumeReleased && v.Status.Phase != corev1.VolumeFailed {
		p.volumePhase(v, corev1.VolumeReleased, "")
		return
	}
	switch {
	case v.DeletionTimestamp != nil || v.Annotations[provisionedBy] != "": // its provisioner removes what is behind it
	case v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		p.Delete = true
	case v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle:
		p.Recycle = true
	}
}
