package controllers

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/orlop-io/orlop/cmd/controllers/volumebinder"
)

// recyclers are the flags that say how volumes of the policy Recycle are emptied.
type recyclers struct {
	hostPath, nfs               string
	hostPathMinimum, nfsMinimum int
	hostPathPerGiB, nfsPerGiB   int
}

func (r *recyclers) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&r.hostPath, "pv-recycler-pod-template-filepath-hostpath", "", "file with the pod that empties hostPath volumes of the policy Recycle; without, one of --local-path-image does")
	fs.StringVar(&r.nfs, "pv-recycler-pod-template-filepath-nfs", "", "file with the pod that empties NFS volumes of the policy Recycle; without, one of --local-path-image does")
	fs.IntVar(&r.hostPathMinimum, "pv-recycler-minimum-timeout-hostpath", 60, "seconds that a pod may take at least to empty a hostPath volume")
	fs.IntVar(&r.nfsMinimum, "pv-recycler-minimum-timeout-nfs", 300, "seconds that a pod may take at least to empty an NFS volume")
	fs.IntVar(&r.hostPathPerGiB, "pv-recycler-timeout-increment-hostpath", 30, "seconds that each GiB of a hostPath volume adds")
	fs.IntVar(&r.nfsPerGiB, "pv-recycler-increment-timeout-nfs", 30, "seconds that each GiB of an NFS volume adds")
}

// read reads the templates that the flags name. Where one names none, a pod of image empties the volume, the agent's; where there is no image
// either, volumes of that kind are not recycled.
func (r *recyclers) read(image string) (out volumebinder.Recyclers, err error) {
	if out.HostPath, err = recycler(r.hostPath, r.hostPathMinimum, r.hostPathPerGiB); err != nil {
		return out, err
	}
	if out.NFS, err = recycler(r.nfs, r.nfsMinimum, r.nfsPerGiB); err != nil || image == "" {
		return out, err
	}
	if out.HostPath.Pod == nil {
		out.HostPath.Pod = emptying(image, corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{}})
	}
	if out.NFS.Pod == nil {
		out.NFS.Pod = emptying(image, corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}})
	}
	return out, nil
}

// emptying is a pod that removes all that a volume holds, and has the rights for that alone. It may run in the namespace default, and wherever
// pods may.
func emptying(image string, source corev1.VolumeSource) *corev1.Pod {
	return &corev1.Pod{Spec: corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, EnableServiceLinks: ptr.To(false), AutomountServiceAccountToken: ptr.To(false),
		SecurityContext: &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Volumes:         []corev1.Volume{{Name: "volume", VolumeSource: source}},
		Containers: []corev1.Container{{
			Name: "recycler", Image: image, Args: []string{"local-path", "empty", "--dir=/volume"},
			ImagePullPolicy: corev1.PullIfNotPresent, TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
			VolumeMounts: []corev1.VolumeMount{{Name: "volume", MountPath: "/volume"}},
			SecurityContext: &corev1.SecurityContext{
				RunAsUser: ptr.To(int64(0)), ReadOnlyRootFilesystem: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false),
				// What lies in a volume belongs to its pods' users.
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"DAC_OVERRIDE", "FOWNER"}},
			},
		}},
	}}
}

func recycler(file string, minimum, perGiB int) (out volumebinder.Recycler, err error) {
	out.Minimum, out.PerGiB = time.Duration(minimum)*time.Second, time.Duration(perGiB)*time.Second
	if file == "" {
		return out, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return out, fmt.Errorf("read recycler pod: %w", err)
	}
	out.Pod = &corev1.Pod{}
	if err := yaml.UnmarshalStrict(text, out.Pod); err != nil {
		return out, fmt.Errorf("read recycler pod %s: %w", file, err)
	}
	return out, nil
}
