package controllers

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
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
	fs.StringVar(&r.hostPath, "pv-recycler-pod-template-filepath-hostpath", "", "file with the pod that empties hostPath volumes of the policy Recycle; they are not recycled without")
	fs.StringVar(&r.nfs, "pv-recycler-pod-template-filepath-nfs", "", "file with the pod that empties NFS volumes of the policy Recycle; they are not recycled without")
	fs.IntVar(&r.hostPathMinimum, "pv-recycler-minimum-timeout-hostpath", 60, "seconds that a pod may take at least to empty a hostPath volume")
	fs.IntVar(&r.nfsMinimum, "pv-recycler-minimum-timeout-nfs", 300, "seconds that a pod may take at least to empty an NFS volume")
	fs.IntVar(&r.hostPathPerGiB, "pv-recycler-timeout-increment-hostpath", 30, "seconds that each GiB of a hostPath volume adds")
	fs.IntVar(&r.nfsPerGiB, "pv-recycler-increment-timeout-nfs", 30, "seconds that each GiB of an NFS volume adds")
}

// read reads the templates that the flags name.
func (r *recyclers) read() (out volumebinder.Recyclers, err error) {
	if out.HostPath, err = recycler(r.hostPath, r.hostPathMinimum, r.hostPathPerGiB); err != nil {
		return out, err
	}
	out.NFS, err = recycler(r.nfs, r.nfsMinimum, r.nfsPerGiB)
	return out, err
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
