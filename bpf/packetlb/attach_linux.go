package packetlb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/orlop-io/orlop/bpf/whole"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	filterName     = "orlop"
	filterPriority = 2 // early: a filter that sends packets elsewhere, to limit a pod, ends the row
)

// hook is a program at one side of a device.
type hook struct {
	dev    Device
	side   string // "in" or "out"
	prog   *ebpf.Program
	at     ebpf.AttachType // TCX
	parent uint32          // clsact
}

func (l *LB) hooks(d Device) []hook {
	in, out := l.objs.FromOutside, l.objs.ToDevice
	if d.Pod {
		in, out = l.objs.FromPod, l.objs.ToPod
	}
	return []hook{ // answers first: no client must meet a translation that is not undone
		{d, "out", out, ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS},
		{d, "in", in, ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS},
	}
}

// SetDevices attaches the programs to all of list, in the place of an earlier process's where there are any, and to no other device. It
// returns those that they are on now. A device that goes meanwhile is no error. The calling thread must be in the namespace of Open.
func (l *LB) SetDevices(list []Device) (on []Device, err error) {
	var errs []error
	for _, d := range list {
		var failed error
		for _, h := range l.hooks(d) {
			if failed = l.attach(h); failed != nil {
				break
			}
		}
		switch {
		case failed == nil:
			on = append(on, d)
		case !errors.Is(failed, unix.ENODEV):
			errs = append(errs, fmt.Errorf("attach to %s: %w", d.Name, failed))
		}
	}
	return on, errors.Join(append(errs, l.detachOthers(list))...)
}

func (l *LB) attach(h hook) error {
	if l.cfg.Attach == Clsact {
		return l.attachFilter(h)
	}
	links := l.links()
	if err := os.MkdirAll(links, 0o700); err != nil {
		return fmt.Errorf("make pin folder: %w", err)
	}
	pin := filepath.Join(links, h.pin())
	if replace(h, pin) {
		return nil
	}
	lk, err := link.AttachTCX(link.TCXOptions{Interface: h.dev.Index, Program: h.prog, Attach: h.at})
	if err != nil {
		return err
	}
	defer lk.Close()
	if err := os.Remove(pin); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return lk.Pin(pin)
}

// replace says whether the pinned link is on the hook's device and has its program now.
func replace(h hook, pin string) bool {
	lk, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return false
	}
	defer lk.Close()
	info, err := lk.Info()
	if err != nil || info.TCX() == nil || int(info.TCX().Ifindex) != h.dev.Index {
		return false
	}
	return lk.Update(h.prog) == nil
}

// links is apart from that of socklb, but goes with all that is pinned.
func (l *LB) links() string { return filepath.Join(l.cfg.PinDir, "links", "devices") }

func (h hook) pin() string { return fmt.Sprintf("%d-%s", h.dev.Index, h.side) }

func (l *LB) attachFilter(h hook) error {
	dev := netlink.QdiscAttrs{LinkIndex: h.dev.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}
	err := l.nl.QdiscAdd(&netlink.Clsact{QdiscAttrs: dev})
	if errors.Is(err, unix.EEXIST) {
		err = l.isClsact(h.dev)
	}
	if err != nil {
		return fmt.Errorf("add qdisc clsact: %w", err)
	}
	return l.nl.FilterReplace(filter(h.dev.Index, h.parent, h.prog.FD()))
}

// isClsact makes sure that what is there is it, and not its older half, which would run the program for what leaves on what comes in.
func (l *LB) isClsact(d Device) error {
	list, err := whole.List(func() ([]netlink.Qdisc, error) {
		return l.nl.QdiscList(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: d.Index}})
	})
	if err != nil {
		return err
	}
	for _, q := range list {
		if q.Attrs().Parent == netlink.HANDLE_CLSACT && q.Type() != "clsact" {
			return fmt.Errorf("somebody else's qdisc %s is in its place", q.Type())
		}
	}
	return nil
}

func filter(index int, parent uint32, fd int) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: parent, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: filterPriority},
		Fd:          fd, Name: filterName, DirectAction: true,
	}
}

func (l *LB) detachOthers(keep []Device) error {
	if l.cfg.Attach == Clsact {
		return removeFilters(l.nl, func(index int) bool {
			return slices.ContainsFunc(keep, func(d Device) bool { return d.Index == index })
		})
	}
	pins, err := os.ReadDir(l.links())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list pinned links: %w", err)
	}
	var errs []error
	for _, p := range pins {
		if slices.ContainsFunc(keep, func(d Device) bool { return strings.HasPrefix(p.Name(), fmt.Sprintf("%d-", d.Index)) }) {
			continue
		}
		if err := os.Remove(filepath.Join(l.links(), p.Name())); err != nil { // the last reference: the program is detached
			errs = append(errs, fmt.Errorf("detach %s: %w", p.Name(), err))
		}
	}
	return errors.Join(errs...)
}

// removeFilters deletes our filters from all devices but those to keep, and the qdisc where it has no others.
func removeFilters(nl *netlink.Handle, keep func(index int) bool) error {
	links, err := whole.List(nl.LinkList)
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	var errs []error
	for _, lk := range links {
		if keep(lk.Attrs().Index) {
			continue
		}
		ours, others := false, false
		for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
			list, err := whole.List(func() ([]netlink.Filter, error) { return nl.FilterList(lk, parent) })
			if err != nil {
				continue // no such qdisc
			}
			for _, f := range list {
				if b, ok := f.(*netlink.BpfFilter); !ok || !strings.HasPrefix(b.Name, filterName) || f.Attrs().Priority != filterPriority {
					others = true
					continue
				}
				ours = true
				if err := nl.FilterDel(f); err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENOENT) {
					errs = append(errs, fmt.Errorf("detach from %s: %w", lk.Attrs().Name, err))
				}
			}
		}
		if ours && !others {
			q := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: lk.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
			if err := nl.QdiscDel(q); err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
				errs = append(errs, fmt.Errorf("delete qdisc clsact of %s: %w", lk.Attrs().Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// probe says how programs can be attached here.
func (l *LB) probe() (string, error) {
	links, err := l.list()
	if err != nil {
		return "", err
	}
	if !slices.ContainsFunc(DevicesOf(links, nil), func(d Device) bool { return !d.Pod }) {
		return "", fmt.Errorf("%w: no device to the network has Ethernet headers", ErrUnsupported)
	}
	lo, err := l.nl.LinkByName("lo")
	if err != nil {
		return "", fmt.Errorf("look at lo: %w", err)
	}
	_, err = link.QueryPrograms(link.QueryOptions{Target: lo.Attrs().Index, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		return TCX, nil
	}
	q := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: lo.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	switch err := l.nl.QdiscAdd(q); {
	case errors.Is(err, unix.EEXIST):
		return Clsact, nil
	case err == nil:
		return Clsact, l.nl.QdiscDel(q)
	default:
		return "", fmt.Errorf("%w: it has neither TCX (Linux 6.6) nor the qdisc clsact: %w", ErrUnsupported, err)
	}
}

// Remove detaches all programs of the calling thread's network namespace and deletes what is pinned in dir; what socklb has there stays. What is not there is
// no error.
func Remove(dir string) error {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	defer nl.Close()
	errs := []error{removeFilters(nl, func(int) bool { return false })}
	for _, sub := range []string{filepath.Join("links", "devices"), layout} {
		if err := os.RemoveAll(filepath.Join(dir, sub)); err != nil {
			errs = append(errs, fmt.Errorf("remove pins: %w", err))
		}
	}
	return errors.Join(errs...)
}
