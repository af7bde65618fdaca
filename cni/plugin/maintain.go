package plugin

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/orlop-io/orlop/cni/ipam"
	"github.com/orlop-io/orlop/cni/nat"
)

// Maintenance looks after the leases of all networks in a folder, for a person: "orlop-cni ipam".
type Maintenance struct {
	Dir string // StateDir of the configurations
	Out io.Writer
}

const maintenanceUsage = `usage: orlop-cni ipam [-dir folder] list|verify|repair
  list    who holds which address, with host ports and aliases
  verify  what should not be; exits 1 when there is anything
  repair  mends what verify finds
The folder is stateDir or ipam.dataDir of the configuration; /var/lib/cni/orlop when not given.`

// RunIPAM carries out the arguments after "ipam".
func RunIPAM(args []string, out io.Writer) error {
	m := Maintenance{Dir: "/var/lib/cni/orlop", Out: out}
	if len(args) == 3 && args[0] == "-dir" {
		m.Dir, args = args[1], args[2:]
	}
	if len(args) != 1 {
		return errors.New(maintenanceUsage)
	}
	switch args[0] {
	case "list":
		return m.list()
	case "verify":
		return m.verify(false)
	case "repair":
		return m.verify(true)
	}
	return errors.New(maintenanceUsage)
}

func (m Maintenance) networks() ([]*attachment, error) {
	entries, err := os.ReadDir(m.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	var out []*attachment
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		conf := &Config{Name: e.Name()}
		conf.StateDir = m.Dir
		store, err := storeOf(conf)
		if err != nil {
			return nil, err
		}
		out = append(out, &attachment{conf: conf, store: store, table: nat.New(conf.Name)})
	}
	return out, nil
}

func (m Maintenance) list() error {
	networks, err := m.networks()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(m.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NETWORK\tADDRESSES\tCONTAINER\tINTERFACE\tPOD\tSINCE\tHOST PORTS\tALIASES")
	for _, n := range networks {
		leases, err := n.store.List()
		if err != nil {
			return err
		}
		before, err := n.store.Foreign()
		if err != nil {
			return err
		}
		leases = append(leases, before...)
		slices.SortFunc(leases, func(a, b ipam.Lease) int {
			return slices.CompareFunc(a.Addrs, b.Addrs, netip.Addr.Compare)
		})
		for _, l := range leases {
			if l.Torn {
				fmt.Fprintf(w, "%s\t?\t(cannot be read: %s)\n", n.conf.Name, l.Key())
				continue
			}
			h := holdingOf(l)
			if l.Key() == "" {
				h.Pod = "(host-local)"
			}
			var addrs, ports []string
			for _, a := range l.Addrs {
				addrs = append(addrs, a.String())
			}
			for _, p := range h.Ports {
				ports = append(ports, fmt.Sprint(p.Port))
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n.conf.Name, strings.Join(addrs, ","), l.ContainerID, l.IfName,
				h.Pod, l.Written.Format(time.DateTime), strings.Join(slices.Compact(ports), ","), strings.Join(h.Aliases, ","))
		}
	}
	return w.Flush()
}

// verify tells what is wrong, and mends it if it is to.
func (m Maintenance) verify(mend bool) error {
	networks, err := m.networks()
	if err != nil {
		return err
	}
	node, err := here()
	if err != nil {
		return err
	}
	defer node.close()
	wrong := 0
	var errs []error
	for _, n := range networks {
		found, err := n.faults(node, mend)
		errs = append(errs, err)
		for _, f := range found {
			wrong++
			fmt.Fprintf(m.Out, "%s: %s (%s)\n", n.conf.Name, f.What, f.Repair)
		}
	}
	if wrong == 0 {
		fmt.Fprintln(m.Out, "all is well")
	} else if !mend {
		errs = append(errs, fmt.Errorf("%d faults; orlop-cni ipam repair mends them as said", wrong))
	}
	return errors.Join(errs...)
}

// faults are those of the store, and leases and host ports that nobody has.
func (a *attachment) faults(node *namespace, mend bool) ([]ipam.Fault, error) {
	look := a.store.Verify
	if mend {
		look = a.store.Repair
	}
	out, err := look()
	errs := []error{err}
	leases, err := a.store.List()
	errs = append(errs, err)
	for _, l := range leases {
		dead, err := abandoned(node, l)
		errs = append(errs, err)
		if !dead {
			continue
		}
		out = append(out, ipam.Fault{
			What:   fmt.Sprintf("container %s %s holds %v, and its namespace is gone", l.ContainerID, l.IfName, l.Addrs),
			Repair: "release it",
		})
		if mend {
			errs = append(errs, a.undoLease(node, l, func() error { return nil }))
		}
	}
	orphans, err := a.orphans()
	errs = append(errs, err)
	for _, p := range orphans {
		out = append(out, ipam.Fault{What: fmt.Sprintf("host port %d leads to %s, which nobody holds", p.Port, p.Pod), Repair: "withdraw it"})
	}
	if mend {
		errs = append(errs, a.table.Withdraw(orphans))
	}
	return out, errors.Join(errs...)
}
