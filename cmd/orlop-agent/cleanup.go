package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/bpf/socklb"
	"github.com/orlop-io/orlop/cni/install"
	"github.com/orlop-io/orlop/cni/nat"
	"github.com/orlop-io/orlop/cni/routes"
	"github.com/orlop-io/orlop/proxy/nft"
)

// cleanup removes from this node what the agent and its plugin made: the configuration first, so that no pod comes meanwhile. Pods that
// are there lose their network. It goes on after an error and reports all.
func cleanup(o options) error {
	errs := []error{
		install.Remove(install.Config{Binary: o.binary, BinDir: o.binDir, ConfDir: o.confDir}),
		socklb.Remove(o.pinDir),
		nft.Remove(),
		removeRoutes(),
		nat.New(networkName).Remove(),
		removeLinks(o.bridge),
	}
	for _, dir := range []string{o.stateDir, o.runDir} {
		if err := os.RemoveAll(dir); err != nil {
			errs = append(errs, fmt.Errorf("remove state: %w", err))
		}
	}
	return errors.Join(errs...)
}

func removeRoutes() error {
	k, err := routes.Open()
	if err != nil {
		return err
	}
	defer k.Close()
	return routes.RemoveAll(k)
}

// removeLinks deletes the bridge and the node's ends of pods' links.
func removeLinks(bridge string) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	var errs []error
	for _, l := range links {
		name := l.Attrs().Name
		if name != bridge && (l.Type() != "veth" || !strings.HasPrefix(name, "orl")) {
			continue
		}
		if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("delete link %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}
