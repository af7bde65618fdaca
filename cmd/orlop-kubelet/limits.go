package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/orlop-io/orlop/kubelet"
	"github.com/orlop-io/orlop/kubelet/eviction"
	"github.com/orlop-io/orlop/kubelet/imagegc"
	"github.com/orlop-io/orlop/kubelet/sysctls"
)

// limits reads what the node may be used for, and what happens when it is full.
func limits(file *kubeletconfig.KubeletConfiguration, out *kubelet.Config) error {
	var errs []error
	var err error
	out.BoundPods = file.EnforceNodeAllocatable == nil || slices.Contains(file.EnforceNodeAllocatable, "pods")
	out.Reserved, err = reservations(file)
	errs = append(errs, err)
	out.Eviction = eviction.Config{Transition: or(file.EvictionPressureTransitionPeriod.Duration, 5*time.Minute),
		MaxGrace: time.Duration(file.EvictionMaxPodGracePeriod) * time.Second}
	out.Eviction.Thresholds, err = eviction.Parse(eviction.Settings{Hard: file.EvictionHard, Soft: file.EvictionSoft, SoftGrace: file.EvictionSoftGracePeriod,
		MinReclaim: file.EvictionMinimumReclaim, Merge: value(file.MergeDefaultEvictionSettings, false), Pods: out.BoundPods})
	errs = append(errs, err)
	out.ImageGC, err = imagePolicy(file)
	errs = append(errs, err)
	out.ShownImages = int(value(file.NodeStatusMaxImages, 50))
	if out.ShownImages < -1 {
		errs = append(errs, fmt.Errorf("nodeStatusMaxImages %d: must be -1 or greater", out.ShownImages))
	}
	errs = append(errs, logLimits(file, out))
	if p := file.CrashLoopBackOff.MaxContainerRestartPeriod; p != nil {
		out.CrashMax = p.Duration
		if out.CrashMax < time.Second || out.CrashMax > 300*time.Second {
			errs = append(errs, fmt.Errorf("crashLoopBackOff.maxContainerRestartPeriod %v: must be between 1s and 300s", out.CrashMax))
		}
	}
	out.UnsafeSysctls, out.DefaultSysctls = file.AllowedUnsafeSysctls, file.DefaultPodSysctls
	if err := sysctls.Check(file.AllowedUnsafeSysctls); err != nil {
		errs = append(errs, fmt.Errorf("allowedUnsafeSysctls: %w", err))
	}
	if err := sysctls.CheckDefaults(file.DefaultPodSysctls); err != nil {
		errs = append(errs, fmt.Errorf("defaultPodSysctls: %w", err))
	}
	out.KillSingly = value(file.SingleProcessOOMKill, false)
	out.PullQPS, out.PullBurst = float32(value(file.RegistryPullQPS, 5)), int(or(file.RegistryBurst, 10))
	out.VerifyImages, out.FreeImages = file.ImagePullCredentialsVerificationPolicy, file.PreloadedImagesVerificationAllowlist
	out.FailCgroupV1 = value(file.FailCgroupV1, false)
	return errors.Join(errs...)
}

func imagePolicy(file *kubeletconfig.KubeletConfiguration) (imagegc.Policy, error) {
	p := imagegc.Policy{High: int(value(file.ImageGCHighThresholdPercent, 85)), Low: int(value(file.ImageGCLowThresholdPercent, 80)),
		MinAge: or(file.ImageMinimumGCAge.Duration, 2*time.Minute), MaxAge: file.ImageMaximumGCAge.Duration}
	switch {
	case p.High < 0 || p.High > 100 || p.Low < 0 || p.Low > 100:
		return p, fmt.Errorf("imageGCHighThresholdPercent %d and imageGCLowThresholdPercent %d must be between 0 and 100", p.High, p.Low)
	case p.Low >= p.High:
		return p, fmt.Errorf("imageGCLowThresholdPercent %d must be less than imageGCHighThresholdPercent %d", p.Low, p.High)
	case p.MaxAge < 0 || p.MaxAge > 0 && p.MaxAge <= p.MinAge:
		return p, fmt.Errorf("imageMaximumGCAge %v must be 0 or greater than imageMinimumGCAge %v", p.MaxAge, p.MinAge)
	}
	return p, nil
}

func logLimits(file *kubeletconfig.KubeletConfiguration, out *kubelet.Config) error {
	var errs []error
	size, err := resource.ParseQuantity(or(file.ContainerLogMaxSize, "10Mi"))
	if err != nil {
		errs = append(errs, fmt.Errorf("containerLogMaxSize %q: %w", file.ContainerLogMaxSize, err))
	}
	out.LogMaxSize, out.LogMaxFiles = size.Value(), int(value(file.ContainerLogMaxFiles, 5))
	out.LogWorkers, out.LogEvery = int(value(file.ContainerLogMaxWorkers, 1)), 10*time.Second
	if file.ContainerLogMonitorInterval != nil {
		out.LogEvery = file.ContainerLogMonitorInterval.Duration
	}
	if out.LogMaxFiles < 2 {
		errs = append(errs, fmt.Errorf("containerLogMaxFiles %d: at least 2 are needed", out.LogMaxFiles))
	}
	if out.LogWorkers < 1 {
		errs = append(errs, fmt.Errorf("containerLogMaxWorkers %d: must be 1 or more", out.LogWorkers))
	}
	if out.LogEvery < 3*time.Second {
		errs = append(errs, fmt.Errorf("containerLogMonitorInterval %v: must be 3s or more", out.LogEvery))
	}
	return errors.Join(errs...)
}

// amounts reads a map of resources that are reserved.
func amounts(field string, in map[string]string) (v1.ResourceList, error) {
	out := v1.ResourceList{}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(in)) {
		switch name {
		case "cpu", "memory", "ephemeral-storage", "pid":
		default:
			if !strings.HasPrefix(name, v1.ResourceHugePagesPrefix) {
				errs = append(errs, fmt.Errorf("%s: cannot reserve %q resource", field, name))
				continue
			}
		}
		q, err := resource.ParseQuantity(in[name])
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %s %q: %w", field, name, in[name], err))
			continue
		}
		if q.Sign() < 0 {
			errs = append(errs, fmt.Errorf("%s: resource quantity for %q cannot be negative: %s", field, name, in[name]))
			continue
		}
		out[v1.ResourceName(name)] = q
	}
	return out, errors.Join(errs...)
}

// reservations reads which cgroups are bounded to what is reserved for them.
func reservations(file *kubeletconfig.KubeletConfiguration) ([]kubelet.Reservation, error) {
	var out []kubelet.Reservation
	var errs []error
	asked := map[string]bool{}
	for _, what := range file.EnforceNodeAllocatable {
		asked[what] = true
		r := kubelet.Reservation{Name: "system", Cgroup: file.SystemReservedCgroup}
		list, field := file.SystemReserved, "systemReserved"
		switch what {
		case "pods", "none":
			continue
		case "kube-reserved", "kube-reserved-compressible":
			r, list, field = kubelet.Reservation{Name: "kube", Cgroup: file.KubeReservedCgroup}, file.KubeReserved, "kubeReserved"
		case "system-reserved", "system-reserved-compressible":
		default:
			errs = append(errs, fmt.Errorf("enforceNodeAllocatable: %q is not one of none, pods, system-reserved, system-reserved-compressible, kube-reserved, kube-reserved-compressible", what))
			continue
		}
		r.CPUOnly = strings.HasSuffix(what, "-compressible")
		if r.Cgroup == "" {
			errs = append(errs, fmt.Errorf("enforceNodeAllocatable: %s needs %sCgroup", what, field))
		}
		var err error
		r.Amount, err = amounts(field, list)
		errs = append(errs, err)
		out = append(out, r)
	}
	if asked["none"] && len(file.EnforceNodeAllocatable) > 1 {
		errs = append(errs, errors.New("enforceNodeAllocatable: none stands alone"))
	}
	for _, name := range []string{"system-reserved", "kube-reserved"} {
		if asked[name] && asked[name+"-compressible"] {
			errs = append(errs, fmt.Errorf("enforceNodeAllocatable: %s and %s-compressible exclude each other", name, name))
		}
	}
	return out, errors.Join(errs...)
}
