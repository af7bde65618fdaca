package kubelet

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/kubelet/lifecycle"
)

// recursive says which of the container's mounts are to be read-only with all that is mounted below, by their paths. The
// runtime is asked only if the container wants that.
func (c *starting) recursive(ctx context.Context) (map[string]bool, error) {
	wanted := false
	for i := range c.spec.VolumeMounts {
		wanted = wanted || recursiveMode(&c.spec.VolumeMounts[i]) != v1.RecursiveReadOnlyDisabled
	}
	if !wanted {
		return nil, nil
	}
	handler, err := c.w.k.sync.handler(ctx, c.pod)
	if err != nil {
		return nil, err
	}
	st, err := c.w.k.rt.Status(ctx)
	if err != nil {
		return nil, err
	}
	return recursiveMounts(c.spec, handler, st.RuntimeHandlers)
}

func recursiveMode(vm *v1.VolumeMount) v1.RecursiveReadOnlyMode {
	if vm.RecursiveReadOnly == nil {
		return v1.RecursiveReadOnlyDisabled
	}
	return *vm.RecursiveReadOnly
}

// recursiveMounts decides from what the runtime says of its handler; a runtime that says nothing would make such a mount
// without its recursion.
func recursiveMounts(spec *v1.Container, handler string, handlers []*runtimeapi.RuntimeHandler) (map[string]bool, error) {
	able := false
	for _, h := range handlers {
		able = able || h.GetName() == handler && h.GetFeatures().GetRecursiveReadOnlyMounts()
	}
	out := map[string]bool{}
	for i := range spec.VolumeMounts {
		vm := &spec.VolumeMounts[i]
		switch recursiveMode(vm) {
		case v1.RecursiveReadOnlyEnabled:
			if !able {
				return nil, fmt.Errorf("volume mount %q: recursive read-only mounts are not supported by runtime handler %q", vm.Name, handler)
			}
			out[vm.MountPath] = true
		case v1.RecursiveReadOnlyIfPossible:
			out[vm.MountPath] = able
		}
	}
	return out, nil
}

// mountStatuses is what the status tells of a container's mounts, or nil where its spec alone tells as much.
func mountStatuses(spec *v1.Container, recursive map[string]bool, images imageVolumes) []v1.VolumeMountStatus {
	out, more := lifecycle.MountStatuses(spec), false
	for i := range out {
		if image, ok := images[out[i].Name]; ok {
			out[i].VolumeStatus = &v1.VolumeStatus{Image: &v1.ImageVolumeStatus{ImageRef: image.image.ID}}
			more = true
		}
		if recursive[out[i].MountPath] {
			out[i].RecursiveReadOnly = new(v1.RecursiveReadOnlyEnabled)
			more = true
		}
	}
	if !more {
		return nil
	}
	return out
}
