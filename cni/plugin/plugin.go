// Package plugin is a CNI plugin that hangs pods on a bridge of the node: a veth pair per pod, addresses from its own
// store, host ports and masquerading in an nftables table of its own.
//
// It does everything in one process, by netlink and files, and starts no other program. It owns the bridge, links named
// orl<hash>, the leases in StateDir and the table of package nat, all found again by name, so that no verb needs what
// another one remembered in memory. ADD takes effect in the order lease, link, ports and undoes itself in the reverse;
// DEL goes ports, address, lease. A process that dies between two of them leaves what DEL or GC of the attachment finds.
//
// It does not know pods, services, other nodes or the API server. Loopback is brought up by ADD too.
package plugin

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/orlop-io/orlop/cni/ipam"
	"github.com/orlop-io/orlop/cni/nat"
)

// Codes of our own errors; the specification leaves 100 and above to plugins.
const (
	errNetwork  = 100 // the kernel refused a change
	errState    = 101 // the lease store could not be read or written
	errMismatch = 102 // CHECK found something other than ADD made
)

// Funcs returns the verbs, to be handed to skel.
func Funcs() skel.CNIFuncs {
	return skel.CNIFuncs{Add: Add, Del: Del, Check: Check, GC: GC, Status: Status}
}

// Versions says which versions of the specification the plugin speaks.
func Versions() version.PluginInfo {
	return version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
}

// leaseData is what the plugin keeps beside a lease, to undo it with nothing but the attachment's name.
type leaseData struct {
	Ports []nat.HostPort `json:"ports,omitempty"`
}

// Add gives a container its interface and prints the result.
func Add(args *skel.CmdArgs) error {
	conf, err := Parse(args.StdinData)
	if err != nil {
		return err
	}
	result, err := add(conf, args)
	if err != nil {
		return err
	}
	return types.PrintResult(result, conf.CNIVersion)
}

func add(conf *Config, args *skel.CmdArgs) (_ *current.Result, err error) {
	var undo []func() error
	defer func() {
		for i := len(undo) - 1; err != nil && i >= 0; i-- {
			if uerr := undo[i](); uerr != nil {
				err = fmt.Errorf("%w (and undoing it: %w)", err, uerr)
			}
		}
		err = coded(errNetwork, err)
	}()
	node, pod, err := open(args.Netns)
	if err != nil {
		return nil, err
	}
	defer node.close()
	defer pod.close()
	if exists, err := pod.exists(args.IfName); err != nil || exists {
		return nil, errors.Join(err, fmt.Errorf("interface %s exists in %s already", args.IfName, args.Netns))
	}
	store, err := storeOf(conf)
	if err != nil {
		return nil, coded(errState, err)
	}
	att := ipam.Attachment{ContainerID: args.ContainerID, IfName: args.IfName}
	table := nat.New(conf.Name)
	// The interface is not there, so what an ADD of the same name left behind belongs to a process that died.
	if err := forget(store, table, node, att); err != nil {
		return nil, err
	}
	lease, err := store.Reserve(att, conf.PodCIDRs, nil)
	if err != nil {
		return nil, coded(errState, err)
	}
	undo = append(undo, func() error { return store.Release(att) })

	if err := node.prepare(conf); err != nil {
		return nil, err
	}
	bridge, err := node.ensureBridge(conf)
	if err != nil {
		return nil, err
	}
	undo = append(undo, func() error { return node.remove(hostName(att)) })
	host, eth, err := node.connect(pod, bridge, conf, att, lease.Addrs)
	if err != nil {
		return nil, err
	}
	if err := publish(conf, store, table, node, lease, &undo); err != nil {
		return nil, err
	}
	return resultOf(conf, args, lease.Addrs, bridge, host, eth), nil
}

// publish makes the rules the configuration asks for and the host ports of lease.
func publish(conf *Config, store *ipam.Store, table *nat.Table, node *namespace, lease ipam.Lease, undo *[]func() error) error {
	ports, err := conf.hostPorts(lease.Addrs)
	if err != nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "port mappings are not valid", err.Error())
	}
	if conf.IPMasq || len(ports) > 0 {
		rules := nat.Config{Bridge: conf.Bridge, Subnets: conf.PodCIDRs, Masquerade: conf.IPMasq, Direct: conf.DirectCIDRs}
		if err := table.Ensure(rules); err != nil {
			return err
		}
	}
	if len(ports) == 0 {
		return nil
	}
	data, err := json.Marshal(leaseData{Ports: ports})
	if err != nil {
		return fmt.Errorf("encode host ports: %w", err)
	}
	if err := node.routeLoopback(conf.Bridge); err != nil {
		return err
	}
	err = table.Publish(ports)
	if errors.Is(err, nat.ErrPortTaken) {
		if err = withdrawOrphans(store, table); err == nil {
			err = table.Publish(ports)
		}
	}
	if err != nil {
		return err
	}
	*undo = append(*undo, func() error { return table.Withdraw(ports) })
	// Written after the ports are ours: a lease never names ports that belong to another pod. If this process dies before,
	// the ports have no pod, and GC or the next pod that wants them finds that out.
	if err := store.SetData(lease.Attachment, data); err != nil {
		return coded(errState, err)
	}
	return nil
}

// withdrawOrphans removes host ports whose pod holds no lease: those of a process that died.
func withdrawOrphans(store *ipam.Store, table *nat.Table) error {
	ports, err := table.Published() // before leases: an ADD writes its lease first
	if err != nil {
		return err
	}
	leases, err := store.List()
	if err != nil {
		return coded(errState, err)
	}
	held := map[netip.Addr]bool{}
	for _, l := range leases {
		for _, a := range l.Addrs {
			held[a] = true
		}
	}
	return table.Withdraw(slices.DeleteFunc(ports, func(p nat.HostPort) bool { return held[p.Pod.Addr()] }))
}

// Del takes away what Add made. What is gone already is no error, and it does not wait for the kernel to take the
// link apart: the addresses leave the interface at once, and the link goes with the namespace, which the runtime removes next.
func Del(args *skel.CmdArgs) error {
	conf, err := Parse(args.StdinData)
	if err != nil {
		return err
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
	if held {
		if err := withdraw(nat.New(conf.Name), lease); err != nil {
			return coded(errNetwork, err)
		}
	}
	if err := silence(args.Netns, args.IfName, att); err != nil {
		return coded(errNetwork, err)
	}
	if held {
		return coded(errState, store.Release(att))
	}
	return nil
}

// Status says whether an Add could succeed.
func Status(args *skel.CmdArgs) error {
	const cannotAdd = 50 // "the plugin is not available, and ADD would fail"
	conf, err := Parse(args.StdinData)
	if err != nil {
		return types.NewError(cannotAdd, "the configuration is not valid", err.Error())
	}
	store, err := storeOf(conf)
	if err == nil {
		err = store.Check(conf.PodCIDRs)
	}
	if errors.Is(err, ipam.ErrExhausted) {
		return types.NewError(cannotAdd, "no address is free", err.Error())
	}
	if err != nil {
		return types.NewError(cannotAdd, "leases cannot be kept", err.Error())
	}
	return nil
}

// forget undoes all of an attachment, including its link.
func forget(store *ipam.Store, table *nat.Table, node *namespace, att ipam.Attachment) error {
	lease, held, err := store.Lookup(att)
	if err != nil {
		return coded(errState, err)
	}
	if !held {
		return nil // the lease comes first and goes last
	}
	if err := errors.Join(withdraw(table, lease), node.remove(hostName(att))); err != nil {
		return err
	}
	return coded(errState, store.Release(att))
}

func withdraw(table *nat.Table, lease ipam.Lease) error {
	if len(lease.Data) == 0 {
		return nil
	}
	var data leaseData
	if err := json.Unmarshal(lease.Data, &data); err != nil {
		return fmt.Errorf("decode host ports of container %s: %w", lease.ContainerID, err)
	}
	return table.Withdraw(data.Ports)
}

func storeOf(conf *Config) (*ipam.Store, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read boot id: %w", err)
	}
	return ipam.New(ipam.Config{Dir: conf.StateDir, Network: conf.Name, BootID: strings.TrimSpace(string(boot))})
}

// hostName is the name of the node's end of an attachment's link.
func hostName(att ipam.Attachment) string {
	sum := sha256.Sum256([]byte(att.ContainerID + "\x00" + att.IfName))
	return hostPrefix + hex.EncodeToString(sum[:6])
}

const hostPrefix = "orl"

// macOf is the hardware address that goes with an address: fixed, so that an address used again needs no new ARP entry.
func macOf(a netip.Addr) net.HardwareAddr {
	s := a.AsSlice()
	return append(net.HardwareAddr{0x0a, 0x58}, s[len(s)-4:]...)
}

func resultOf(conf *Config, args *skel.CmdArgs, addrs []netip.Addr, bridge, host, eth iface) *current.Result {
	r := &current.Result{CNIVersion: current.ImplementedSpecVersion, DNS: conf.DNS}
	r.Interfaces = []*current.Interface{
		{Name: bridge.name, Mac: bridge.mac, Mtu: bridge.mtu},
		{Name: host.name, Mac: host.mac, Mtu: host.mtu},
		{Name: eth.name, Mac: eth.mac, Mtu: eth.mtu, Sandbox: args.Netns},
	}
	for i, a := range addrs {
		gw := ipam.Gateway(conf.PodCIDRs[i]).AsSlice()
		n := 2
		r.IPs = append(r.IPs, &current.IPConfig{
			Interface: &n, Gateway: gw,
			Address: net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(conf.PodCIDRs[i].Bits(), a.BitLen())},
		})
		all := net.IPNet{IP: make([]byte, a.BitLen()/8), Mask: net.CIDRMask(0, a.BitLen())}
		r.Routes = append(r.Routes, &types.Route{Dst: all, GW: gw})
	}
	return r
}

// coded makes err one of the specification's, unless it is already.
func coded(code uint, err error) error {
	if err == nil {
		return nil
	}
	if e := (*types.Error)(nil); errors.As(err, &e) {
		return e
	}
	return types.NewError(code, err.Error(), "")
}
