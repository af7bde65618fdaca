package iptables

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// mangle holds no chains of ours; a kube-proxy's canary is there.
const mangle = "mangle"

// Held tells whether chains of ours are in the network namespace of the calling thread. It runs no program where there are none.
func Held(root string) (bool, error) {
	list, err := held(root)
	return len(list) > 0, err
}

// place is where chains of ours are.
type place struct {
	tool tool
	v4   bool
}

func held(root string) (list []place, err error) {
	var tools []tool
	for _, flavour := range []Flavour{NFT, Legacy} {
		for _, v4 := range []bool{true, false} {
			if flavour == NFT && !signed(v4) || flavour == Legacy && !legacyTable(v4, nat) && !legacyTable(v4, filter) {
				continue
			}
			if tools == nil {
				if tools, err = find(root); err != nil {
					if flavour == Legacy {
						return list, nil // somebody else's tables: ours were made by programs that are not there
					}
					return nil, err
				}
			}
			i := slices.IndexFunc(tools, func(t tool) bool { return t.flavour == flavour })
			if i < 0 {
				continue
			}
			p, err := tools[i].present(v4)
			if err != nil {
				return list, err
			}
			if p.ours() {
				list = append(list, place{tools[i], v4})
			}
		}
	}
	return list, nil
}

// signed tells whether the nft flavour holds our sign. The kernel may have no nftables at all.
func signed(v4 bool) bool {
	family := nftables.TableFamilyIPv4
	if !v4 {
		family = nftables.TableFamilyIPv6
	}
	conn, err := nftables.New()
	if err != nil {
		return false
	}
	for _, table := range []string{nat, filter} {
		if c, err := conn.ListChain(&nftables.Table{Name: table, Family: family}, owner); err == nil && c != nil {
			return true
		}
	}
	return false
}

// ours tells whether the chains have our sign.
func (p present) ours() bool { return p.chains[chain{nat, owner}] || p.chains[chain{filter, owner}] }

// Remove deletes the chains that are ours, of both flavours, and the rules that lead to them. Where there are none it does nothing.
func Remove(root string) error {
	list, err := held(root)
	errs := []error{err}
	for _, at := range list {
		errs = append(errs, at.tool.remove(at.v4, func(c chain) bool { return owned(c) }))
	}
	return errors.Join(errs...)
}

// RemoveKubeProxy deletes a kube-proxy's chains, those of its mode ipvs too, of both flavours, and the rules that lead to them, and says what it
// deleted. Chains that are ours, and a kubelet's, stay.
func RemoveKubeProxy(root string, say func(string)) error {
	tools, err := find(root)
	if err != nil {
		say(err.Error())
		return nil // nobody can have made any
	}
	var errs []error
	for _, t := range tools {
		for _, v4 := range []bool{true, false} {
			p, err := t.present(v4)
			if err != nil || p.ours() {
				continue // what cannot be read holds nothing: the kernel has no such tables
			}
			n := 0
			err = t.remove(v4, func(c chain) bool {
				if kubeProxys(c) {
					n++
					return true
				}
				return false
			})
			if n > 0 && err == nil {
				say(fmt.Sprintf("remove %d chains of kube-proxy by %s", n, t.program(v4, "restore")))
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// kubeProxys are the chains that a kube-proxy makes, in any of its modes and of late versions. KUBE-FIREWALL, KUBE-MARK-DROP and the other canary are
// a kubelet's.
func kubeProxys(c chain) bool {
	switch c.name {
	case "KUBE-FIREWALL", "KUBE-MARK-DROP", "KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT":
		return false
	}
	return strings.HasPrefix(c.name, "KUBE-")
}

// remove deletes the chains that are meant, and the rules in others' that lead to them.
func (t tool) remove(v4 bool, meant func(chain) bool) error {
	var input strings.Builder
	for _, table := range []string{mangle, nat, filter} {
		if t.flavour == Legacy && !legacyTable(v4, table) {
			continue
		}
		text, err := t.save(v4, table)
		if err != nil {
			return err
		}
		input.WriteString(removal(table, text, meant))
	}
	if input.Len() == 0 {
		return nil
	}
	if err := t.restore(v4, input.String()); err != nil {
		return fmt.Errorf("remove chains: %w", err)
	}
	if t.flavour == NFT {
		return dropEmpty(v4)
	}
	return nil
}

// dropEmpty deletes the tables that programs of the nft flavour make when they are asked for a rule, and leave when the last one goes: their hooks cost
// every connection. They are made again when they are needed.
func dropEmpty(v4 bool) error {
	family := nftables.TableFamilyIPv4
	if !v4 {
		family = nftables.TableFamilyIPv6
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	tables, err := conn.ListTablesOfFamily(family)
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	chains, err := conn.ListChainsOfTableFamily(family)
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	for _, table := range tables {
		if !slices.Contains([]string{mangle, nat, filter}, table.Name) || !empty(conn, table, chains) {
			continue
		}
		conn.DelTable(table)
		if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete empty table %s: %w", table.Name, err)
		}
	}
	return nil
}

// empty tells whether a table has nothing but the kernel's chains, which let everything pass.
func empty(conn *nftables.Conn, table *nftables.Table, chains []*nftables.Chain) bool {
	for _, c := range chains {
		if c.Table.Name != table.Name {
			continue
		}
		rules, err := conn.GetRules(table, c)
		if err != nil || len(rules) > 0 || c.Hooknum == nil || c.Policy != nil && *c.Policy != nftables.ChainPolicyAccept {
			return false
		}
	}
	return true
}

// removal is the input of iptables-restore that deletes chains, as a table was saved, and the rules in others' that lead to them.
func removal(table, saved string, meant func(chain) bool) string {
	var declare, rules, drop strings.Builder
	for line := range strings.Lines(saved) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if name, ok := strings.CutPrefix(fields[0], ":"); ok && meant(chain{table, name}) {
			fmt.Fprintf(&declare, ":%s - [0:0]\n", name)
			fmt.Fprintf(&drop, "-X %s\n", name)
		}
		i := slices.Index(fields, "-j")
		if fields[0] == "-A" && i > 1 && i+1 < len(fields) && meant(chain{table, fields[i+1]}) && !meant(chain{table, fields[1]}) {
			rules.WriteString("-D" + strings.TrimPrefix(line, "-A"))
		}
	}
	if declare.Len() == 0 {
		return ""
	}
	return "*" + table + "\n" + declare.String() + rules.String() + drop.String() + "COMMIT\n"
}
