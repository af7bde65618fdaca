package proxy

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// compact is a Slice as a Proxy keeps it: endpoints are most of what it has, and are bytes here, which take a tenth of the memory and are not followed by the
// collection of garbage.
type compact struct {
	service   string
	ports     []SlicePort
	triggered time.Time
	ends      []byte
}

// Bits of an endpoint in compact.ends.
const (
	bitReady = 1 << iota
	bitServing
	bitTerminating
	bitLocal
	bitHints
)

func compactOf(s Slice) compact {
	var b []byte
	list := func(names []string) {
		b = binary.AppendUvarint(b, uint64(len(names)))
		for _, n := range names {
			b = append(binary.AppendUvarint(b, uint64(len(n))), n...)
		}
	}
	for _, e := range s.Endpoints {
		var bits byte
		for _, f := range []struct {
			is  bool
			bit byte
		}{{e.Ready, bitReady}, {e.Serving, bitServing}, {e.Terminating, bitTerminating}, {e.Local, bitLocal}, {len(e.ForNodes)+len(e.ForZones) > 0, bitHints}} {
			if f.is {
				bits |= f.bit
			}
		}
		b = append(b, bits, byte(len(e.Addrs))) // the API takes 100 at most
		for _, a := range e.Addrs {
			b = append(b, byte(a.BitLen()/8))
			b = append(b, a.AsSlice()...)
		}
		if bits&bitHints != 0 {
			list(e.ForNodes)
			list(e.ForZones)
		}
	}
	return compact{s.Service, s.Ports, s.Triggered, append(make([]byte, 0, len(b)), b...)}
}

// slice is what compactOf was given.
func (c compact) slice() Slice {
	out, b := Slice{Service: c.service, Ports: c.ports, Triggered: c.triggered}, c.ends
	take := func(n int) []byte {
		part := b[:n]
		b = b[n:]
		return part
	}
	number := func() int {
		n, size := binary.Uvarint(b)
		take(size)
		return int(n)
	}
	list := func() (names []string) {
		for range number() {
			names = append(names, string(take(number())))
		}
		return names
	}
	for len(b) > 0 {
		head := take(2)
		bits, count := head[0], int(head[1])
		e := Endpoint{Ready: bits&bitReady != 0, Serving: bits&bitServing != 0, Terminating: bits&bitTerminating != 0, Local: bits&bitLocal != 0}
		for range count {
			a, _ := netip.AddrFromSlice(take(int(take(1)[0]))) // it is one
			e.Addrs = append(e.Addrs, a)
		}
		if bits&bitHints != 0 {
			e.ForNodes, e.ForZones = list(), list()
		}
		out.Endpoints = append(out.Endpoints, e)
	}
	return out
}
