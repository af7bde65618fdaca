package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/orlop-io/orlop/bpf/netnstest"
)

func TestKernelAddressesAreFollowed(t *testing.T) {
	ns := netnstest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	poked, ended := make(chan struct{}, 100), make(chan error, 1)
	go func() {
		ended <- ns.Do(func() error {
			return followAddrs(ctx, func() { poked <- struct{}{} }, slog.New(slog.DiscardHandler))
		})
	}()
	wait := func(what string) {
		t.Helper()
		select {
		case <-poked:
		case <-time.After(5 * time.Second):
			t.Fatalf("not told of %s", what)
		}
	}
	wait("the start")
	lo := ns.Link("lo")
	a := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 7), Mask: net.CIDRMask(32, 32)}}
	ns.Must(ns.NL.AddrAdd(lo, a))
	wait("an address that comes")
	ns.Must(ns.NL.AddrDel(lo, a))
	wait("an address that goes")
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
