package packetlb

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
)

// pkt is a packet as text would say it. Its bytes have right checksums, unless noUDPSum.
type pkt struct {
	src, dst netip.AddrPort
	proto    uint8 // TCP or UDP; of an ICMP error that of its quote
	flags    byte  // of TCP
	data     string
	options  int  // bytes of IPv4 options
	noUDPSum bool // IPv4 only
	// A fragment: all data from at on; more follow.
	id   uint16
	at   int
	more bool
	frag bool
}

const (
	tcp, udp = 6, 17
	syn      = 2
	ack      = 16
	fin      = 1
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func sum(b []byte, s uint32) uint32 {
	for i := 0; i < len(b); i += 2 {
		w := uint32(b[i]) << 8
		if i+1 < len(b) {
			w |= uint32(b[i+1])
		}
		s += w
	}
	return s
}

func folded(s uint32) uint16 {
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

func pseudo(src, dst netip.Addr, proto uint8, n int) uint32 {
	return sum(src.AsSlice(), sum(dst.AsSlice(), uint32(proto)+uint32(n)))
}

// l4 is the whole of transport header and data.
func (p pkt) l4() []byte {
	var b []byte
	check := 16
	if p.proto == udp {
		b, check = make([]byte, 8), 6
		binary.BigEndian.PutUint16(b[4:], uint16(8+len(p.data)))
	} else {
		b = make([]byte, 20)
		b[4], b[12], b[13] = 1, 0x50, p.flags
	}
	binary.BigEndian.PutUint16(b, p.src.Port())
	binary.BigEndian.PutUint16(b[2:], p.dst.Port())
	b = append(b, p.data...)
	if p.proto == udp && p.noUDPSum {
		return b
	}
	c := folded(sum(b, pseudo(p.src.Addr(), p.dst.Addr(), p.proto, len(b))))
	if p.proto == udp && c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(b[check:], c)
	return b
}

// ip is the packet from its network header on.
func (p pkt) ip() []byte {
	body := p.l4()
	if p.frag {
		end := len(body)
		if p.more {
			end = p.at + 16
		}
		body = body[p.at:end]
	}
	return ip(p.src.Addr(), p.dst.Addr(), p.proto, body, p)
}

func ip(src, dst netip.Addr, proto uint8, body []byte, p pkt) []byte {
	if !src.Is4() {
		h := make([]byte, 40)
		h[0], h[6], h[7] = 0x60, proto, 64
		if p.frag {
			fh := make([]byte, 8)
			fh[0] = proto
			off := uint16(p.at)
			if p.more {
				off |= 1
			}
			binary.BigEndian.PutUint16(fh[2:], off)
			binary.BigEndian.PutUint32(fh[4:], uint32(p.id))
			h[6], body = 44, append(fh, body...)
		}
		binary.BigEndian.PutUint16(h[4:], uint16(len(body)))
		copy(h[8:], src.AsSlice())
		copy(h[24:], dst.AsSlice())
		return append(h, body...)
	}
	h := make([]byte, 20+p.options)
	h[0], h[8], h[9] = 0x40|byte(len(h)/4), 64, proto
	for i := range p.options {
		h[20+i] = 1
	}
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(body)))
	binary.BigEndian.PutUint16(h[4:], p.id)
	off := uint16(p.at / 8)
	if p.more {
		off |= 0x2000
	}
	binary.BigEndian.PutUint16(h[6:], off)
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], folded(sum(h, 0)))
	return append(h, body...)
}

// frame puts an Ethernet header before a packet.
func frame(ip []byte) []byte {
	h := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0}
	if ip[0]>>4 == 6 {
		h[12], h[13] = 0x86, 0xdd
	}
	return append(h, ip...)
}

// icmpError is an error of from to the sender of quote, about it. Its quote is cut to n bytes where n is not 0.
func icmpError(from netip.Addr, quote pkt, typ, code byte, n int) []byte {
	to := quote.src.Addr()
	q := quote.ip()
	if n > 0 {
		q = q[:n]
	}
	b := append([]byte{typ, code, 0, 0, 0, 0, 5, 0}, q...) // an MTU of 1280
	if from.Is4() {
		binary.BigEndian.PutUint16(b[2:], folded(sum(b, 0)))
		return frame(ip(from, to, 1, b, pkt{}))
	}
	binary.BigEndian.PutUint16(b[2:], folded(sum(b, pseudo(from, to, 58, len(b)))))
	return frame(ip(from, to, 58, b, pkt{}))
}

// show reads a frame and checks all its checksums.
func show(t testing.TB, f []byte) string {
	t.Helper()
	return showIP(t, f[14:], true)
}

func showIP(t testing.TB, b []byte, whole bool) string {
	t.Helper()
	var src, dst netip.Addr
	var proto byte
	var body []byte
	fragment := ""
	if b[0]>>4 == 4 {
		n := int(b[0]&15) * 4
		if folded(sum(b[:n], 0)) != 0 {
			t.Errorf("checksum of an IP header is wrong: %x", b[:n])
		}
		src, dst, proto, body = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:])), b[9], b[n:]
		if off := binary.BigEndian.Uint16(b[6:]); off&0x3fff != 0 {
			fragment = fmt.Sprintf(" +%d", off&0x1fff*8)
		}
	} else {
		src, dst, proto, body = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:])), b[6], b[40:]
		if proto == 44 {
			fragment = fmt.Sprintf(" +%d", binary.BigEndian.Uint16(body[2:])&0xfff8)
			proto, body = body[0], body[8:]
		}
	}
	if fragment != "" && fragment != " +0" {
		return fmt.Sprintf("%s > %s%s", src, dst, fragment)
	}
	sums := func(extra uint32) {
		if whole && fragment == "" && folded(sum(body, extra)) != 0 {
			t.Errorf("checksum of protocol %d is wrong", proto)
		}
	}
	switch proto {
	case 1:
		sums(0)
		return fmt.Sprintf("%s > %s icmp %d/%d (%s)", src, dst, body[0], body[1], showIP(t, body[8:], uncut(body[8:])))
	case 58:
		sums(pseudo(src, dst, proto, len(body)))
		return fmt.Sprintf("%s > %s icmp %d/%d (%s)", src, dst, body[0], body[1], showIP(t, body[8:], uncut(body[8:])))
	}
	if proto == tcp || binary.BigEndian.Uint16(body[6:]) != 0 {
		sums(pseudo(src, dst, proto, len(body)))
	}
	return fmt.Sprintf("%s > %s%s", netip.AddrPortFrom(src, binary.BigEndian.Uint16(body)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(body[2:])), fragment)
}

// uncut says whether the whole of a packet is quoted.
func uncut(b []byte) bool {
	if b[0]>>4 == 4 {
		return int(binary.BigEndian.Uint16(b[2:])) == len(b)
	}
	return int(binary.BigEndian.Uint16(b[4:]))+40 == len(b)
}
