package localcluster

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/orlop-io/orlop/cmd/localcluster/cgroups"
	"github.com/orlop-io/orlop/cmd/localcluster/hostns"
	"github.com/orlop-io/orlop/cmd/localcluster/kubeconfig"
	"github.com/orlop-io/orlop/cmd/localcluster/layout"
)

// Down removes a cluster whole, and the logs of an Up of the name that failed.
func Down(ctx context.Context, name string) error {
	err := remove(ctx, name) // which also refuses what is no name
	if layout.CheckName(name) != nil {
		return err
	}
	if rmErr := os.RemoveAll(layout.FailedLogDir(name)); rmErr != nil {
		err = errors.Join(err, fmt.Errorf("remove logs: %w", rmErr))
	}
	return err
}

// remove removes a cluster, in whatever state it is. A cluster that is not there is no error.
// It goes by names alone, so it needs nothing that a crash might have taken; each step is tried
// even if one before it failed.
func remove(ctx context.Context, name string) error {
	if err := layout.CheckName(name); err != nil {
		return err
	}
	var errs []error
	if _, err := os.Stat(layout.StateDir(name)); err == nil {
		dir, err := lockDir(layout.StateDir(name)) // see entering
		if err != nil {
			return err
		}
		defer dir.Close()
	}
	if c, err := layout.Load(name); err == nil && c.Kubeconfig != nil {
		errs = append(errs, kubeconfig.Remove(contextName(name), *c.Kubeconfig), handOver(c))
	}
	trees, err := cgroups.Mounted()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	if err := emptyCgroup(ctx, trees, layout.Cgroup(name)); err != nil {
		// Live hosts would lose their files under their feet: leave the rest for the next try.
		return errors.Join(append(errs, err)...)
	}
	errs = append(errs, hostns.RemoveFabric(layout.FabricHandle(name)))
	for _, dir := range []string{layout.RunDir(name), layout.StateDir(name)} {
		if err := os.RemoveAll(dir); err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", dir, err))
		}
	}
	errs = append(errs, clearGround())
	return errors.Join(errs...)
}

// handOver leaves what the cluster's kubeconfig entry has to undo to the clusters that stay.
func handOver(gone *layout.Cluster) error {
	names, err := layout.Names()
	if err != nil {
		return err
	}
	for _, n := range names {
		c, err := layout.Load(n)
		if n == gone.Name || err != nil || c.Kubeconfig == nil {
			continue
		}
		entry := kubeconfig.HandOver(contextName(gone.Name), *gone.Kubeconfig, *c.Kubeconfig)
		if entry == *c.Kubeconfig {
			continue
		}
		c.Kubeconfig = &entry
		if err := c.Save(); err != nil {
			return err
		}
	}
	return nil
}

// contextName is what a cluster is called in kubeconfigs.
func contextName(name string) string { return "orlop-" + name }
