package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/vishvananda/netlink"
)

// followAddrs pokes when addresses of the node come or go, until ctx ends; then it returns its error. Several at once are one poke or few.
func followAddrs(ctx context.Context, poke func(), log *slog.Logger) error {
	for told := false; ; {
		addrs, done := make(chan netlink.AddrUpdate, 100), make(chan struct{})
		err := netlink.AddrSubscribe(addrs, done)
		if err != nil && !told {
			log.Warn("follow the node's addresses", "err", err)
			told = true
		}
		if err == nil {
			poke() // what came before is not told
		}
		for more := err == nil; more; {
			select {
			case <-ctx.Done():
				close(done)
				return ctx.Err()
			case _, more = <-addrs:
				if more {
					poke()
				}
			}
		}
		close(done)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}
