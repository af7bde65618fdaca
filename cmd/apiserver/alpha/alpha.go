// Package alpha takes out of pods, and of templates of pods, the fields that the API reference calls alpha.
//
// Their features are off, and nothing reads them: a mount that asks for noexec would be stored so and mounted otherwise. Whoever
// writes such a field does not find it in the answer. An object that has one already keeps it, so that its fields stay what they
// were.
package alpha

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/orlop-io/orlop/cmd/apiserver/podtemplate"
)

// Drop takes the alpha fields out of obj, which replaces old, or is new if old is nil.
func Drop(obj, old runtime.Object) {
	spec := specOf(obj)
	if spec == nil {
		return
	}
	if old != nil {
		if before := specOf(old); before != nil && uses(before) {
			return
		}
	}
	fields(spec, func(set bool, clear func()) {
		if set {
			clear()
		}
	})
}

func specOf(obj runtime.Object) *corev1.PodSpec {
	if pod, ok := obj.(*corev1.Pod); ok {
		return &pod.Spec
	}
	if t, _ := podtemplate.Of(obj); t != nil {
		return &t.Spec
	}
	return nil
}

func uses(s *corev1.PodSpec) bool {
	any := false
	fields(s, func(set bool, _ func()) { any = any || set })
	return any
}

// fields calls each for every alpha field of s, with whether it is set and how to clear it.
func fields(s *corev1.PodSpec, each func(set bool, clear func())) {
	each(len(s.EvictionResponders) > 0, func() { s.EvictionResponders = nil })
	each(s.SchedulingGroup != nil, func() { s.SchedulingGroup = nil })
	for i := range s.Volumes {
		volume(&s.Volumes[i].VolumeSource, each)
	}
	for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			container(&list[i], each)
		}
	}
}

func container(c *corev1.Container, each func(set bool, clear func())) {
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		each(len(m.BindMountOptions) > 0, func() { m.BindMountOptions = nil })
	}
	get := func(h *corev1.HTTPGetAction) {
		if h != nil {
			each(h.Protocol != nil, func() { h.Protocol = nil })
		}
	}
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p == nil {
			continue
		}
		get(p.HTTPGet)
		if g := p.GRPC; g != nil {
			each(g.Mode != nil, func() { g.Mode = nil })
		}
	}
	if c.Lifecycle == nil {
		return
	}
	for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
		if h != nil {
			get(h.HTTPGet)
		}
	}
}

func volume(v *corev1.VolumeSource, each func(set bool, clear func())) {
	user := func(id **int64) { each(*id != nil, func() { *id = nil }) }
	items := func(list []corev1.KeyToPath) {
		for i := range list {
			user(&list[i].User)
		}
	}
	files := func(list []corev1.DownwardAPIVolumeFile) {
		for i := range list {
			user(&list[i].User)
		}
	}
	if e := v.EmptyDir; e != nil {
		each(e.Mode != nil, func() { e.Mode = nil })
	}
	if s := v.Secret; s != nil {
		user(&s.DefaultUser)
		items(s.Items)
	}
	if c := v.ConfigMap; c != nil {
		user(&c.DefaultUser)
		items(c.Items)
	}
	if d := v.DownwardAPI; d != nil {
		user(&d.DefaultUser)
		files(d.Items)
	}
	if v.Projected == nil {
		return
	}
	user(&v.Projected.DefaultUser)
	for i := range v.Projected.Sources {
		p := &v.Projected.Sources[i]
		if p.Secret != nil {
			items(p.Secret.Items)
		}
		if p.ConfigMap != nil {
			items(p.ConfigMap.Items)
		}
		if p.DownwardAPI != nil {
			files(p.DownwardAPI.Items)
		}
		if p.ServiceAccountToken != nil {
			user(&p.ServiceAccountToken.User)
		}
		if p.ClusterTrustBundle != nil {
			user(&p.ClusterTrustBundle.User)
		}
		if p.PodCertificate != nil {
			user(&p.PodCertificate.User)
		}
	}
}
