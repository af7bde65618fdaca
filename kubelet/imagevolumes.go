package kubelet

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/kubelet/images"
	"github.com/orlop-io/orlop/kubelet/lifecycle"
)

// imageVolumes are the images that a container mounts, by volume.
type imageVolumes map[string]imageVolume

// imageVolume is an image that the runtime has and is to mount.
type imageVolume struct {
	reference string // as the pod names it
	image     images.Image
}

func (v imageVolume) spec() *runtimeapi.ImageSpec {
	return &runtimeapi.ImageSpec{Image: v.image.Ref, UserSpecifiedImage: v.reference}
}

// imageVolumes gets the images that the container mounts into the runtime. A failed pull is told like that of the
// container's own image, and waited for in the same way.
func (c *starting) imageVolumes(ctx context.Context, sandbox *runtimeapi.PodSandboxConfig) (imageVolumes, error) {
	wanted := imagesMounted(c.pod, c.spec)
	if len(wanted) == 0 {
		return nil, nil
	}
	version, err := c.w.k.rt.Version(ctx)
	if err != nil {
		return nil, failed("CreateContainerConfigError", err)
	}
	if err := mountsImages(version.RuntimeName, version.RuntimeVersion, wanted); err != nil {
		return nil, failed("CreateContainerConfigError", err)
	}
	out := imageVolumes{}
	for _, m := range wanted {
		if _, done := out[m.volume.Name]; done {
			continue
		}
		src := m.volume.Image
		img, err := c.ensure(ctx, sandbox, "", src.Reference, src.PullPolicy)
		if err != nil {
			return nil, err
		}
		out[m.volume.Name] = imageVolume{reference: src.Reference, image: img}
	}
	return out, nil
}

// imageMount is one mount of an image volume.
type imageMount struct {
	volume *v1.Volume
	mount  *v1.VolumeMount
}

// imagesMounted lists the mounts of image volumes in a container.
func imagesMounted(pod *v1.Pod, spec *v1.Container) []imageMount {
	var out []imageMount
	for i := range spec.VolumeMounts {
		for j := range pod.Spec.Volumes {
			if vol := &pod.Spec.Volumes[j]; vol.Image != nil && vol.Name == spec.VolumeMounts[i].Name {
				out = append(out, imageMount{vol, &spec.VolumeMounts[i]})
			}
		}
	}
	return out
}

// The runtimes that are known to have come without image volumes once: a runtime has no way of saying that it has them,
// and older ones mount something else without a word. Others are believed to do what the CRI says.
var (
	mountsImagesSince   = map[string][2]int{"containerd": {2, 1}, "cri-o": {1, 31}}
	mountsSubPathsSince = map[string][2]int{"containerd": {2, 2}, "cri-o": {1, 33}}
)

// mountsImages says by name what a runtime cannot do of what is wanted.
func mountsImages(runtime, version string, wanted []imageMount) error {
	have, known := majorMinor(version)
	for _, w := range wanted {
		since, what := mountsImagesSince[runtime], "image volumes"
		if w.mount.SubPath != "" || w.mount.SubPathExpr != "" {
			since, what = mountsSubPathsSince[runtime], "a subPath of image volumes"
		}
		if since != [2]int{} && (!known || have[0] < since[0] || have[0] == since[0] && have[1] < since[1]) {
			return fmt.Errorf("volume %q: %s %s does not support %s, %d.%d and later do", w.volume.Name, runtime, version, what, since[0], since[1])
		}
	}
	return nil
}

// majorMinor reads the beginning of a version such as v2.4.2+unknown or 1.6.20~ds1.
func majorMinor(version string) (out [2]int, ok bool) {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) < 2 {
		return out, false
	}
	var errs [2]error
	for i := range out {
		out[i], errs[i] = strconv.Atoi(parts[i])
	}
	return out, errs[0] == nil && errs[1] == nil
}

// volumeImages are the references of images that pods on this node may have mounted.
func (k *Kubelet) volumeImages() map[string]bool {
	out := map[string]bool{}
	for _, w := range k.all() {
		s := &w.shown.Load().state
		if s.Stage >= lifecycle.Finished {
			continue
		}
		for i := range s.Pod.Spec.Volumes {
			if src := s.Pod.Spec.Volumes[i].Image; src != nil {
				out[src.Reference] = true
			}
		}
	}
	return out
}
