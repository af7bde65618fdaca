package routes

import (
	"errors"
	"fmt"
	"testing"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"golang.org/x/sys/unix"
)

// brokenCore puts between the routers a device that says it finishes checksums and does not: it hands bytes on as they are.
func (l *lab) brokenCore() {
	for _, r := range l.routers {
		link, err := r.NL.LinkByName("core")
		if err == nil {
			must(l.t, r.NL.LinkDel(link))
		}
	}
	device := l.namespace()
	for i, r := range l.routers {
		l.cable(r, "core", device, fmt.Sprintf("port%d", i))
		l.up(r, "core", fmt.Sprintf("10.255.0.%d/24", i+1), fmt.Sprintf("fd00:255::%d/64", i+1))
		l.up(device, fmt.Sprintf("port%d", i))
		l.route(r, fmt.Sprintf("10.200.%d.0/24", 1-i), fmt.Sprintf("10.255.0.%d", 2-i))
		l.route(r, fmt.Sprintf("fd00:200:%d::/64", 1-i), fmt.Sprintf("fd00:255::%d", 2-i))
	}
	a, b := l.packets(device, "port0"), l.packets(device, "port1")
	for _, pair := range [][2]int{{a, b}, {b, a}} {
		go func() {
			buf := make([]byte, 1<<16)
			for {
				n, from, err := unix.Recvfrom(pair[0], buf, 0)
				if errors.Is(err, unix.EINTR) {
					continue
				}
				if err != nil || n == 0 {
					return
				}
				if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype != unix.PACKET_OUTGOING {
					finish(buf[:n])
					_, _ = unix.Write(pair[1], buf[:n]) // what is too long is lost
				}
			}
		}()
	}
}

// finish works out the checksum of a UDP packet over IPv6, which must have one: a device can do that, but does not look inside.
func finish(frame []byte) {
	const eth, ip = 14, 40
	if len(frame) < eth+ip+8 || frame[12] != 0x86 || frame[13] != 0xdd || frame[eth+6] != unix.IPPROTO_UDP {
		return
	}
	udp := frame[eth+ip:]
	udp[6], udp[7] = 0, 0
	sum := uint32(unix.IPPROTO_UDP) + uint32(len(udp))
	for _, b := range [][]byte{frame[eth+8 : eth+ip], udp} {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(b[i]) << 8
			if i+1 < len(b) {
				sum += uint32(b[i+1])
			}
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	udp[6], udp[7] = ^byte(sum>>8), ^byte(sum)
}

// packets opens a socket for all that comes to a link.
func (l *lab) packets(ns *netnstest.NS, name string) (fd int) {
	link, err := ns.NL.LinkByName(name)
	must(l.t, err)
	const all = 0x0300 // ETH_P_ALL in network order
	must(l.t, ns.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
		return err
	}))
	must(l.t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index}))
	l.t.Cleanup(func() {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR)
		_ = unix.Close(fd)
	})
	return fd
}

// TestKernelChecksumOffload: where a device leaves checksums inside a tunnel wrong, that is found out and packets arrive; elsewhere offload stays.
func TestKernelChecksumOffload(t *testing.T) {
	for _, tt := range []struct {
		broken  bool
		outside int
	}{{false, 4}, {true, 4}, {true, 6}} {
		t.Run(fmt.Sprintf("broken %t, over IPv%d", tt.broken, tt.outside), func(t *testing.T) {
			l := newLab(t, 0, 1)
			if tt.outside == 6 {
				for _, n := range l.nodes {
					n.node.Addrs = n.node.Addrs[1:]
				}
			}
			if tt.broken {
				l.brokenCore()
			}
			ends := l.populate(1400)
			l.run(DefaultOverlay())
			from, to := ends[0], ends[2]
			for _, a := range to.addrs {
				l.within(fmt.Sprintf("a datagram reaches %s", a), func() error {
					_, err := ask(from.ns, "udp", a, 100)
					return err
				})
			}
			for _, n := range l.nodes {
				l.within("offload of "+n.node.Name, func() error {
					on, err := n.offloads(map[int]string{4: tunnel4, 6: tunnel6}[tt.outside])
					if err == nil && on == tt.broken {
						err = fmt.Errorf("it is %t", on)
					}
					return err
				})
			}
		})
	}
}

// offloads says whether a link leaves checksums to its device.
func (n *labNode) offloads(link string) (bool, error) {
	v := ethtoolValue{cmd: ethtoolGetTX}
	err := n.k.ethtool(link, &v)
	return v.data != 0, err
}
