package nft

import (
	"fmt"
	"os"

	"github.com/google/nftables"
)

// Probe tries whether the kernel takes the rules, in one transaction that also takes them away again.
func Probe() error {
	for _, f := range []family{ipv4, ipv6} {
		if f == ipv6 && !hasIPv6() {
			continue
		}
		conn, err := nftables.New()
		if err != nil {
			return fmt.Errorf("open netfilter socket: %w", err)
		}
		tab := &nftables.Table{Name: Table + "-probe", Family: f.table}
		w := writer{conn, tab, f, true}
		w.table()
		w.chooser(chooser{inside, 1})
		conn.DelTable(tab)
		if err := conn.Flush(); err != nil {
			return fmt.Errorf("make nftables rules of family %d (has the kernel nf_tables and nft_nat, nft_masq, nft_reject, nft_numgen?): %w", f.table, err)
		}
	}
	return nil
}

func hasIPv6() bool {
	_, err := os.Stat("/proc/thread-self/net/if_inet6")
	return err == nil
}
