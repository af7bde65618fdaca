package api

import (
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/randfill"
)

// withoutAlpha fills pods but for their alpha fields, which are off: the server drops them.
func withoutAlpha() []any {
	return []any{
		func(x *corev1.PodSpec, c randfill.Continue) {
			c.FillNoCustom(x)
			x.EvictionResponders, x.SchedulingGroup = nil, nil
		},
		func(x *corev1.VolumeMount, c randfill.Continue) {
			c.FillNoCustom(x)
			x.BindMountOptions = nil
		},
		func(x *corev1.EmptyDirVolumeSource, c randfill.Continue) {
			c.FillNoCustom(x)
			x.Mode = nil
		},
		func(x *corev1.SecretVolumeSource, c randfill.Continue) {
			c.FillNoCustom(x)
			x.DefaultUser = nil
		},
		func(x *corev1.ConfigMapVolumeSource, c randfill.Continue) {
			c.FillNoCustom(x)
			x.DefaultUser = nil
		},
		func(x *corev1.DownwardAPIVolumeSource, c randfill.Continue) {
			c.FillNoCustom(x)
			x.DefaultUser = nil
		},
		func(x *corev1.ProjectedVolumeSource, c randfill.Continue) {
			c.FillNoCustom(x)
			x.DefaultUser = nil
		},
		func(x *corev1.KeyToPath, c randfill.Continue) {
			c.FillNoCustom(x)
			x.User = nil
		},
		func(x *corev1.DownwardAPIVolumeFile, c randfill.Continue) {
			c.FillNoCustom(x)
			x.User = nil
		},
		func(x *corev1.ServiceAccountTokenProjection, c randfill.Continue) {
			c.FillNoCustom(x)
			x.User = nil
		},
		func(x *corev1.ClusterTrustBundleProjection, c randfill.Continue) {
			c.FillNoCustom(x)
			x.User = nil
		},
		func(x *corev1.PodCertificateProjection, c randfill.Continue) {
			c.FillNoCustom(x)
			x.User = nil
		},
		func(x *corev1.HTTPGetAction, c randfill.Continue) {
			c.FillNoCustom(x)
			x.Protocol = nil
		},
		func(x *corev1.GRPCAction, c randfill.Continue) {
			c.FillNoCustom(x)
			x.Mode = nil
		},
	}
}
