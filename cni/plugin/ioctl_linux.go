package plugin

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bridge is what link says of a bridge that is there; nil where something else is, or nothing, or the kernel does not say.
//
// Each ADD asks. A look-up by netlink first carries out what a port that has just come or gone means for the bridge, and tells everybody, while it holds
// the kernel's one lock on network configuration; these calls of an older time read what is there.
func (s *socket) bridge(name string) *link {
	// They would have the kernel load a module for a link that is not there.
	var there unix.Stat_t
	if unix.Stat("/proc/sys/net/ipv4/conf/"+name, &there) != nil {
		return nil
	}
	info := unix.EthtoolDrvinfo{Cmd: unix.ETHTOOL_GDRVINFO}
	asks := struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data *unix.EthtoolDrvinfo
		_    [16]byte
	}{data: &info}
	copy(asks.name[:unix.IFNAMSIZ-1], name)
	// Raw as in ask: the runtime need not be told of the wait for the lock.
	if _, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(s.fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&asks))); errno != 0 {
		return nil
	}
	if unix.ByteSliceToString(info.Driver[:]) != "bridge" {
		return nil
	}
	l := &link{name: name, kind: "bridge"}
	for _, call := range []struct {
		request uintptr
		take    func(data []byte)
	}{
		{unix.SIOCGIFINDEX, func(b []byte) { l.index = int(binary.NativeEndian.Uint32(b)) }},
		{unix.SIOCGIFMTU, func(b []byte) { l.mtu = int(binary.NativeEndian.Uint32(b)) }},
		{unix.SIOCGIFHWADDR, func(b []byte) { l.mac = append(l.mac, b[2:8]...) }}, // of struct sockaddr
		{unix.SIOCGIFFLAGS, func(b []byte) { l.flags = uint32(binary.NativeEndian.Uint16(b)) }},
	} {
		var req struct { // struct ifreq
			name [unix.IFNAMSIZ]byte
			data [24]byte
		}
		copy(req.name[:unix.IFNAMSIZ-1], name)
		if _, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(s.fd), call.request, uintptr(unsafe.Pointer(&req))); errno != 0 {
			return nil
		}
		call.take(req.data[:])
	}
	l.promiscuous = l.flags&unix.IFF_PROMISC != 0
	return l
}
