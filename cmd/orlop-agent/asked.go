package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/orlop-io/orlop/proxy"
)

// servicesCommand asks the agent that runs on this node what it does with services.
func servicesCommand(o *options) *cobra.Command {
	var output string
	cmd := &cobra.Command{Use: "services", Short: "Show what this node does with services, and why"}
	cmd.PersistentFlags().StringVarP(&output, "output", "o", "", "json prints all that is known")
	show := func(cmd *cobra.Command, name string, print func(io.Writer, report) error) error {
		if output != "" && output != "json" {
			return fmt.Errorf("-o %s: want json", output)
		}
		rep, err := askAgent(cmd.Context(), o.runDir, name)
		if err != nil {
			return err
		}
		if output == "json" {
			enc := json.NewEncoder(cmd.OutOrStdout())
			enc.SetIndent("", "  ")
			return enc.Encode(rep)
		}
		return print(cmd.OutOrStdout(), rep)
	}
	cmd.AddCommand(&cobra.Command{
		Use: "list", Short: "List services: their addresses, how many endpoints they have, and whether the kernel has them so", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return show(cmd, "", listServices) },
	}, &cobra.Command{
		Use: "show NAMESPACE/NAME", Short: "Show the endpoints of a service, which are used, and why", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if !strings.Contains(name, "/") {
				name = "default/" + name
			}
			return show(cmd, name, func(w io.Writer, rep report) error {
				if len(rep.Services) == 0 {
					return fmt.Errorf("this node translates no service %s: there is none, or it is headless or another proxy's", name)
				}
				return showService(w, rep.Services[0])
			})
		},
	}, &cobra.Command{
		Use: "why FROM ADDRESS:PORT", Short: "Say what a client at FROM gets that asks for an address", Args: cobra.ExactArgs(2),
		Long: "Say what a client at FROM gets that asks for an address. FROM is an IP address, or \"inside\" for this node and its pods, or \"outside\".",
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := questionOf(args[0], args[1], here())
			if err != nil {
				return err
			}
			return show(cmd, "", func(w io.Writer, rep report) error { return q.print(w, rep) })
		},
	}, topCommand(o, &output))
	return cmd
}

func listServices(out io.Writer, rep report) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "SERVICE\tADDRESSES\tFROM\tENDPOINTS\tHERE\tAFFINITY\tIN FORCE")
	for _, s := range rep.Services {
		state := "as " + rep.Mode
		if wrong := s.wrong(); wrong != "" {
			state = wrong
		}
		for _, d := range s.Groups {
			here, addrs := 0, []string{}
			for _, c := range d.Endpoints {
				if c.Used && c.Local {
					here++
				}
			}
			for _, a := range d.Addresses {
				addrs = append(addrs, addressText(a))
			}
			affinity := d.Affinity
			if affinity == "" {
				affinity = "-"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%d of %d\t%d\t%s\t%s\n", d.Port, strings.Join(addrs, ","), d.Addresses[0].From, len(d.Used()), len(d.Endpoints), here, affinity, state)
		}
		for _, r := range s.Refused {
			fmt.Fprintf(w, "%s\t-\t-\t-\t-\t-\trefused: %s\n", s.Service, r.What)
		}
	}
	return w.Flush()
}

func showService(out io.Writer, s service) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	for i, d := range s.Groups {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "Port:\t%s\n", d.Port)
		for _, a := range d.Addresses {
			fmt.Fprintf(w, "Address:\t%s, asked from %s\n", addressText(a), a.From)
		}
		fmt.Fprintf(w, "Endpoints:\t%s\n", d.Policy)
		printEndpoints(w, d)
	}
	for _, r := range s.Refused {
		fmt.Fprintf(w, "Refused:\t%s: %s\n", r.What, r.Why)
	}
	if wrong := s.wrong(); wrong != "" {
		fmt.Fprintf(w, "Wrong:\t%s\n", wrong)
	}
	return w.Flush()
}

func printEndpoints(w io.Writer, d proxy.Decision) {
	for _, c := range d.Endpoints {
		used, where := "no", "elsewhere"
		if c.Used {
			used = "yes"
		}
		if c.Local {
			where = "here"
		}
		fmt.Fprintf(w, "  %s\tused: %s\t%s\t%s\n", c.At, used, where, c.Why)
	}
	if len(d.Endpoints) == 0 {
		fmt.Fprintln(w, "  none: connections are refused")
	}
}

// question is who asks for what.
type question struct {
	from  string // inside or outside
	addr  netip.Addr
	asked netip.AddrPort
	own   bool // asked is an address of this node
}

// place is what tells clients inside from those outside.
type place struct {
	own  []netip.Addr   // of its links
	pods []netip.Prefix // ranges on its bridges
}

// questionOf reads FROM and ADDRESS:PORT.
func questionOf(from, asked string, at place) (q question, err error) {
	if q.asked, err = netip.ParseAddrPort(asked); err != nil {
		return question{}, fmt.Errorf("%q: want ADDRESS:PORT, as 10.96.0.1:443", asked)
	}
	q.own = slices.Contains(at.own, q.asked.Addr())
	switch from {
	case proxy.Inside.String(), proxy.Outside.String():
		q.from = from
		return q, nil
	}
	if q.addr, err = netip.ParseAddr(from); err != nil {
		return question{}, fmt.Errorf("%q: want an address, inside or outside", from)
	}
	q.from = proxy.Outside.String()
	if slices.Contains(at.own, q.addr) || slices.ContainsFunc(at.pods, func(p netip.Prefix) bool { return p.Contains(q.addr) }) {
		q.from = proxy.Inside.String()
	}
	return q, nil
}

// print says which endpoints answer, for each protocol.
func (q question) print(w io.Writer, rep report) error {
	found := false
	for _, s := range rep.Services {
		for _, d := range s.Groups {
			for _, a := range d.Addresses {
				if !q.meets(a) {
					continue
				}
				found = true
				if err := q.explain(w, rep, s, d, a); err != nil {
					return err
				}
			}
		}
	}
	if !found {
		return fmt.Errorf("%s from %s is no service's here: packets go there as to any address", q.asked, q.from)
	}
	return nil
}

func (q question) meets(a proxy.Address) bool {
	if a.From != q.from && a.From != proxy.Everywhere.String() {
		return false
	}
	nodePort := a.At.Addr().IsUnspecified() && a.At.Addr().Is4() == q.asked.Addr().Is4() && q.own
	return a.At.Port() == q.asked.Port() && (a.At.Addr() == q.asked.Addr() || nodePort)
}

func (q question) explain(out io.Writer, rep report, s service, d proxy.Decision, a proxy.Address) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintf(w, "%s from %s is %s, translated by %s.\n", addressText(a), q.from, d.Port, rep.Mode)
	if q.from == proxy.Outside.String() && len(d.Sources) > 0 && q.addr.IsValid() && !slices.ContainsFunc(d.Sources, func(p netip.Prefix) bool { return p.Contains(q.addr) }) {
		fmt.Fprintf(w, "Refused: %s is in none of loadBalancerSourceRanges %v.\n", q.addr, d.Sources)
		return w.Flush()
	}
	switch used := d.Used(); {
	case len(used) == 0:
		fmt.Fprintln(w, "Refused: no endpoint can be used.")
	case len(used) == 1:
		fmt.Fprintln(w, "Every connection goes to:")
	case d.Affinity != "":
		fmt.Fprintf(w, "A client's first connection goes to any of these, and the next ones of %s to the same:\n", d.Affinity)
	case len(used) > 1:
		fmt.Fprintf(w, "Each connection goes to any of these, one in %d:\n", len(used))
	}
	fmt.Fprintf(w, "Policy: %s.\n", d.Policy)
	printEndpoints(w, d)
	if wrong := s.wrong(); wrong != "" {
		fmt.Fprintf(w, "But: %s.\n", wrong)
	}
	return w.Flush()
}

// here is this node.
func here() (at place) {
	links, err := net.Interfaces()
	if err != nil {
		return place{}
	}
	for _, l := range links {
		_, err := os.Stat("/sys/class/net/" + l.Name + "/bridge")
		bridge := err == nil
		addrs, err := l.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil {
				continue
			}
			at.own = append(at.own, p.Addr().Unmap())
			if bridge {
				at.pods = append(at.pods, p)
			}
		}
	}
	return at
}

// addressText is an address as people write it.
func addressText(a proxy.Address) string {
	if a.At.Addr().IsUnspecified() {
		return fmt.Sprintf("node port %d/%s", a.At.Port(), a.Protocol)
	}
	return a.At.String() + "/" + a.Protocol
}
