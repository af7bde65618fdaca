package iptables

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

const probeChain = "KUBE-ORLOP-PROBE"

// ErrForeign says that a kube-proxy's chains are there, under the names that ours have.
var ErrForeign = errors.New("the chains KUBE-SERVICES of a kube-proxy are there: end it, then remove its rules with orlop-agent --remove-kube-proxy-rules")

// need is a rule that layouts have one of the kind of.
type need struct{ table, what, rule string }

func needs(v4 bool) []need {
	to := "10.0.0.1:80"
	if !v4 {
		to = "[fd00::1]:80"
	}
	return []need{
		{nat, "match comment", "-m comment --comment probe"},
		{nat, "match statistic", "-m statistic --mode random --probability 0.5"},
		{nat, "match recent", "-m recent --name " + probeChain + " --rcheck --seconds 1 --reap"},
		{nat, "match mark", "-m mark --mark 0x4000/0x4000"},
		{nat, "match addrtype", "-m addrtype --src-type LOCAL"},
		{nat, "target MARK", "-j MARK --or-mark 0x4000"},
		{nat, "target DNAT", "-p tcp -j DNAT --to-destination " + to},
		{nat, "target MASQUERADE", "-j MASQUERADE"},
		{filter, "match conntrack", "-m conntrack --ctstate NEW"},
		{filter, "target REJECT", "-p tcp -j REJECT --reject-with tcp-reset"},
	}
}

// with is the input that makes a chain with rules and takes it away again. Hooks decide where some targets are allowed, and it hangs on none; so it
// is asked for from where the layout has it.
func with(list ...need) string {
	var out strings.Builder
	for _, table := range []string{nat, filter} {
		var rules strings.Builder
		for _, n := range list {
			if n.table == table {
				fmt.Fprintf(&rules, "-A %s %s\n", probeChain, n.rule)
			}
		}
		if rules.Len() > 0 {
			fmt.Fprintf(&out, "*%s\n:%s - [0:0]\n%sCOMMIT\n", table, probeChain, rules.String())
		}
	}
	return out.String()
}

const withoutProbe = "*nat\n:" + probeChain + " - [0:0]\n-X " + probeChain + "\nCOMMIT\n*filter\n:" + probeChain + " - [0:0]\n-X " + probeChain + "\nCOMMIT\n"

// probe makes rules of every kind that the layout has, and takes them away. The error names the kinds that the kernel or the programs cannot make.
func (t tool) probe(v4 bool) error {
	list := needs(v4)
	err := t.restore(v4, with(list...))
	if err == nil {
		return t.restore(v4, withoutProbe)
	}
	var errs []error
	for _, n := range list {
		if err := t.restore(v4, with(n)); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", n.what, err))
		}
	}
	_ = t.restore(v4, withoutProbe) // what there is no table for has left nothing
	if len(errs) == 0 {
		return fmt.Errorf("probe rules together: %w", err)
	}
	return errors.Join(errs...)
}

// masquerade is the rule for it, with ports by chance where the programs and the kernel can.
func (t tool) masquerade(v4 bool) string {
	const rule = "-j MASQUERADE --random-fully"
	err := t.restore(v4, with(need{nat, "", rule}))
	if err == nil && t.restore(v4, withoutProbe) == nil {
		return rule
	}
	return "-j MASQUERADE"
}

func hasIPv6() bool {
	_, err := os.Stat("/proc/thread-self/net/if_inet6")
	return err == nil
}
