package iptables

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// present is what of ours there is in the tables.
type present struct {
	chains map[chain]bool
	rules  map[chain]int // how many they have
	jumps  map[jump]bool // with no packets named
	counts map[string]uint64
}

func nothing() present {
	return present{map[chain]bool{}, map[chain]int{}, map[jump]bool{}, map[string]uint64{}}
}

// sees notes what it is told of: the chains of our names, the rules that lead to them, and what theirs have counted.
func (p present) sees() visitor {
	return visitor{
		chain: func(c chain) {
			if owned(c) {
				p.chains[c] = true
			}
		},
		rule: func(r rule) {
			switch {
			case owned(r.at):
				p.rules[r.at]++
				if r.counts() {
					p.counts[r.at.name] += r.packets
				}
			case r.to != "" && owned(chain{r.at.table, r.to}):
				p.jumps[jump{r.at.table, r.at.name, r.to, ""}] = true
			}
		},
	}
}

// foreign tells whether another proxy's chains are there.
func (p present) foreign() bool {
	return p.chains[chain{nat, services}] && !p.chains[chain{nat, owner}]
}

// change is the input of iptables-restore --noflush that makes a table's chains go from have to want: only what differs. It is "" when nothing does.
// Chains of gone are deleted, and jumps of lost are put at the front.
func change(table string, have, want layout, gone map[chain]bool, lost []jump) string {
	var declare, rules, drop strings.Builder
	for _, c := range slices.SortedFunc(maps.Keys(want), compareChains) {
		old, there := have[c]
		if c.table != table || there && slices.Equal(old, want[c]) {
			continue
		}
		fmt.Fprintf(&declare, ":%s - [0:0]\n", c.name) // empties it, too
		for _, r := range want[c] {
			fmt.Fprintf(&rules, "-A %s %s\n", c.name, r)
		}
	}
	for _, c := range slices.SortedFunc(maps.Keys(gone), compareChains) {
		if _, wanted := want[c]; c.table == table && !wanted {
			fmt.Fprintf(&declare, ":%s - [0:0]\n", c.name)
			fmt.Fprintf(&drop, "-X %s\n", c.name)
		}
	}
	for _, j := range lost {
		if j.table == table {
			fmt.Fprintf(&rules, "-I %s 1 %s\n", j.from, j.rule())
		}
	}
	if declare.Len() == 0 && rules.Len() == 0 {
		return ""
	}
	return "*" + table + "\n" + declare.String() + rules.String() + drop.String() + "COMMIT\n"
}

func compareChains(a, b chain) int {
	return strings.Compare(a.table+" "+a.name, b.table+" "+b.name)
}
