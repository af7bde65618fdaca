package packetlb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/orlop-io/orlop/bpf/whole"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Sync attaches the programs to the devices there are now, and returns those that they are on; pods are the ranges of the node's own pods. The
// calling thread must be in the namespace of Open.
func (l *LB) Sync(pods []netip.Prefix) (on []Device, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	links, err := l.list()
	if err == nil {
		err = errors.Join(l.calm(links), l.setPods(pods))
	}
	if err != nil {
		return nil, err
	}
	on, err = l.SetDevices(DevicesOf(links, pods))
	l.on = slices.Clone(on)
	return on, err
}

// Devices are those that the programs were put on last, without a look at them.
func (l *LB) Devices() []Device {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.on)
}

// calm has the programs look at little again, once all flows that pods, or clients outside, have begun are over.
func (l *LB) calm(links []Link) error {
	const idle = 24 * 60 * 60 // seconds, as long as a flow of TCP is kept
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	for _, m := range []*ebpf.Map{l.objs.Asked, l.objs.Served} {
		var last uint32
		if err := m.Lookup(uint32(0), &last); err != nil {
			return fmt.Errorf("look whether services are asked for in packets: %w", err)
		}
		if last == 0 || now.Sec-int64(last) < idle {
			continue
		}
		if err := m.Put(uint32(0), uint32(0)); err != nil {
			return fmt.Errorf("forget that services were asked for in packets: %w", err)
		}
	}
	return l.calmLinks(links, now.Sec-idle)
}

// calmLinks forgets links that have gone, and what has not been asked for at others since a time.
func (l *LB) calmLinks(links []Link, since int64) error {
	var over []uint32
	var index uint32
	var k objectLink
	it := l.objs.Links.Iterate()
	for it.Next(&index, &k) {
		there := slices.ContainsFunc(links, func(d Link) bool { return d.Index == int(index) })
		if !there || int64(k.Asked) <= since && int64(k.Served) <= since {
			over = append(over, index)
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("look at which links services are asked for: %w", err)
	}
	for _, index := range over {
		if err := l.objs.Links.Delete(index); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget that services were asked for at a link: %w", err)
		}
	}
	return nil
}

// AskedAt lists the links, by index, whose pods have asked for services by packets: each packet there is looked up.
func (l *LB) AskedAt() (out []int, err error) {
	var index uint32
	var k objectLink
	it := l.objs.Links.Iterate()
	for it.Next(&index, &k) {
		if k.Asked != 0 {
			out = append(out, int(index))
		}
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("look at which links services are asked for: %w", err)
	}
	slices.Sort(out)
	return out, nil
}

// setPods says where only pods are: at most one range of each family, and none that has an address at which the node itself is asked.
func (l *LB) setPods(pods []netip.Prefix) error {
	for family, v4 := range []bool{true, false} {
		var r objectRange
		for _, p := range pods {
			if p.Addr().Is4() == v4 && !slices.ContainsFunc(l.own, p.Contains) {
				r = rangeOf(p)
				break
			}
		}
		if err := l.objs.Pods.Put(uint32(family), &r); err != nil {
			return fmt.Errorf("set the range of pods: %w", err)
		}
	}
	return nil
}

func rangeOf(p netip.Prefix) (r objectRange) {
	r.Addr = words(p.Masked().Addr())
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	var mask [16]byte
	for i := range bits {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	r.Mask = words(netip.AddrFrom16(mask))
	return r
}

// Follow keeps the programs on all devices as they come and go, until ctx ends; then it returns its error. pods is asked each time.
func (l *LB) Follow(ctx context.Context, pods func() []netip.Prefix, log *slog.Logger) error {
	for {
		err := l.follow(ctx, pods, log)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		log.Warn("follow devices", "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// follow does so until the kernel has no more to say, as when its messages were too many to keep.
func (l *LB) follow(ctx context.Context, pods func() []netip.Prefix, log *slog.Logger) error {
	done := make(chan struct{})
	defer close(done)
	links, addrs := make(chan netlink.LinkUpdate, 100), make(chan netlink.AddrUpdate, 100)
	if err := errors.Join(netlink.LinkSubscribe(links, done), netlink.AddrSubscribe(addrs, done)); err != nil {
		return err
	}
	var last []Device
	told := ""
	for {
		wait := time.Minute
		list, err := l.Sync(pods())
		if err != nil {
			if told != err.Error() {
				log.Warn("attach to devices", "err", err)
			}
			told = err.Error()
			wait = 10 * time.Second
		}
		if !slices.Equal(list, last) {
			log.Info("services are translated in packets", "by", l.cfg.Attach, "devices", list)
			last = list
		}
		more := true
		select {
		case <-ctx.Done():
			return ctx.Err()
		case _, more = <-links:
		case _, more = <-addrs:
		case <-l.poke:
		case <-time.After(wait):
		}
		for settled := time.After(5 * time.Millisecond); more && settled != nil; { // one pod is several messages
			select {
			case _, more = <-links:
			case _, more = <-addrs:
			case <-settled:
				settled = nil
			}
		}
		if !more {
			return errors.New("the kernel's messages have ended")
		}
	}
}

// Poke says that pods have changed. It never blocks.
func (l *LB) Poke() {
	select {
	case l.poke <- struct{}{}:
	default:
	}
}

// list asks the kernel for all devices.
func (l *LB) list() ([]Link, error) {
	links, err := whole.List(l.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	all, err := whole.List(func() ([]netlink.Addr, error) { return l.nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	addrs := map[int][]netip.Addr{}
	for _, a := range all {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap().IsGlobalUnicast() {
			addrs[a.LinkIndex] = append(addrs[a.LinkIndex], ip.Unmap())
		}
	}
	var out []Link
	for _, lk := range links {
		a := lk.Attrs()
		out = append(out, Link{
			Index: a.Index, Name: a.Name, Type: lk.Type(), Master: a.MasterIndex,
			Ethernet: a.EncapType == "ether", Loopback: a.EncapType == "loopback", Addrs: addrs[a.Index],
		})
	}
	return out, nil
}
