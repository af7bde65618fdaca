package kubelet

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/kubelet/images"
)

func imagePod() *v1.Pod {
	return &v1.Pod{Spec: v1.PodSpec{
		Volumes: []v1.Volume{
			{Name: "art", VolumeSource: v1.VolumeSource{Image: &v1.ImageVolumeSource{Reference: "r.example/art:1"}}},
			{Name: "tmp", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		},
		Containers: []v1.Container{{Name: "c", VolumeMounts: []v1.VolumeMount{{Name: "tmp", MountPath: "/tmp"}, {Name: "art", MountPath: "/art"}}}},
	}}
}

// A runtime that would mount something else without a word is refused by name; what it can do, it is asked for.
func TestRuntimesThatMountImages(t *testing.T) {
	pod := imagePod()
	whole := imagesMounted(pod, &pod.Spec.Containers[0])
	if len(whole) != 1 || whole[0].volume.Name != "art" {
		t.Fatalf("image mounts %v", whole)
	}
	part := imagesMounted(pod, &v1.Container{VolumeMounts: []v1.VolumeMount{{Name: "art", MountPath: "/art", SubPathExpr: "$(X)"}}})
	for _, tt := range []struct {
		runtime, version string
		whole, part      string
	}{
		{"containerd", "1.6.20~ds1", "does not support image volumes, 2.1 and later do", "does not support a subPath of image volumes, 2.2 and later do"},
		{"containerd", "v2.0.5", "does not support image volumes", "does not support a subPath"},
		{"containerd", "v2.1.4", "", "does not support a subPath"},
		{"containerd", "v2.4.2+unknown", "", ""},
		{"containerd", "v10.0.0", "", ""},
		{"containerd", "unknown", "containerd unknown does not support", "does not support"},
		{"cri-o", "1.32.1", "", "cri-o 1.32.1 does not support a subPath of image volumes, 1.33 and later do"},
		{"another", "0.1", "", ""},
	} {
		for want, mounts := range map[*string][]imageMount{&tt.whole: whole, &tt.part: part} {
			err := mountsImages(tt.runtime, tt.version, mounts)
			if (err == nil) != (*want == "") || err != nil && !strings.Contains(err.Error(), *want) {
				t.Errorf("%s %s: %v, want %q", tt.runtime, tt.version, err, *want)
			}
		}
	}
}

// The status tells the digest of a mounted image, and what became of a wish for recursion.
func TestMountStatuses(t *testing.T) {
	pod := imagePod()
	spec := &pod.Spec.Containers[0]
	if got := mountStatuses(spec, nil, nil); got != nil {
		t.Errorf("of a container whose spec says all: %v", got)
	}
	spec.VolumeMounts = append(spec.VolumeMounts,
		v1.VolumeMount{Name: "tmp", MountPath: "/all", ReadOnly: true, RecursiveReadOnly: new(v1.RecursiveReadOnlyIfPossible)},
		v1.VolumeMount{Name: "tmp", MountPath: "/top", ReadOnly: true})
	handlers := []*runtimeapi.RuntimeHandler{{Name: "old"}, {Features: &runtimeapi.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: true}}}
	recursive, err := recursiveMounts(spec, "", handlers)
	if err != nil {
		t.Fatal(err)
	}
	got := mountStatuses(spec, recursive, imageVolumes{"art": {reference: "r.example/art:1", image: images.Image{Ref: "sha256:1", ID: "r.example/art@sha256:2"}}})
	want := []v1.VolumeMountStatus{
		{Name: "tmp", MountPath: "/tmp"},
		{Name: "art", MountPath: "/art", VolumeStatus: &v1.VolumeStatus{Image: &v1.ImageVolumeStatus{ImageRef: "r.example/art@sha256:2"}}},
		{Name: "tmp", MountPath: "/all", ReadOnly: true, RecursiveReadOnly: new(v1.RecursiveReadOnlyEnabled)},
		{Name: "tmp", MountPath: "/top", ReadOnly: true, RecursiveReadOnly: new(v1.RecursiveReadOnlyDisabled)},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestRecursionIsRefusedByName(t *testing.T) {
	spec := &v1.Container{VolumeMounts: []v1.VolumeMount{{Name: "v", MountPath: "/v", ReadOnly: true, RecursiveReadOnly: new(v1.RecursiveReadOnlyIfPossible)}}}
	if got, err := recursiveMounts(spec, "old", nil); err != nil || got["/v"] {
		t.Errorf("if possible, where it is not: %v, %v", got, err)
	}
	spec.VolumeMounts[0].RecursiveReadOnly = new(v1.RecursiveReadOnlyEnabled)
	if _, err := recursiveMounts(spec, "old", nil); err == nil || !strings.Contains(err.Error(), `handler "old"`) {
		t.Errorf("a runtime that cannot: %v", err)
	}
}
