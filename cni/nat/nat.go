// Package nat owns one nftables table per network and address family, in which host ports lead to pods and
// pods' packets to the outside take the node's address, and one of the bridge family, in which pods are held to their hardware address.
//
// It speaks netlink and runs no program. The rules are made once, for a configuration; what changes with pods and
// nodes are elements of maps and sets, so the cost of one pod does not depend on how many there are.
// Other tables are not looked at. Services are not its business: the proxy has no rule here.
package nat

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/orlop-io/orlop/cni/digest"
	"golang.org/x/sys/unix"
)

// Config is what the rules of a table depend on.
type Config struct {
	Bridge     string         // the bridge that pods of this network hang on
	Subnets    []netip.Prefix // addresses of this node's pods
	Masquerade bool           // pods' packets to the outside leave with the node's address
	Direct     []netip.Prefix // where pods' own address is kept although Masquerade is set: all pods of the cluster
}

// HostPort is one port of the node that leads to a pod.
type HostPort struct {
	HostIP   netip.Addr     `json:"hostIP,omitzero"` // zero: every address of the node, in the pod's family
	Protocol Protocol       `json:"protocol"`
	Port     uint16         `json:"port"`
	Pod      netip.AddrPort `json:"pod"`
}

// Protocol is an IP protocol number.
type Protocol uint8

// The protocols that ports exist in.
const (
	TCP  Protocol = unix.IPPROTO_TCP
	UDP  Protocol = unix.IPPROTO_UDP
	SCTP Protocol = unix.IPPROTO_SCTP
)

// ErrPortTaken is returned by Publish when a port leads to another pod.
var ErrPortTaken = errors.New("host port is taken")

// Table is the table of one network, in the namespace of the thread that calls.
type Table struct{ name string }

// New returns the table of a network; it has touched nothing yet.
func New(network string) *Table {
	if network == "orlop" {
		return &Table{name: "orlop"}
	}
	return &Table{name: "orlop-" + network}
}

// Name is the table's, the same in all families.
func (t *Table) Name() string { return t.name }

// Ensure makes the rules for cfg unless they are there. Elements of maps and sets stay. It says whether there were none for any configuration: then there are no
// elements either.
func (t *Table) Ensure(cfg Config) (made bool, err error) {
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open netfilter socket: %w", err)
	}
	for _, f := range families(cfg) {
		tab := &nftables.Table{Name: t.name, Family: f.table}
		mark := markerOf(cfg, f)
		if c, err := conn.ListChain(tab, mark); err == nil && c != nil {
			continue
		}
		stale, err := markers(conn, tab)
		if err != nil {
			return made, err
		}
		ruleset(conn, tab, f, cfg, mark, stale)
		if err := conn.Flush(); err != nil {
			return made, fmt.Errorf("write nftables table %s: %w", t.name, err)
		}
		made = made || len(stale) == 0
	}
	return made, nil
}

// HasRules says whether there are rules, for whatever configuration, in the families of subnets.
func (t *Table) HasRules(subnets []netip.Prefix) (bool, error) {
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open netfilter socket: %w", err)
	}
	for _, f := range families(Config{Subnets: subnets}) {
		found, err := markers(conn, &nftables.Table{Name: t.name, Family: f.table})
		if err != nil || len(found) == 0 {
			return false, err
		}
	}
	return true, nil
}

// Publish adds ports. The rules must be there. When it fails some of the ports may be there; Withdraw takes away those, and none of another pod.
func (t *Table) Publish(ports []HostPort) error {
	// A port that was withdrawn a moment ago is still in the map, about to expire.
	const patience, pause = 200 * time.Millisecond, 4 * time.Millisecond
	for waited := time.Duration(0); ; waited += pause {
		err := t.add(ports, forever)
		if err == nil || !errors.Is(err, ErrPortTaken) || waited >= patience {
			return err
		}
		elems, lerr := t.elements()
		if lerr != nil {
			return lerr
		}
		wanted := map[HostPort]bool{}
		for _, p := range ports {
			wanted[p.slot()] = true
		}
		for _, e := range elems {
			if !e.going && wanted[e.slot()] && !slices.Contains(ports, e.HostPort) {
				return fmt.Errorf("publish host port %d: %w by %s", e.Port, ErrPortTaken, e.Pod.Addr())
			}
		}
		time.Sleep(pause)
	}
}

// slot is the same for two ports of which a map holds only one.
func (p HostPort) slot() HostPort {
	zero := netip.IPv6Unspecified()
	if p.Pod.Addr().Is4() {
		zero = netip.IPv4Unspecified()
	}
	p.Pod = netip.AddrPortFrom(zero, 0)
	return p
}

// add adds ports, or gives those that are there another life.
func (t *Table) add(ports []HostPort, life time.Duration) error {
	const most = 128 // of a transaction; some 1,000 are more than a socket sends at once
	for some := range slices.Chunk(ports, most) {
		if err := t.addAtOnce(some, life); err != nil {
			return err
		}
	}
	return nil
}

func (t *Table) addAtOnce(ports []HostPort, life time.Duration) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	for _, p := range ports {
		f := familyOf(p.Pod.Addr())
		set, elem := f.element(&nftables.Table{Name: t.name, Family: f.table}, p)
		elem.Timeout = life
		if err := conn.SetAddElements(set, []nftables.SetElement{elem}); err != nil {
			return fmt.Errorf("publish host port %d: %w", p.Port, err)
		}
	}
	err = conn.Flush()
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("publish %s: %w", describe(ports), ErrPortTaken)
	}
	if err != nil {
		return fmt.Errorf("publish %s: %w", describe(ports), err)
	}
	return nil
}

// Withdraw removes ports, where they lead to the pod that ports says. What leads elsewhere is another's and stays.
//
// It lets them expire rather than deleting them: after a deletion, closing the socket waits for the kernel to free the memory, 8 ms
// that a runtime would wait for. Kernels before 6.12 cannot shorten an element's life; there it deletes.
func (t *Table) Withdraw(ports []HostPort) error {
	if len(ports) == 0 {
		return nil
	}
	left, err := t.There(ports)
	if err != nil || len(left) == 0 {
		return err
	}
	if err := t.add(left, time.Millisecond); err == nil {
		if left, err = t.There(left); err != nil {
			return err
		}
	}
	if len(left) == 0 {
		return nil
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	var errs []error
	for _, p := range left { // one transaction each: an element that has gone meanwhile fails the whole of its own
		f := familyOf(p.Pod.Addr())
		set, elem := f.element(&nftables.Table{Name: t.name, Family: f.table}, p)
		err := conn.SetDeleteElements(set, []nftables.SetElement{elem})
		if err == nil {
			err = conn.Flush()
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("withdraw host port %d: %w", p.Port, err))
		}
	}
	return errors.Join(errs...)
}

// Supported says whether the kernel has nftables.
func Supported() error {
	conn, err := nftables.New()
	if err == nil {
		_, err = conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
	}
	if err != nil {
		return fmt.Errorf("ask the kernel for nftables: %w", err)
	}
	return nil
}

// Published lists the ports that lead to pods now. A table that is not there has none. One may be missing while others change: see There.
func (t *Table) Published() ([]HostPort, error) {
	elems, err := t.elements()
	if err != nil {
		return nil, err
	}
	var out []HostPort
	for _, e := range elems {
		if !e.going {
			out = append(out, e.HostPort)
		}
	}
	return out, nil
}

// element is a port in a map; going, when it has been withdrawn and waits for its end.
type element struct {
	HostPort
	going bool
}

func (t *Table) elements() ([]element, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	var out []element
	for _, f := range []family{ipv4, ipv6} {
		tab := &nftables.Table{Name: t.name, Family: f.table}
		for _, set := range []*nftables.Set{f.wildcard(tab), f.exact(tab)} {
			// The library hides the cause of a failing dump of elements, so ask for the set first.
			if _, err := conn.GetSetByName(tab, set.Name); errors.Is(err, unix.ENOENT) {
				break // neither map of this family
			}
			elems, err := conn.GetSetElements(set)
			if err != nil {
				return nil, fmt.Errorf("list host ports: %w", err)
			}
			for _, e := range elems {
				out = append(out, element{f.hostPort(e, set.Name == exactName), e.Timeout < forever/2})
			}
		}
	}
	return out, nil
}

// SetNodes makes addrs the nodes' addresses, to which pods speak with their own. The rules must be there.
func (t *Table) SetNodes(addrs []netip.Addr) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	var errs []error
	for _, f := range []family{ipv4, ipv6} {
		tab := &nftables.Table{Name: t.name, Family: f.table}
		set := f.nodes(tab)
		if _, err := conn.GetSetByName(tab, set.Name); errors.Is(err, unix.ENOENT) {
			continue // no pods of this family here
		}
		conn.FlushSet(set)
		var elems []nftables.SetElement
		for _, a := range addrs {
			if a.Is4() == (f.table == nftables.TableFamilyIPv4) {
				elems = append(elems, nftables.SetElement{Key: a.AsSlice()})
			}
		}
		if len(elems) > 0 {
			errs = append(errs, conn.SetAddElements(set, elems))
		}
		if err := conn.Flush(); err != nil {
			errs = append(errs, fmt.Errorf("set node addresses in nftables table %s: %w", t.name, err))
		}
	}
	return errors.Join(errs...)
}

// Remove deletes the table in all families. One that is not there is no error.
func (t *Table) Remove() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	var errs []error
	for _, f := range []nftables.TableFamily{ipv4.table, ipv6.table, nftables.TableFamilyBridge} {
		conn.DelTable(&nftables.Table{Name: t.name, Family: f})
		if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("delete nftables table %s: %w", t.name, err))
		}
	}
	return errors.Join(errs...)
}

const (
	// markerPrefix begins the name of an empty chain that says for which configuration the rules were made.
	markerPrefix = "rules-"
	// rulesVersion changes whenever ruleset does.
	rulesVersion = "2"
	// forever is longer than a node runs. An element must have a life to be shortened.
	forever = 20 * 365 * 24 * time.Hour
)

func markerOf(cfg Config, f family) string {
	text := fmt.Sprintf("%s %d %s %v %v %v", rulesVersion, f.table, cfg.Bridge, cfg.Subnets, cfg.Masquerade, cfg.Direct)
	sum := digest.Of(text)
	return markerPrefix + hex.EncodeToString(sum[:8])
}

func markers(conn *nftables.Conn, tab *nftables.Table) ([]string, error) {
	chains, err := conn.ListChainsOfTableFamily(tab.Family)
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	var names []string
	for _, c := range chains {
		if c.Table.Name == tab.Name && strings.HasPrefix(c.Name, markerPrefix) {
			names = append(names, c.Name)
		}
	}
	return names, nil
}

func describe(ports []HostPort) string {
	var s []string
	for _, p := range ports {
		if port := fmt.Sprint(p.Port); !slices.Contains(s, port) {
			s = append(s, port)
		}
	}
	const told = 8
	if more := len(s) - told; more > 0 {
		s = append(s[:told], fmt.Sprintf("and %d more", more))
	}
	return "host port " + strings.Join(s, ", ")
}
