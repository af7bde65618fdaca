package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/google/nftables"
	"github.com/spf13/cobra"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/proxy"
	"github.com/orlop-io/orlop/proxy/iptables"
	"github.com/orlop-io/orlop/proxy/userspace"
)

// cleanup removes what translates services, of any mode, and says each thing; asked for it, a kube-proxy's rules, too. It refuses to take away what an
// agent works with.
func cleanup(o options, own, kubeProxy bool, out io.Writer) error {
	var errs []error
	if own {
		unlock, err := idle(o.runDir)
		if err != nil {
			return err
		}
		defer unlock()
		for _, part := range []func(options) ([]effect, error){pinned, serviceTables, chains, captures} {
			list, err := part(o)
			errs = append(errs, err)
			for _, e := range list {
				if err := e.undo(); err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", e.what, err))
					continue
				}
				fmt.Fprintln(out, e.what)
			}
		}
	}
	if kubeProxy {
		errs = append(errs, removeKubeProxy(o, func(what string) { fmt.Fprintln(out, what) }))
	}
	return errors.Join(errs...)
}

// chains are those of iptables.
func chains(o options) ([]effect, error) {
	held, err := iptables.Held(o.hostRoot)
	if err != nil || !held {
		return nil, err
	}
	return []effect{{"remove the chains KUBE-* that the agent made by iptables", func() error { return iptables.Remove(o.hostRoot) }}}, nil
}

// captures are the local routes of mode userspace.
func captures(options) ([]effect, error) {
	list, err := userspace.Routes()
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return []effect{{fmt.Sprintf("remove %d local routes of services", len(list)), userspace.Remove}}, nil
}

// removeKubeProxy removes what a kube-proxy leaves in any of its modes: chains of iptables, the nftables table kube-proxy, and virtual servers with
// their device and sets.
func removeKubeProxy(o options, say func(string)) error {
	errs := []error{iptables.RemoveKubeProxy(o.hostRoot, say)}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		conn, err := nftables.New()
		if err != nil {
			break
		}
		conn.DelTable(&nftables.Table{Name: "kube-proxy", Family: family})
		switch err := conn.Flush(); {
		case err == nil:
			say("remove the nftables table kube-proxy")
		case !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP):
			errs = append(errs, fmt.Errorf("remove nftables table kube-proxy: %w", err))
		}
	}
	return errors.Join(append(errs, removeVirtualServers(say))...)
}

// ipvsFlush is IPVS_CMD_FLUSH of linux/ip_vs.h.
const ipvsFlush = 17

// removeVirtualServers undoes kube-proxy's mode ipvs. Its device says that the virtual servers are kube-proxy's.
func removeVirtualServers(say func(string)) error {
	link, err := netlink.LinkByName("kube-ipvs0")
	if err != nil {
		return nil
	}
	var errs []error
	if family, err := netlink.GenlFamilyGet("IPVS"); err == nil {
		req := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
		req.AddData(&nl.Genlmsg{Command: ipvsFlush, Version: 1})
		if _, err := req.Execute(unix.NETLINK_GENERIC, 0); err != nil {
			errs = append(errs, fmt.Errorf("remove virtual servers: %w", err))
		} else {
			say("remove all virtual servers (ipvs)")
		}
	}
	if err := netlink.LinkDel(link); err != nil {
		errs = append(errs, fmt.Errorf("delete link kube-ipvs0: %w", err))
	} else {
		say("delete link kube-ipvs0")
	}
	sets, err := netlink.IpsetListAll()
	if err != nil {
		return errors.Join(errs...) // a kernel without sets has none
	}
	for _, set := range sets {
		if !strings.HasPrefix(set.SetName, "KUBE-") {
			continue
		}
		if err := netlink.IpsetDestroy(set.SetName); err != nil {
			errs = append(errs, fmt.Errorf("remove ipset %s: %w", set.SetName, err))
		} else {
			say("remove ipset " + set.SetName)
		}
	}
	return errors.Join(errs...)
}

func limitsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "limits", Short: "Show what each mode of translating services cannot do, and what happens instead", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "NOT IN MODE\tWHAT\tINSTEAD")
			for _, l := range proxy.Limits() {
				fmt.Fprintf(w, "%s\t%s\t%s\n", modesOf(l), l.Feature, l.Instead)
			}
			return w.Flush()
		},
	}
}

// modesOf are those that a limit is of, and where.
func modesOf(l proxy.Limit) string {
	return strings.TrimSpace(strings.Join(l.Modes, ", ") + " " + l.Where)
}
