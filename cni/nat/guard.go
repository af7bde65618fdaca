package nat

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Guard holds a port of a bridge to one hardware address: frames that come in by it from another one are dropped.
type Guard struct {
	Port string           `json:"port"`
	MAC  net.HardwareAddr `json:"mac"`
}

const (
	guardedName = "guarded" // ports
	allowedName = "allowed" // port . address
)

// Guard adds a guard. It says whether it had to make the table: then there is no other guard.
func (t *Table) Guard(g Guard) (made bool, err error) {
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open netfilter socket: %w", err)
	}
	tab := t.bridge()
	if c, err := conn.ListChain(tab, "prerouting"); err != nil || c == nil {
		t.addGuards(conn)
		if err := conn.Flush(); err != nil {
			return false, fmt.Errorf("write nftables table %s: %w", t.name, err)
		}
		made = true
	}
	for set, elem := range g.elements(tab) {
		if err := conn.SetAddElements(set, []nftables.SetElement{elem}); err != nil {
			return made, fmt.Errorf("guard %s: %w", g.Port, err)
		}
	}
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.EEXIST) {
		return made, fmt.Errorf("guard %s: %w", g.Port, err)
	}
	return made, nil
}

// Unguard removes a guard. One that is not there is no error.
func (t *Table) Unguard(g Guard) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	var errs []error
	for set, elem := range g.elements(t.bridge()) {
		err := conn.SetDeleteElements(set, []nftables.SetElement{elem})
		if err == nil {
			err = conn.Flush()
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove the guard of %s: %w", g.Port, err))
		}
	}
	return errors.Join(errs...)
}

// Guards lists the guards there are.
func (t *Table) Guards() ([]Guard, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	set := allowed(t.bridge())
	if _, err := conn.GetSetByName(set.Table, set.Name); errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	elems, err := conn.GetSetElements(set)
	if err != nil {
		return nil, fmt.Errorf("list guards: %w", err)
	}
	var out []Guard
	for _, e := range elems {
		name := e.Key[:unix.IFNAMSIZ]
		if i := slices.Index(name, 0); i >= 0 {
			name = name[:i]
		}
		out = append(out, Guard{Port: string(name), MAC: net.HardwareAddr(e.Key[unix.IFNAMSIZ : unix.IFNAMSIZ+6])})
	}
	return out, nil
}

func (t *Table) bridge() *nftables.Table {
	return &nftables.Table{Name: t.name, Family: nftables.TableFamilyBridge}
}

func guarded(tab *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: tab, Name: guardedName, KeyType: nftables.TypeIFName}
}

func allowed(tab *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: tab, Name: allowedName, Concatenation: true, KeyType: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr)}
}

func (g Guard) elements(tab *nftables.Table) map[*nftables.Set]nftables.SetElement {
	port := make([]byte, unix.IFNAMSIZ)
	copy(port, g.Port)
	return map[*nftables.Set]nftables.SetElement{
		guarded(tab): {Key: port},
		allowed(tab): {Key: append(append(slices.Clone(port), g.MAC...), 0, 0)},
	}
}

// addGuards queues the transaction that makes sets, chain and rule. Flushing the chain first lets it run twice.
func (t *Table) addGuards(conn *nftables.Conn) {
	tab := t.bridge()
	conn.AddTable(tab)
	_ = conn.AddSet(guarded(tab), nil) // fails only on an anonymous set
	_ = conn.AddSet(allowed(tab), nil)
	chain := &nftables.Chain{
		Table: tab, Name: "prerouting", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	}
	conn.AddChain(chain)
	conn.FlushChain(chain)
	const port, addr = r0, r0 + unix.IFNAMSIZ/4
	conn.AddRule(&nftables.Rule{Table: tab, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: port},
		&expr.Lookup{SourceRegister: port, SetName: guardedName},
		&expr.Payload{DestRegister: addr, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6},
		&expr.Lookup{SourceRegister: port, SetName: allowedName, Invert: true},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
}
