package defaults

import (
	corev1 "k8s.io/api/core/v1"
)

// fileMode is 0644, the mode of files made from ConfigMaps, Secrets and the downward API.
const fileMode = 0o644

func volume(v *corev1.Volume) {
	if v.VolumeSource == (corev1.VolumeSource{}) {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	hostPath(v.HostPath)
	azureDisk(v.AzureDisk)
	switch {
	case v.Secret != nil:
		setPtr(&v.Secret.DefaultMode, fileMode)
	case v.ConfigMap != nil:
		setPtr(&v.ConfigMap.DefaultMode, fileMode)
	case v.DownwardAPI != nil:
		setPtr(&v.DownwardAPI.DefaultMode, fileMode)
		downwardItems(v.DownwardAPI.Items)
	case v.Projected != nil:
		projected(v.Projected)
	case v.ISCSI != nil:
		set(&v.ISCSI.ISCSIInterface, "default")
	case v.RBD != nil:
		rbd(&v.RBD.RBDPool, &v.RBD.RadosUser, &v.RBD.Keyring)
	case v.ScaleIO != nil:
		set(&v.ScaleIO.StorageMode, "ThinProvisioned")
		set(&v.ScaleIO.FSType, "xfs")
	case v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil:
		claimSpec(&v.Ephemeral.VolumeClaimTemplate.Spec)
	case v.Image != nil:
		set(&v.Image.PullPolicy, pullPolicy(v.Image.Reference))
	}
}

func hostPath(h *corev1.HostPathVolumeSource) {
	if h != nil {
		setPtr(&h.Type, corev1.HostPathUnset)
	}
}

func azureDisk(a *corev1.AzureDiskVolumeSource) {
	if a == nil {
		return
	}
	setPtr(&a.CachingMode, corev1.AzureDataDiskCachingReadWrite)
	setPtr(&a.Kind, corev1.AzureSharedBlobDisk)
	setPtr(&a.FSType, "ext4")
	setPtr(&a.ReadOnly, false)
}

func rbd(pool, user, keyring *string) {
	set(pool, "rbd")
	set(user, "admin")
	set(keyring, "/etc/ceph/keyring")
}

func downwardItems(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		if items[i].FieldRef != nil {
			set(&items[i].FieldRef.APIVersion, "v1")
		}
	}
}

func projected(p *corev1.ProjectedVolumeSource) {
	setPtr(&p.DefaultMode, fileMode)
	for _, s := range p.Sources {
		if s.DownwardAPI != nil {
			downwardItems(s.DownwardAPI.Items)
		}
		if s.ServiceAccountToken != nil {
			setPtr(&s.ServiceAccountToken.ExpirationSeconds, 60*60)
		}
		if s.PodCertificate != nil {
			setPtr(&s.PodCertificate.MaxExpirationSeconds, 24*60*60)
		}
	}
}

func claim(c *corev1.PersistentVolumeClaim) {
	set(&c.Status.Phase, corev1.ClaimPending)
	claimSpec(&c.Spec)
	roundUp(c.Status.Capacity)
	roundUp(c.Status.AllocatedResources)
}

func claimSpec(s *corev1.PersistentVolumeClaimSpec) {
	setPtr(&s.VolumeMode, corev1.PersistentVolumeFilesystem)
	roundUp(s.Resources.Limits)
	roundUp(s.Resources.Requests)
}

func addPersistentVolumes(r *registry) {
	addList(r, func(l *corev1.PersistentVolumeClaimList) []corev1.PersistentVolumeClaim { return l.Items }, claim)
	addList(r, func(l *corev1.PersistentVolumeList) []corev1.PersistentVolume { return l.Items }, func(v *corev1.PersistentVolume) {
		set(&v.Status.Phase, corev1.VolumePending)
		persistentVolumeSpec(&v.Spec)
	})
}

func persistentVolumeSpec(s *corev1.PersistentVolumeSpec) {
	set(&s.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	setPtr(&s.VolumeMode, corev1.PersistentVolumeFilesystem)
	roundUp(s.Capacity)
	hostPath(s.HostPath)
	azureDisk(s.AzureDisk)
	switch {
	case s.ISCSI != nil:
		set(&s.ISCSI.ISCSIInterface, "default")
	case s.RBD != nil:
		rbd(&s.RBD.RBDPool, &s.RBD.RadosUser, &s.RBD.Keyring)
	case s.ScaleIO != nil:
		set(&s.ScaleIO.StorageMode, "ThinProvisioned")
		set(&s.ScaleIO.FSType, "xfs")
	}
}
