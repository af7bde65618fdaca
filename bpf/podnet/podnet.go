// Package podnet finds the network namespaces of a node's pods by the files that runtimes have for them, and goes there.
//
// It changes nothing. A thread that has been in another namespace dies after it, so that nobody else meets it there; going takes CAP_SYS_ADMIN.
package podnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/bpf/socklb"
	"github.com/orlop-io/orlop/bpf/whole"
)

// Config says where namespaces are found.
type Config struct {
	// Folders have a file for each network namespace, as the runtime's CNI makes them (/run/netns).
	Folders []string
	// Proc is a proc file system, whose processes' namespaces are found, too: those that this process sees.
	Proc string
}

// Namespace is one of a pod, or whoever has a file for it.
type Namespace struct {
	Cookie uint64 // the kernel's name for it
	Links  []Link // those with addresses that others can use
}

// Link is a network device in a namespace.
type Link struct {
	MAC   net.HardwareAddr
	Peer  int // of a veth pair whose other end is in the own namespace: its index there; else 0
	Addrs []netip.Addr
}

// Lister knows the namespaces that it has seen. It belongs to one goroutine at a time.
type Lister struct {
	cfg   Config
	known map[file]Namespace // those with addresses
}

// file is a path and the namespace that it leads to.
type file struct {
	path  string
	inode uint32
}

// NewLister returns a Lister that has seen nothing yet.
func NewLister(cfg Config) *Lister { return &Lister{cfg: cfg} }

// List looks into all namespaces that there are files for in the folders, but not into that of the calling thread, the own one. One that goes meanwhile is left out; one that had addresses when
// it was seen before is looked into again only if anew.
func (l *Lister) List(anew bool) ([]Namespace, error) {
	var out []Namespace
	now := map[file]Namespace{}
	self, err := unix.Open(filepath.Join(l.cfg.Proc, "thread-self/ns/net"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the own network namespace: %w", err)
	}
	defer unix.Close(self)
	err = Do(self, func() error {
		own, err := socklb.NetnsCookie()
		if err != nil {
			return err
		}
		here, err := homeOf()
		if err != nil {
			return err
		}
		defer here.nl.Close()
		seen := map[uint64]bool{own: true}
		var failed error
		l.cfg.inFolders(func(inode uint32, path string) bool {
			f := file{path, inode}
			ns, is := l.known[f]
			if is = is && !anew; !is {
				var err error
				if ns, err = here.look(inode, path); errors.Is(err, unix.EPERM) {
					failed = err
					return false
				} else if err != nil {
					return true
				}
			}
			if seen[ns.Cookie] {
				return true
			}
			seen[ns.Cookie] = true
			if len(ns.Links) > 0 {
				now[f] = ns
			}
			out = append(out, ns)
			return true
		})
		return failed
	})
	l.known = now
	return out, err
}

// home is the own namespace, as seen from there.
type home struct {
	nl    *netlink.Handle
	links map[int]*netlink.LinkAttrs
}

func homeOf() (h home, err error) {
	if h.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return h, fmt.Errorf("open netlink socket: %w", err)
	}
	links, err := whole.List(h.nl.LinkList)
	if err != nil {
		h.nl.Close()
		return h, fmt.Errorf("list devices: %w", err)
	}
	h.links = map[int]*netlink.LinkAttrs{}
	for _, l := range links {
		h.links[l.Attrs().Index] = l.Attrs()
	}
	return h, nil
}

// peerOf is the index of the own end of a pair whose other end is l, in the namespace that is known here by a number. Indexes alone are the same in many namespaces.
func (h home) peerOf(l *netlink.LinkAttrs, netns int) int {
	end := h.links[l.ParentIndex]
	if end == nil || end.ParentIndex != l.Index || end.NetNsID != netns || netns < 0 {
		return 0
	}
	return end.Index
}

// look enters a namespace with the calling thread.
func (h home) look(inode uint32, path string) (ns Namespace, err error) {
	fd, err := Open(inode, path)
	if err != nil {
		return ns, err
	}
	defer unix.Close(fd)
	number, err := h.nl.GetNetNsIdByFd(fd)
	if err != nil {
		return ns, fmt.Errorf("ask for the number of a network namespace: %w", err)
	}
	if err := enter(fd); err != nil {
		return ns, err
	}
	if ns.Cookie, err = socklb.NetnsCookie(); err != nil {
		return ns, err
	}
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return ns, fmt.Errorf("open netlink socket: %w", err)
	}
	defer nl.Close()
	links, err := whole.List(nl.LinkList)
	if err != nil {
		return ns, fmt.Errorf("list devices: %w", err)
	}
	addrs, err := whole.List(func() ([]netlink.Addr, error) { return nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return ns, fmt.Errorf("list addresses: %w", err)
	}
	for _, l := range links {
		at := l.Attrs()
		out := Link{MAC: at.HardwareAddr}
		if l.Type() == "veth" {
			out.Peer = h.peerOf(at, number)
		}
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP); ok && a.LinkIndex == at.Index && ip.Unmap().IsGlobalUnicast() {
				out.Addrs = append(out.Addrs, ip.Unmap())
			}
		}
		if len(out.Addrs) > 0 {
			ns.Links = append(ns.Links, out)
		}
	}
	return ns, nil
}

// Each calls fn with the network namespaces that there are files for, by inode number, some more than once, while it wants more. The first is the calling
// process's own.
func (c Config) Each(fn func(inode uint32, path string) (more bool)) {
	own := filepath.Join(c.Proc, "thread-self/ns/net")
	var self unix.Stat_t
	if err := unix.Stat(own, &self); err != nil || !fn(uint32(self.Ino), own) {
		return
	}
	if c.inFolders(fn) {
		c.glob(filepath.Join(c.Proc, "[0-9]*/ns/net"), fn)
	}
}

func (c Config) inFolders(fn func(inode uint32, path string) (more bool)) (more bool) {
	for _, dir := range c.Folders {
		if !c.glob(filepath.Join(dir, "*"), fn) {
			return false
		}
	}
	return true
}

func (c Config) glob(pattern string, fn func(inode uint32, path string) (more bool)) (more bool) {
	var self unix.Stat_t
	if err := unix.Stat(filepath.Join(c.Proc, "thread-self/ns/net"), &self); err != nil {
		return false
	}
	paths, _ := filepath.Glob(pattern) // the pattern is right
	for _, path := range paths {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil || st.Dev != self.Dev { // not of the kernel's file system of namespaces
			continue
		}
		if !fn(uint32(st.Ino), path) {
			return false
		}
	}
	return true
}

// ErrGone is returned by Open when a path leads to another namespace by now, or nowhere.
var ErrGone = errors.New("the network namespace is gone")

// Open opens the namespace of that number at path.
func Open(inode uint32, path string) (fd int, err error) {
	fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("%w: %w", ErrGone, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || uint32(st.Ino) != inode {
		unix.Close(fd)
		return -1, ErrGone
	}
	return fd, nil
}

// Do runs fn on a thread in a network namespace.
func Do(netns int, fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := enter(netns); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

func enter(netns int) error {
	err := unix.Setns(netns, unix.CLONE_NEWNET)
	if errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("%w (it takes CAP_SYS_ADMIN)", err)
	}
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}
