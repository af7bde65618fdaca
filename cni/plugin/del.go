package plugin

import (
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/orlop-io/orlop/cni/ipam"
	"github.com/orlop-io/orlop/cni/nat"
)

// Del takes away what Add made. What is gone already is no error, and it does not wait for the kernel to take the link apart.
func Del(args *Args) error {
	a, err := attachmentOf(args)
	if err != nil {
		return err
	}
	lease, held, err := a.store.Lookup(a.Attachment)
	if err != nil && !errors.Is(err, ipam.ErrTorn) {
		return coded(errState, err)
	}
	if a.conf.delegate != "" {
		if err := delegated("DEL", a.conf, args); err != nil {
			return err
		}
	}
	node, err := here()
	if err != nil {
		return coded(errNetwork, err)
	}
	defer node.close()
	name := hostName(a.Attachment)
	unlink := func() error {
		_, err := node.detach(args.Netns, args.IfName, name, func() error { return a.store.Remember(name) })
		return err
	}
	if held {
		defer a.forget(node)
		lease.Attachment = a.Attachment // a torn one does not tell
		return coded(errNetwork, a.undoLease(node, lease, unlink))
	}
	// Without a lease there can be a link that an earlier DEL left, and addresses of a plugin that was here before.
	return coded(errState, a.store.Release(a.Attachment))
}

// Status says whether an Add could succeed.
func Status(args *Args) error {
	conf, err := Parse(args.StdinData)
	if err != nil {
		return cannotAdd("the configuration is not valid", err)
	}
	if conf.pending != nil {
		return cannotAdd("this node has no pod CIDR yet", conf.pending)
	}
	store, err := storeOf(conf)
	if err == nil {
		err = store.Check(conf.sets, conf.reserved)
	}
	if err == nil {
		_, err = conf.readDNS()
	}
	if errors.Is(err, ipam.ErrExhausted) {
		return cannotAdd("no address is free", err)
	}
	if err != nil {
		return cannotAdd("leases cannot be kept", err)
	}
	node, err := here()
	if err != nil {
		return cannotAdd("the kernel's network cannot be asked", err)
	}
	defer node.close()
	if err := node.checkBridge(conf); err != nil {
		return cannotAdd("the bridge is broken", err)
	}
	if conf.IPMasq || conf.Capabilities["portMappings"] || conf.MacSpoofChk {
		if err := nat.Supported(); err != nil {
			return cannotAdd("ipMasq, portMappings and macspoofchk need nftables", err)
		}
	}
	if conf.delegate != "" {
		return delegated("STATUS", conf, args)
	}
	return nil
}

func cannotAdd(why string, err error) error {
	return types.NewError(types.ErrPluginNotAvailable, why, err.Error())
}

// GC removes what belongs to attachments that the runtime does not list: leases, host ports, guards and links. It goes on
// after an error and reports all.
func GC(args *Args) error {
	a, err := attachmentOf(args)
	if err != nil {
		return err
	}
	if !a.conf.attachmentsTold {
		return types.NewError(types.ErrInvalidNetworkConfig, "GC needs cni.dev/valid-attachments: without it nothing would be left", "")
	}
	node, err := here()
	if err != nil {
		return coded(errNetwork, err)
	}
	defer node.close()
	valid := map[string]bool{}
	for _, v := range a.conf.ValidAttachments {
		valid[ipam.KeyOf(ipam.Attachment{ContainerID: v.ContainerID, IfName: v.IfName})] = true
	}
	err = a.collect(node, func(l ipam.Lease) (bool, error) { return !valid[l.Key()], nil })
	err = errors.Join(err, a.collectForeign())
	if a.conf.delegate != "" {
		err = errors.Join(err, delegated("GC", a.conf, args))
	}
	return coded(errNetwork, err)
}

// collect removes the leases that are garbage with all that is theirs, and what of this network has no lease. A link on the bridge that has none is left alone:
// it may be another network's, or of a lease that somebody removed, and goes with its namespace.
func (a *attachment) collect(node *namespace, garbage func(ipam.Lease) (bool, error)) error {
	// Guards and ports before leases: an ADD writes its lease first, so whatever is seen here without one is nobody's.
	guards, err := a.table.Guards()
	if err != nil {
		return err
	}
	leases, err := a.store.List()
	if err != nil {
		return coded(errState, err)
	}
	keep := map[string]bool{} // names of links
	for _, v := range a.conf.ValidAttachments {
		keep[hostName(ipam.Attachment{ContainerID: v.ContainerID, IfName: v.IfName})] = true
	}
	var errs []error
	for _, l := range leases {
		drop, err := garbage(l)
		errs = append(errs, err)
		if !drop {
			keep[linkOf(l)] = true
			continue
		}
		errs = append(errs, a.undoLease(node, l, func() error { return node.remove(linkOf(l)) }))
	}
	errs = append(errs, a.withdrawOrphans())
	stray, err := node.strayLimiters()
	errs = append(errs, err)
	for _, name := range stray {
		errs = append(errs, node.remove(name))
	}
	for _, g := range guards {
		if strings.HasPrefix(g.Port, hostPrefix) && !keep[g.Port] {
			errs = append(errs, a.table.Unguard(g))
		}
	}
	return errors.Join(append(errs, a.sweepAll(node))...)
}

// collectForeign gives back what host-local gave to containers that the runtime does not list.
func (a *attachment) collectForeign() error {
	leases, err := a.store.Foreign()
	if err != nil {
		return coded(errState, err)
	}
	var errs []error
	for _, l := range leases {
		if !slices.ContainsFunc(a.conf.ValidAttachments, func(v types.GCAttachment) bool {
			return v.ContainerID == l.ContainerID && (l.IfName == "" || v.IfName == l.IfName)
		}) {
			errs = append(errs, a.store.DropForeign(l))
		}
	}
	return coded(errState, errors.Join(errs...))
}

// sweepAll deletes every link that a DEL left to its namespace.
func (a *attachment) sweepAll(node *namespace) error {
	notes, err := a.store.Notes()
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range notes {
		l, err := node.link(n.Name)
		if err == nil && l != nil && l.master == 0 {
			err = node.remove(n.Name)
		}
		if err == nil {
			err = a.store.Forget(n.Name)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// abandoned says whether a lease's container is gone although nobody deleted it: its namespace has no path any more, its link went
// along, and it is older than any ADD takes.
func abandoned(node *namespace, l ipam.Lease) (bool, error) {
	const patience = time.Minute
	path := holdingOf(l).Netns
	if l.Torn || path == "" || time.Since(l.Written) < patience {
		return false, nil
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	link, err := node.link(linkOf(l))
	return link == nil && err == nil, err
}
