package cgroups

import (
	"errors"
	"path"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/kubelet/systemd"
)

// bySlices says whether systemd owns the cgroups that are kept here.
func (c *Cgroups) bySlices() bool {
	if c.cfg.Driver != Systemd {
		return false
	}
	for _, h := range c.cfg.Hierarchies {
		if h.Unified && h.has("memory") {
			return true
		}
	}
	return false
}

// tell has systemd make the slices down to n, and give the last one its bounds. Otherwise the kernel has them only until
// the first container comes: for its scope systemd writes its own idea of all slices above.
func (c *Cgroups) tell(n name, l limits) error {
	if !c.bySlices() {
		return nil
	}
	for depth := 1; depth <= len(n); depth++ {
		bounds := systemd.Bounds{}
		if depth == len(n) {
			bounds = l.slice()
		}
		if err := c.tellOne(n[:depth].parent(Systemd), bounds); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cgroups) tellOne(slice string, bounds systemd.Bounds) error {
	c.mu.Lock()
	have, known := c.told[slice]
	c.mu.Unlock()
	whole := have.With(bounds)
	if known && whole == have {
		return nil
	}
	if err := c.cfg.Slices.Set(slice, whole); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told[slice] = whole
	return nil
}

// slice is the bounds as systemd is told of them.
func (l limits) slice() systemd.Bounds {
	b := systemd.Bounds{CPUQuota: l.Quota, CPUPeriod: l.Period, Memory: l.Memory, Tasks: l.Pids}
	if l.Shares != 0 {
		b.CPUWeight = weight(l.Shares)
	}
	return b
}

// forget takes a pod's slices out of systemd.
func (c *Cgroups) forget(uid types.UID) error {
	if !c.bySlices() {
		return nil
	}
	var errs []error
	for _, class := range []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		slice := path.Base(podName(c.root, class, uid).path(Systemd))
		errs = append(errs, c.cfg.Slices.Stop(slice))
		c.mu.Lock()
		delete(c.told, slice)
		c.mu.Unlock()
	}
	return errors.Join(errs...)
}
