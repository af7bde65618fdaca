package nodeauthz

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"
)

// podKeys lists the pod itself and every object that it names. A mirror pod names nothing: a kubelet makes it by
// itself, and must not gain another's secrets by writing them into it.
func podKeys(pod *corev1.Pod) []objectKey {
	r := refs{namespace: pod.Namespace, seen: map[objectKey]bool{}}
	r.add(podKind, pod.Name)
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return r.keys
	}
	r.add(accountKind, pod.Spec.ServiceAccountName)
	for _, s := range pod.Spec.ImagePullSecrets {
		r.add(secretKind, s.Name)
	}
	for i := range pod.Spec.InitContainers {
		r.env(pod.Spec.InitContainers[i].EnvFrom, pod.Spec.InitContainers[i].Env)
	}
	for i := range pod.Spec.Containers {
		r.env(pod.Spec.Containers[i].EnvFrom, pod.Spec.Containers[i].Env)
	}
	for i := range pod.Spec.EphemeralContainers {
		r.env(pod.Spec.EphemeralContainers[i].EnvFrom, pod.Spec.EphemeralContainers[i].Env)
	}
	for i := range pod.Spec.Volumes {
		r.volume(pod, &pod.Spec.Volumes[i])
	}
	for _, c := range pod.Spec.ResourceClaims {
		if c.ResourceClaimName != nil {
			r.add(resourceClaimKind, *c.ResourceClaimName)
		}
	}
	for _, c := range pod.Status.ResourceClaimStatuses {
		if c.ResourceClaimName != nil {
			r.add(resourceClaimKind, *c.ResourceClaimName)
		}
	}
	return r.keys
}

// refs collects keys of one namespace, each once.
type refs struct {
	namespace string
	keys      []objectKey
	seen      map[objectKey]bool
}

func (r *refs) add(k kind, name string) {
	key := objectKey{k, r.namespace, name}
	if name == "" || r.seen[key] {
		return
	}
	r.seen[key] = true
	r.keys = append(r.keys, key)
}

func (r *refs) local(ref *corev1.LocalObjectReference) {
	if ref != nil {
		r.add(secretKind, ref.Name)
	}
}

func (r *refs) env(from []corev1.EnvFromSource, env []corev1.EnvVar) {
	for _, f := range from {
		if f.SecretRef != nil {
			r.add(secretKind, f.SecretRef.Name)
		}
		if f.ConfigMapRef != nil {
			r.add(configMapKind, f.ConfigMapRef.Name)
		}
	}
	for _, e := range env {
		if e.ValueFrom == nil {
			continue
		}
		if s := e.ValueFrom.SecretKeyRef; s != nil {
			r.add(secretKind, s.Name)
		}
		if c := e.ValueFrom.ConfigMapKeyRef; c != nil {
			r.add(configMapKind, c.Name)
		}
	}
}

func (r *refs) volume(pod *corev1.Pod, v *corev1.Volume) {
	switch {
	case v.Secret != nil:
		r.add(secretKind, v.Secret.SecretName)
	case v.ConfigMap != nil:
		r.add(configMapKind, v.ConfigMap.Name)
	case v.PersistentVolumeClaim != nil:
		r.add(claimKind, v.PersistentVolumeClaim.ClaimName)
	case v.Ephemeral != nil:
		r.add(claimKind, ephemeral.VolumeClaimName(pod, v))
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			if s.Secret != nil {
				r.add(secretKind, s.Secret.Name)
			}
			if s.ConfigMap != nil {
				r.add(configMapKind, s.ConfigMap.Name)
			}
		}
	case v.CSI != nil:
		r.local(v.CSI.NodePublishSecretRef)
	case v.FlexVolume != nil:
		r.local(v.FlexVolume.SecretRef)
	case v.ISCSI != nil:
		r.local(v.ISCSI.SecretRef)
	case v.RBD != nil:
		r.local(v.RBD.SecretRef)
	case v.CephFS != nil:
		r.local(v.CephFS.SecretRef)
	case v.Cinder != nil:
		r.local(v.Cinder.SecretRef)
	case v.ScaleIO != nil:
		r.local(v.ScaleIO.SecretRef)
	case v.StorageOS != nil:
		r.local(v.StorageOS.SecretRef)
	case v.AzureFile != nil:
		r.add(secretKind, v.AzureFile.SecretName)
	}
}

// volumeSecrets lists the secrets that a node needs to mount a volume.
func volumeSecrets(pv *corev1.PersistentVolume) []objectKey {
	var keys []objectKey
	add := func(ref *corev1.SecretReference) {
		if ref == nil || ref.Name == "" {
			return
		}
		namespace := ref.Namespace
		if namespace == "" {
			namespace = pv.Spec.ClaimRef.Namespace
		}
		keys = append(keys, objectKey{secretKind, namespace, ref.Name})
	}
	s := pv.Spec.PersistentVolumeSource
	switch {
	case s.CSI != nil:
		add(s.CSI.NodePublishSecretRef)
		add(s.CSI.NodeStageSecretRef)
		add(s.CSI.NodeExpandSecretRef)
	case s.FlexVolume != nil:
		add(s.FlexVolume.SecretRef)
	case s.ISCSI != nil:
		add(s.ISCSI.SecretRef)
	case s.RBD != nil:
		add(s.RBD.SecretRef)
	case s.CephFS != nil:
		add(s.CephFS.SecretRef)
	case s.Cinder != nil:
		add(s.Cinder.SecretRef)
	case s.ScaleIO != nil:
		add(s.ScaleIO.SecretRef)
	case s.AzureFile != nil:
		ref := &corev1.SecretReference{Name: s.AzureFile.SecretName}
		if s.AzureFile.SecretNamespace != nil {
			ref.Namespace = *s.AzureFile.SecretNamespace
		}
		add(ref)
	}
	return keys
}
