package plugin

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/orlop-io/orlop/cni/ipam"
	"github.com/orlop-io/orlop/cni/nat"
)

// Check compares what Add made with what is there, and changes nothing.
func Check(args *skel.CmdArgs) error {
	conf, err := Parse(args.StdinData)
	if err != nil {
		return err
	}
	if conf.PrevResult == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "CHECK needs prevResult", "")
	}
	prev, err := current.NewResultFromResult(conf.PrevResult)
	if err != nil {
		return types.NewError(types.ErrDecodingFailure, "decode prevResult", err.Error())
	}
	store, err := storeOf(conf)
	if err != nil {
		return coded(errState, err)
	}
	att := ipam.Attachment{ContainerID: args.ContainerID, IfName: args.IfName}
	lease, held, err := store.Lookup(att)
	if err != nil {
		return coded(errState, err)
	}
	if !held {
		return types.NewError(errMismatch, fmt.Sprintf("container %s %s holds no lease", args.ContainerID, args.IfName), "")
	}
	node, pod, err := open(args.Netns)
	if err != nil {
		return coded(errNetwork, err)
	}
	defer node.close()
	defer pod.close()
	return coded(errMismatch, errors.Join(
		sameAddrs(lease.Addrs, addrsOf(prev)),
		pod.checkPod(args.IfName, lease.Addrs, conf),
		node.checkHost(hostName(att), conf.Bridge),
		checkPorts(conf, lease),
	))
}

func addrsOf(r *current.Result) []netip.Addr {
	var out []netip.Addr
	for _, ip := range r.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			out = append(out, a.Unmap())
		}
	}
	return out
}

func sameAddrs(want, got []netip.Addr) error {
	for _, a := range want {
		if !slices.Contains(got, a) {
			return fmt.Errorf("prevResult lacks the leased address %s", a)
		}
	}
	return nil
}

func checkPorts(conf *Config, lease ipam.Lease) error {
	want, err := conf.hostPorts(lease.Addrs)
	if err != nil || len(want) == 0 {
		return err
	}
	got, err := nat.New(conf.Name).Published()
	if err != nil {
		return err
	}
	for _, p := range want {
		if !slices.Contains(got, p) {
			return fmt.Errorf("host port %d does not lead to %s", p.Port, p.Pod)
		}
	}
	return nil
}

// GC removes what belongs to attachments that the runtime does not list: leases, host ports and links. It goes on
// after an error and reports all.
func GC(args *skel.CmdArgs) error {
	conf, err := Parse(args.StdinData)
	if err != nil {
		return err
	}
	store, err := storeOf(conf)
	if err != nil {
		return coded(errState, err)
	}
	node, err := here()
	if err != nil {
		return coded(errNetwork, err)
	}
	defer node.close()
	table := nat.New(conf.Name)
	// Links and ports before leases: an ADD writes its lease first, so whatever is seen here without one is nobody's.
	names, err := node.portsOf(conf.Bridge)
	if err != nil {
		return coded(errNetwork, err)
	}
	ports, err := table.Published()
	if err != nil {
		return coded(errNetwork, err)
	}
	leases, err := store.List()
	if err != nil {
		return coded(errState, err)
	}
	keep := map[string]bool{} // names of links
	addrs := map[netip.Addr]bool{}
	var errs []error
	for _, l := range leases {
		if valid(conf.ValidAttachments, l.Attachment) {
			keep[hostName(l.Attachment)] = true
			for _, a := range l.Addrs {
				addrs[a] = true
			}
			continue
		}
		errs = append(errs, forget(store, table, node, l.Attachment))
	}
	ports = slices.DeleteFunc(ports, func(p nat.HostPort) bool { return addrs[p.Pod.Addr()] })
	errs = append(errs, table.Withdraw(ports))
	for _, name := range names {
		if strings.HasPrefix(name, hostPrefix) && !keep[name] {
			errs = append(errs, node.remove(name))
		}
	}
	return coded(errNetwork, errors.Join(errs...))
}

func valid(list []types.GCAttachment, att ipam.Attachment) bool {
	return slices.Contains(list, types.GCAttachment{ContainerID: att.ContainerID, IfName: att.IfName})
}
