package nat

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/orlop-io/orlop/bpf/netnstest"
)

// Ports that nobody touches are there all the time, while another process publishes and withdraws others: a list of all lacked one a few times a second.
func TestKernelPortsAreThereBesideOthersThatChange(t *testing.T) {
	node := netnstest.New(t)
	within := func(f func(*Table) error) {
		t.Helper()
		if err := node.Do(func() error { return f(New("test")) }); err != nil {
			t.Error(err)
		}
	}
	port := func(n int) HostPort {
		p := HostPort{Protocol: TCP, Port: uint16(n), Pod: netip.MustParseAddrPort("10.1.0.2:80")}
		switch n { // of the other maps
		case 1001:
			p.HostIP = netip.MustParseAddr("192.0.2.1")
		case 1002:
			p.Protocol, p.Pod = UDP, netip.MustParseAddrPort("[fd00::2]:80")
		}
		return p
	}
	ports := func(from, n int) (out []HostPort) {
		for i := range n {
			out = append(out, port(from+i))
		}
		return out
	}
	steady := ports(1000, 60)
	within(func(table *Table) error {
		if there, err := table.There(steady); err != nil || len(there) > 0 { // no table yet
			return fmt.Errorf("there are %v, %w", there, err)
		}
		cfg := Config{Bridge: "br0", Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd00::/64")}}
		for _, want := range []bool{true, false} {
			if made, err := table.Ensure(cfg); err != nil || made != want {
				return fmt.Errorf("made %t, %w", made, err)
			}
		}
		return table.Publish(steady)
	})
	end := time.Now().Add(2 * time.Second)
	var others sync.WaitGroup
	for i := range 2 {
		passing := ports(3000+20*i, 20)
		others.Go(func() {
			within(func(table *Table) error {
				for time.Now().Before(end) {
					if err := errors.Join(table.Publish(passing), table.Withdraw(passing)); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	within(func(table *Table) error {
		for time.Now().Before(end) {
			there, err := table.There(steady)
			if err != nil || len(there) != len(steady) {
				return fmt.Errorf("%d of %d are there, %w", len(there), len(steady), err)
			}
		}
		return nil
	})
	others.Wait()
	within(func(table *Table) error {
		elsewhere := steady[0]
		elsewhere.Pod = netip.MustParseAddrPort("10.1.0.3:80")
		if err := table.Withdraw(append(steady[:30:30], elsewhere)); err != nil {
			return err
		}
		there, err := table.There(append(steady, ports(3000, 40)...))
		if err != nil || len(there) != 30 || there[0] != steady[30] {
			return fmt.Errorf("after the first half was withdrawn there are %v, %w", there, err)
		}
		return nil
	})
}
