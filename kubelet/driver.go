package kubelet

import (
	"context"
	"errors"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/cri"
	"github.com/orlop-io/orlop/kubelet/cgroups"
	"github.com/orlop-io/orlop/kubelet/systemd"
)

// driverPatience is how long the kubelet waits, when it begins, for a runtime that does not answer yet.
const driverPatience = 2 * time.Second

// cgroupsBy gives pods' cgroups with one driver.
func (k *Kubelet) cgroupsBy(driver cgroups.Driver) (*cgroups.Cgroups, error) {
	cfg := cgroups.Config{Hierarchies: k.trees, Prefix: k.cfg.CgroupRoot, Driver: driver,
		CPUQuota: k.cfg.CPUQuota, CPUPeriod: k.cfg.CPUPeriod, PodPids: k.cfg.PodPids}
	if driver == cgroups.Systemd {
		cfg.Slices = &systemd.Bus{}
	}
	return cgroups.New(cfg, k.log)
}

// agreeOnDriver takes the cgroup driver that the runtime uses, whatever the configuration says: no pod starts with
// another. A runtime that does not say, or does not answer yet, is believed to be configured like the kubelet.
func (k *Kubelet) agreeOnDriver(ctx context.Context) (cgroups.Driver, error) {
	configured := cgroups.Driver(k.cfg.CgroupDriver)
	ctx, cancel := context.WithTimeout(ctx, driverPatience)
	defer cancel()
	driver, err := k.runtimeDriver(ctx, 50*time.Millisecond, configured)
	if err != nil || driver == configured {
		return configured, nil // confirmDriver asks again
	}
	k.log.Info("taking the runtime's cgroup driver", "driver", driver, "configured", configured)
	k.groups, err = k.cgroupsBy(driver)
	return driver, err
}

// confirmDriver makes sure, as soon as the runtime answers, that it uses the driver that was taken. If not, the kubelet
// ends: whoever keeps it running lets it begin with the right one.
func (k *Kubelet) confirmDriver(ctx context.Context, taken cgroups.Driver) error {
	driver, err := k.runtimeDriver(ctx, time.Second, taken)
	if err != nil {
		return err
	}
	if driver != taken {
		return fmt.Errorf("the container runtime uses cgroup driver %s, not %s as it was configured here: beginning anew", driver, taken)
	}
	return nil
}

// runtimeDriver asks the runtime, again and again until it answers or ctx ends. One that does not say gives otherwise.
func (k *Kubelet) runtimeDriver(ctx context.Context, every time.Duration, otherwise cgroups.Driver) (cgroups.Driver, error) {
	for {
		driver, err := k.rt.CgroupDriver(ctx)
		switch {
		case errors.Is(err, cri.ErrUnimplemented):
			return otherwise, nil
		case err == nil && driver == runtimeapi.CgroupDriver_SYSTEMD:
			return cgroups.Systemd, nil
		case err == nil:
			return cgroups.Cgroupfs, nil
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(every):
		}
	}
}
