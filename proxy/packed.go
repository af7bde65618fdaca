package proxy

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// PackedService is a Service, and PackedSlice a Slice, as they are kept: a cluster has so many that nothing else of a Proxy counts. As bytes they take a tenth of the
// memory, are not followed by the collection of garbage, and are shared with whoever else keeps them. Equal ones say the same. "" is none.
type (
	PackedService string
	PackedSlice   string
)

// Bits of a packed Service.
const (
	bitInternalLocal = 1 << iota
	bitExternalLocal
)

// Bits of a packed endpoint.
const (
	bitReady = 1 << iota
	bitServing
	bitTerminating
	bitLocal
	bitHints
)

// Pack returns what Unpack makes s of again.
func (s Service) Pack() PackedService {
	b := appendText(nil, s.Key)
	b = append(b, bits(s.InternalLocal, bitInternalLocal)|bits(s.ExternalLocal, bitExternalLocal))
	for _, list := range [][]netip.Addr{s.ClusterIPs, s.LoadBalancerIPs, s.ExternalIPs} {
		b = binary.AppendUvarint(b, uint64(len(list)))
		for _, a := range list {
			b = appendAddr(b, a)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(s.SourceRanges)))
	for _, p := range s.SourceRanges {
		b = append(appendAddr(b, p.Addr()), byte(p.Bits()))
	}
	b = binary.AppendUvarint(b, uint64(len(s.Ports)))
	for _, p := range s.Ports {
		b = append(appendText(b, p.Name), byte(p.Protocol))
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(p.Port)), uint64(p.NodePort))
	}
	b = binary.AppendUvarint(b, uint64(s.Affinity))
	return PackedService(binary.AppendUvarint(b, uint64(s.HealthCheckPort)))
}

// Unpack returns what was packed; ok is false where it is none or not whole.
func (p PackedService) Unpack() (s Service, ok bool) {
	r := reader{left: string(p)}
	s.Key = r.text()
	is := r.byte()
	s.InternalLocal, s.ExternalLocal = is&bitInternalLocal != 0, is&bitExternalLocal != 0
	for _, list := range []*[]netip.Addr{&s.ClusterIPs, &s.LoadBalancerIPs, &s.ExternalIPs} {
		*list = listOf(&r, r.addr)
	}
	s.SourceRanges = listOf(&r, func() netip.Prefix { return netip.PrefixFrom(r.addr(), int(r.byte())) })
	s.Ports = listOf(&r, func() Port {
		return Port{Name: r.text(), Protocol: Protocol(r.byte()), Port: uint16(r.number()), NodePort: uint16(r.number())}
	})
	s.Affinity, s.HealthCheckPort = time.Duration(r.number()), uint16(r.number())
	return s, r.whole()
}

// Pack returns what Unpack makes s of again.
func (s Slice) Pack() PackedSlice {
	b := appendText(nil, s.Service)
	var at int64
	if !s.Triggered.IsZero() {
		at = s.Triggered.UnixNano()
	}
	b = binary.AppendVarint(b, at)
	b = binary.AppendUvarint(b, uint64(len(s.Ports)))
	for _, p := range s.Ports {
		b = binary.AppendUvarint(append(appendText(b, p.Name), byte(p.Protocol)), uint64(p.Port))
	}
	b = binary.AppendUvarint(b, uint64(len(s.Endpoints)))
	for _, e := range s.Endpoints {
		b = append(b, bits(e.Ready, bitReady)|bits(e.Serving, bitServing)|bits(e.Terminating, bitTerminating)|bits(e.Local, bitLocal)|bits(len(e.ForNodes)+len(e.ForZones) > 0, bitHints))
		b = binary.AppendUvarint(b, uint64(len(e.Addrs)))
		for _, a := range e.Addrs {
			b = appendAddr(b, a)
		}
		if len(e.ForNodes)+len(e.ForZones) == 0 {
			continue
		}
		for _, names := range [][]string{e.ForNodes, e.ForZones} {
			b = binary.AppendUvarint(b, uint64(len(names)))
			for _, n := range names {
				b = appendText(b, n)
			}
		}
	}
	return PackedSlice(b)
}

// Unpack returns what was packed; ok is false where it is none or not whole.
func (p PackedSlice) Unpack() (s Slice, ok bool) {
	r := reader{left: string(p)}
	s.Service, s.Triggered = r.text(), r.time()
	s.Ports = listOf(&r, r.port)
	s.Endpoints = listOf(&r, func() Endpoint {
		is := r.byte()
		e := Endpoint{Ready: is&bitReady != 0, Serving: is&bitServing != 0, Terminating: is&bitTerminating != 0, Local: is&bitLocal != 0}
		e.Addrs = listOf(&r, r.addr)
		if is&bitHints != 0 {
			e.ForNodes, e.ForZones = listOf(&r, r.text), listOf(&r, r.text)
		}
		return e
	})
	return s, r.whole()
}

// Service is the key of the Service that a slice belongs to.
func (p PackedSlice) Service() string {
	key, _ := p.service()
	return key
}

// service is the Service that a slice belongs to, and when what it tells had happened.
func (p PackedSlice) service() (key string, triggered time.Time) {
	r := reader{left: string(p)}
	return r.text(), r.time()
}

// endpoints is how many addresses with ports it has, about.
func (p PackedSlice) endpoints() int {
	r := reader{left: string(p)}
	r.text()
	r.time()
	ports := len(listOf(&r, r.port))
	return ports * int(r.number())
}

func bits(is bool, bit byte) byte {
	if is {
		return bit
	}
	return 0
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendAddr(b []byte, a netip.Addr) []byte {
	return append(append(b, byte(a.BitLen()/8)), a.AsSlice()...)
}

// reader takes one after the other from bytes that may end too early.
type reader struct {
	left string
	torn bool
}

func (r *reader) whole() bool { return !r.torn && r.left == "" }

func (r *reader) take(n uint64) string {
	if n > uint64(len(r.left)) {
		r.torn, r.left = true, ""
		return ""
	}
	part := r.left[:n]
	r.left = r.left[n:]
	return part
}

func (r *reader) byte() byte {
	b := r.take(1)
	if b == "" {
		return 0
	}
	return b[0]
}

func (r *reader) number() (n uint64) {
	for shift := 0; shift < 64; shift += 7 {
		b := r.byte()
		n |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return n
		}
	}
	r.torn = true
	return 0
}

func (r *reader) time() time.Time {
	n := r.number()
	at := int64(n>>1) ^ -int64(n&1) // as binary.AppendVarint has it
	if at == 0 {
		return time.Time{}
	}
	return time.Unix(0, at)
}

func (r *reader) port() SlicePort {
	return SlicePort{Name: r.text(), Protocol: Protocol(r.byte()), Port: uint16(r.number())}
}

func (r *reader) text() string { return r.take(r.number()) }

func (r *reader) addr() netip.Addr {
	b := r.take(uint64(r.byte()))
	a, ok := netip.AddrFromSlice([]byte(b))
	if !ok {
		r.torn = true
	}
	return a
}

func listOf[T any](r *reader, one func() T) []T {
	n := r.number()
	if n == 0 || n > uint64(len(r.left)) { // each takes a byte at least
		r.torn = r.torn || n != 0
		return nil
	}
	out := make([]T, 0, n)
	for range n {
		out = append(out, one())
	}
	return out
}
