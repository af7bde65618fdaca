package routes

import (
	"net/netip"
	"slices"
)

// Line is what Explain says of one destination. A Wanted or There that is not valid is none.
type Line struct {
	Dst           netip.Prefix
	Wanted, There netip.Addr
	Why           string
}

// Explain lists every destination of either table, and what follows from the two.
func Explain(desired, actual Table) []Line {
	todo := map[netip.Prefix]Action{}
	for _, a := range Plan(desired, actual) {
		todo[a.Dst] = a
	}
	var out []Line
	for _, table := range []Table{desired, actual} {
		for dst := range table {
			if slices.ContainsFunc(out, func(l Line) bool { return l.Dst == dst }) {
				continue
			}
			l := Line{Dst: dst, Wanted: desired[dst], There: actual[dst], Why: "as wanted"}
			if a, ok := todo[dst]; ok {
				l.Why = a.String()
			}
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b Line) int { return a.Dst.Compare(b.Dst) })
	return out
}
