package iptables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// rule is what matters of a rule.
type rule struct {
	at      chain
	to      string // the chain that it leads to; "" none
	packets uint64
}

// visitor is told what there is in tables.
type visitor struct {
	chain func(chain)
	rule  func(rule)
}

// line tells what a line of iptables-save -c says.
func (v visitor) line(table, line string) {
	if strings.HasPrefix(line, ":") {
		name, _, _ := strings.Cut(line[1:], " ")
		v.chain(chain{table, name})
		return
	}
	counters, text, ok := strings.Cut(line, "] -A ")
	if !ok {
		return
	}
	name, text, _ := strings.Cut(text, " ")
	r := ruleAs(chain{table, name}, text)
	if _, err := fmt.Sscanf(counters, "[%d:", &r.packets); err == nil {
		v.rule(r)
	}
}

// ruleAs is a rule of ours as it is written.
func ruleAs(at chain, text string) rule {
	_, to, _ := strings.Cut(" "+text, " -j ")
	if to, _, _ = strings.Cut(to, " "); !strings.HasPrefix(to, "KUBE-") {
		to = ""
	}
	return rule{at: at, to: to}
}

// typeMask leaves an attribute's kind without its flags.
const typeMask = 0x3fff

// dump tells v what there is in a table of the flavour nft, from the kernel itself: iptables-nft-save asks for the rules of each chain anew, which takes it 40 seconds for 10,000 services. What a
// change has interrupted is told by nl.ErrDumpInterrupted: it may lack something or have it twice.
func dump(v4 bool, table string, v visitor) error {
	family := uint8(unix.NFPROTO_IPV6)
	if v4 {
		family = unix.NFPROTO_IPV4
	}
	err := ask(unix.NFT_MSG_GETCHAIN, family, table, func(attrs attributes) {
		if attrs.text(unix.NFTA_CHAIN_TABLE) == table { // the kernel tells those of all tables
			v.chain(chain{table, attrs.text(unix.NFTA_CHAIN_NAME)})
		}
	})
	if err == nil {
		err = ask(unix.NFT_MSG_GETRULE, family, table, func(attrs attributes) { v.rule(ruleOf(attrs)) })
	}
	if err != nil {
		return fmt.Errorf("read nftables table %s: %w", table, err)
	}
	return nil
}

// ask tells fn the attributes of each chain or rule of a table; where there is no such table, of none.
func ask(what int, family uint8, table string, fn func(attributes)) error {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|what, unix.NLM_F_DUMP)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	req.AddData(nl.NewRtAttr(unix.NFTA_RULE_TABLE, nl.ZeroTerminated(table)))
	err := req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(msg []byte) bool {
		if len(msg) > nl.SizeofNfgenmsg {
			fn(attributes(msg[nl.SizeofNfgenmsg:]))
		}
		return true
	})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func ruleOf(attrs attributes) rule {
	r := rule{at: chain{attrs.text(unix.NFTA_RULE_TABLE), attrs.text(unix.NFTA_RULE_CHAIN)}}
	attrs.of(unix.NFTA_RULE_EXPRESSIONS).each(func(kind uint16, expr attributes) {
		if kind != unix.NFTA_LIST_ELEM {
			return
		}
		data := expr.of(unix.NFTA_EXPR_DATA)
		switch expr.text(unix.NFTA_EXPR_NAME) {
		case "counter":
			if n := data.of(unix.NFTA_COUNTER_PACKETS); len(n) == 8 {
				r.packets = binary.BigEndian.Uint64(n)
			}
		case "immediate":
			if to := data.of(unix.NFTA_IMMEDIATE_DATA).of(unix.NFTA_DATA_VERDICT).text(unix.NFTA_VERDICT_CHAIN); to != "" {
				r.to = to
			}
		}
	})
	return r
}

// attributes are those of a netlink message, one after another. What is cut off ends them.
type attributes []byte

func (a attributes) each(fn func(kind uint16, value attributes)) {
	for len(a) >= unix.SizeofNlAttr {
		n := int(binary.NativeEndian.Uint16(a))
		if n < unix.SizeofNlAttr || n > len(a) {
			return
		}
		fn(binary.NativeEndian.Uint16(a[2:])&typeMask, a[unix.SizeofNlAttr:n])
		a = a[min(len(a), (n+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
	}
}

// of is the first of a kind; nil if there is none.
func (a attributes) of(kind uint16) (out attributes) {
	a.each(func(k uint16, v attributes) {
		if k == kind && out == nil {
			out = v
		}
	})
	return out
}

func (a attributes) text(kind uint16) string { return unix.ByteSliceToString(a.of(kind)) }
