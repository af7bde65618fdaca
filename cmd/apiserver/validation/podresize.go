package validation

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubectl/pkg/util/qos"
)

// PodResize validates a change of a running pod's CPU and memory, the only thing that pods/resize lets change. Metadata is not
// judged: as everywhere here, that is the store's part.
func PodResize(p, old *corev1.Pod) field.ErrorList {
	if _, mirror := old.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods cannot be resized")}
	}
	if old.Spec.OS != nil && old.Spec.OS.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "windows pods cannot be resized")}
	}
	errs := podWhole(p)
	if class := qos.ComputePodQOS(p); class != qos.GetPodQOS(old) {
		errs = append(errs, field.Invalid(spec(), class, "Pod QOS Class may not change as a result of resizing"))
	}
	if !resizable(&old.Status) {
		errs = append(errs, field.Forbidden(spec(), "Pod running on node without support for resize"))
	}
	restored := p.Spec.DeepCopy()
	if restored.Resources != nil && old.Spec.Resources != nil {
		errs = append(errs, resourcesKept(p.Spec.Resources, old.Spec.Resources, spec().Child("resources"))...)
		restoreResources(restored.Resources, old.Spec.Resources)
	}
	more, sound := resizedContainers(restored.Containers, old.Spec.Containers, false, spec().Child("containers"))
	errs = append(errs, more...)
	initErrs, initSound := resizedContainers(restored.InitContainers, old.Spec.InitContainers, true, spec().Child("initContainers"))
	errs = append(errs, initErrs...)
	if sound && initSound && !equality.Semantic.DeepEqual(restored, &old.Spec) {
		errs = append(errs, field.Forbidden(spec(), "only cpu and memory resources are mutable\n"+diff.Diff(&old.Spec, restored)))
	}
	return errs
}

// resizable says whether the pod's node shows that it can resize: it reports the resources of what runs. Before anything runs
// nobody knows, and the benefit of the doubt is given.
func resizable(s *corev1.PodStatus) bool {
	for _, c := range s.ContainerStatuses {
		if c.State.Running != nil {
			return c.Resources != nil
		}
	}
	return true
}

// resizedContainers judges each container's resources and gives it the old CPU and memory back, so that what then differs was
// not to be changed. It is not sound to compare further when containers came, went or changed places.
func resizedContainers(list, old []corev1.Container, initial bool, p *field.Path) (errs field.ErrorList, sound bool) {
	if len(list) != len(old) {
		return field.ErrorList{field.Forbidden(p, "containers may not be added or removed on resize")}, false
	}
	for i := range list {
		at := p.Index(i)
		if list[i].Name != old[i].Name {
			return append(errs, field.Forbidden(spec(), "containers may not be renamed or reordered on resize")), false
		}
		now, was := &list[i].Resources, &old[i].Resources
		if initial && !isSidecar(&old[i]) {
			if !equality.Semantic.DeepEqual(now, was) {
				errs = append(errs, field.Forbidden(at.Child("resources"), "resources for non-sidecar init containers are immutable"))
			}
			list[i].Resources = *was
			continue
		}
		errs = append(errs, resourcesKept(now, was, at.Child("resources"))...)
		restoreResources(now, was)
	}
	return errs, true
}

func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// resourcesKept lets values change, but not vanish.
func resourcesKept(now, was *corev1.ResourceRequirements, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, l := range []struct {
		name     string
		now, was corev1.ResourceList
	}{{"limits", now.Limits, was.Limits}, {"requests", now.Requests, was.Requests}} {
		for name := range l.was {
			if _, ok := l.now[name]; !ok {
				errs = append(errs, field.Forbidden(p.Child(l.name), fmt.Sprintf("resource %s cannot be removed", l.name)))
				break
			}
		}
	}
	return errs
}

// restoreResources puts the CPU and memory of old, and their absence, into r.
func restoreResources(r, old *corev1.ResourceRequirements) {
	r.Limits = restoreList(r.Limits, old.Limits)
	r.Requests = restoreList(r.Requests, old.Requests)
}

func restoreList(list, old corev1.ResourceList) corev1.ResourceList {
	restored := corev1.ResourceList{}
	for name, q := range list {
		restored[name] = q
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if q, ok := old[name]; ok {
			restored[name] = q
		} else {
			delete(restored, name)
		}
	}
	if len(restored) == 0 {
		return old // nil and empty alike
	}
	return restored
}
