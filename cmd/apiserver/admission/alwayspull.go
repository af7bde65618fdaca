package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	adm "k8s.io/apiserver/pkg/admission"
)

// alwaysPull makes every start of a container prove the right to its image.
type alwaysPull struct{ *adm.Handler }

var (
	_ adm.MutationInterface   = alwaysPull{}
	_ adm.ValidationInterface = alwaysPull{}
)

func newAlwaysPull() alwaysPull { return alwaysPull{adm.NewHandler(adm.Create, adm.Update)} }

func (alwaysPull) Admit(_ context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	pod, ok, err := podOf(a, "ephemeralcontainers")
	if !ok || err != nil || bringsNoImage(a, pod) {
		return err
	}
	for _, p := range pulls(pod) {
		*p.policy = corev1.PullAlways
	}
	return nil
}

func (alwaysPull) Validate(_ context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	pod, ok, err := podOf(a, "ephemeralcontainers")
	if !ok || err != nil || bringsNoImage(a, pod) {
		return err
	}
	var errs field.ErrorList
	for _, p := range pulls(pod) {
		if *p.policy != corev1.PullAlways {
			errs = append(errs, field.NotSupported(p.path, *p.policy, []corev1.PullPolicy{corev1.PullAlways}))
		}
	}
	if len(errs) > 0 {
		return adm.NewForbidden(a, errs.ToAggregate())
	}
	return nil
}

// bringsNoImage says whether an update leaves a pod with the images that it had: a pod that is older than the plugin
// must stay updatable, since its pull policy cannot be changed.
func bringsNoImage(a adm.Attributes, pod *corev1.Pod) bool {
	old, ok := a.GetOldObject().(*corev1.Pod)
	if !ok || a.GetOperation() != adm.Update {
		return false
	}
	had := map[string]bool{}
	for _, p := range pulls(old) {
		had[p.image] = true
	}
	for _, p := range pulls(pod) {
		if !had[p.image] {
			return false
		}
	}
	return true
}

// pull is one place of a pod that names an image.
type pull struct {
	path   *field.Path
	image  string
	policy *corev1.PullPolicy
}

func pulls(pod *corev1.Pod) []pull {
	var all []pull
	spec := field.NewPath("spec")
	add := func(list string, i int, image string, policy *corev1.PullPolicy) {
		all = append(all, pull{spec.Child(list).Index(i).Child("imagePullPolicy"), image, policy})
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		add("initContainers", i, c.Image, &c.ImagePullPolicy)
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		add("containers", i, c.Image, &c.ImagePullPolicy)
	}
	for i := range pod.Spec.EphemeralContainers {
		c := &pod.Spec.EphemeralContainers[i]
		add("ephemeralContainers", i, c.Image, &c.ImagePullPolicy)
	}
	for i := range pod.Spec.Volumes {
		if v := pod.Spec.Volumes[i].Image; v != nil {
			all = append(all, pull{spec.Child("volumes").Index(i).Child("image", "pullPolicy"), v.Reference, &v.PullPolicy})
		}
	}
	return all
}
