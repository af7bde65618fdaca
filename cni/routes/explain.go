package routes

import (
	"net/netip"
	"slices"
)

// Line is what Explain says of one destination. An empty Wanted or There is none.
type Line struct {
	Dst           netip.Prefix // not valid for a node that has none yet
	Node          string
	How           How
	Wanted, There string
	Why           string
}

// Explain lists every destination that is wanted or there, and what follows from the two; then what else is in the kernel and should not be, or not so.
func Explain(view View, o Overlay, paths map[netip.Addr]Path, actual State) ([]Line, []Action) {
	desired, decisions := Decide(view, o, paths, actual)
	todo := map[string]Action{}
	var rest []Action
	for _, a := range Plan(desired, actual) {
		if r, ok := a.Item.(Route); ok && !r.Inner {
			todo[r.key()] = a
		} else {
			rest = append(rest, a)
		}
	}
	var out []Line
	for _, d := range decisions {
		if len(d.Peer.Pods) == 0 {
			out = append(out, Line{Node: d.Peer.Name, How: ByNobody, Why: "it has no pods' range yet"})
		}
		for _, pods := range d.Peer.Pods {
			key := Route{Dst: pods}.key()
			l := Line{Dst: pods, Node: d.Peer.Name, How: d.How, Wanted: way(desired[key]), There: way(actual[key]), Why: d.Why}
			if a, ok := todo[key]; ok {
				l.Why += "; " + a.String()
			}
			out = append(out, l)
		}
	}
	for key, i := range actual {
		if r, ok := i.(Route); ok && !r.Inner && !slices.ContainsFunc(out, func(l Line) bool { return l.Dst == r.Dst }) {
			out = append(out, Line{Dst: r.Dst, How: ByNobody, There: r.way(), Why: todo[key].String()})
		}
	}
	slices.SortFunc(out, func(a, b Line) int { return a.Dst.Compare(b.Dst) })
	return out, rest
}

func way(i Item) string {
	if r, ok := i.(Route); ok {
		return r.way()
	}
	return ""
}
