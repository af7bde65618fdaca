// Package socklb translates services' addresses in the sockets of a cgroup, by BPF programs at connect, sendmsg,
// recvmsg and getpeername. Nobody else can bind to a node port meanwhile.
//
// It owns a folder of a BPF file system: links that keep the programs attached, and maps that hold services and what
// sockets chose. Both outlive the process. Open finds them again, Attach puts newer programs into the links in one step each, so
// that a restart or an upgrade is not seen by any connection; only Remove ends the translation.
//
// What services are, and in which order their entries change, is the caller's business (package proxy).
package socklb

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// ErrUnsupported is returned by Open when the kernel or its mounts lack what the programs need; the text names it.
var ErrUnsupported = errors.New("the kernel cannot translate services in sockets")

// layout names the folder of the maps. It changes whenever the key, value, size or meaning of a map does, so that a newer version
// fills maps of its own before its programs take over; from the layout before it takes what cannot be told again (inherit).
const layout = "v3"

// Config says where the programs live and what they cover.
type Config struct {
	PinDir    string // folder in a BPF file system; made when missing
	Cgroup    string // folder of a cgroup2 tree; sockets made by processes below it are covered
	NodeNetns uint64 // cookie of the node's network namespace, where 127.0.0.1 has the node ports
	// Entries is how many entries a new map has room for, before it grows; at 16 bytes each, and those that are used at some 100. 0: 4096.
	Entries uint32
	// Limit is how many it grows to at most. What does not fit is not translated, and ErrFull is returned for it. 0: 4194304.
	Limit uint32
}

// LB is the loaded programs and the open maps. Its methods may be called at once, but each map should have one writer.
type LB struct {
	cfg       Config
	objs      objectObjects
	frontends store[objectFrontendKey, objectFrontend]
	backends  store[objectSlot, objectEndpoint]
	tables    store[objectSlot, objectBlock]
	members   store[objectMember, uint32]
	nodes     store[objectEndpoint, uint32]
	counted   atomic.Uint32 // services with traffic, when it was last read
}

// Frontend is an address that clients ask for. An unspecified Addr (0.0.0.0 or ::) stands for every
// address of the nodes in its family: a node port.
type Frontend struct {
	Addr     netip.Addr
	Port     uint16
	Protocol uint8 // IP protocol number
	Outside  bool  // for packets that come to the node from elsewhere; such a one is beside that for sockets and pods of the node
}

// Entry is what a frontend leads to.
type Entry struct {
	Generation uint32        // whose backends
	Service    uint32        // whose members and sources; stays while backends change
	Count      uint32        // how many backends the generation has; 0 refuses connections
	Affinity   time.Duration // how long a client stays with a backend, in whole seconds; 0 not at all
	Table      uint32        // size of the generation's table; 0 none
	KeepSource bool          // with no backend packets are dropped, not refused
	Limited    bool          // only clients in the service's sources are served
}

// Size is how much of a generation is in the kernel.
type Size struct{ Backends, Blocks uint32 }

// Size is that of the entry's generation.
func (e Entry) Size() Size { return Size{e.Count, blocks(e.Table)} }

// Backend is where connections go.
type Backend struct {
	netip.AddrPort
	Here bool // on this node
}

// Open loads the programs, and opens or makes the pinned maps. Nothing is attached yet. It returns
// ErrUnsupported when this kernel cannot do it.
func Open(cfg Config) (*LB, error) {
	if err := probe(cfg); err != nil {
		return nil, err
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise the limit of locked memory: %w", err)
	}
	cfg.Entries, cfg.Limit = cmp.Or(cfg.Entries, 4096), cmp.Or(cfg.Limit, 1<<22)
	lb, maps := &LB{cfg: cfg}, Maps(cfg.PinDir)
	inherits, err := lb.begin()
	if err != nil {
		return nil, err
	}
	spec, err := loadObject()
	if err != nil {
		return nil, fmt.Errorf("read BPF object: %w", err)
	}
	canRefuse := uint32(1)
	if features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnSetRetval) != nil {
		canRefuse = 0
	}
	err = errors.Join(spec.Variables[objectVarNodeNetns].Set(cfg.NodeNetns), spec.Variables[objectVarCanRefuse].Set(canRefuse))
	if err != nil {
		return nil, fmt.Errorf("set BPF constants: %w", err)
	}
	err = spec.LoadAndAssign(&lb.objs, &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: maps}})
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		return nil, fmt.Errorf("the maps in %s are another program's: %w", maps, err)
	}
	if err != nil {
		return nil, fmt.Errorf("load BPF programs: %w", err)
	}
	err = lb.openStores(spec)
	if err == nil && inherits {
		err = lb.inherit()
	}
	if err != nil {
		lb.Close()
		return nil, err
	}
	return lb, nil
}

func (l *LB) openStores(spec *ebpf.CollectionSpec) error {
	dir, o, limit := Maps(l.cfg.PinDir), &l.objs, max(l.cfg.Entries, l.cfg.Limit)
	inner := func(name string) *ebpf.MapSpec { return spec.Maps[name].InnerMap }
	l.frontends.set(objectMapFrontends, dir, o.Frontends, inner(objectMapFrontends), limit)
	l.backends.set(objectMapBackends, dir, o.Backends, inner(objectMapBackends), limit)
	l.tables.set(objectMapTables, dir, o.Tables, inner(objectMapTables), limit)
	l.members.set(objectMapMembers, dir, o.Members, inner(objectMapMembers), limit)
	l.nodes.set(objectMapNodes, dir, o.Nodes, inner(objectMapNodes), limit)
	return errors.Join(l.frontends.open(l.cfg.Entries), l.backends.open(l.cfg.Entries), l.tables.open(l.cfg.Entries), l.members.open(l.cfg.Entries), l.nodes.open(l.cfg.Entries))
}

// Maps is where the maps of a pin folder are, for programs that share them.
func Maps(pinDir string) string { return filepath.Join(pinDir, layout) }

func probe(cfg Config) error {
	var st unix.Statfs_t
	dir := cfg.PinDir
	for { // the first folder that exists
		err := unix.Statfs(dir, &st)
		if err == nil {
			break
		}
		if parent := filepath.Dir(dir); errors.Is(err, fs.ErrNotExist) && parent != dir {
			dir = parent
			continue
		}
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if st.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("%w: %s is not in a BPF file system (mount -t bpf bpf /sys/fs/bpf)", ErrUnsupported, cfg.PinDir)
	}
	if err := unix.Statfs(cfg.Cgroup, &st); err != nil {
		return fmt.Errorf("look at cgroup %s: %w", cfg.Cgroup, err)
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		return fmt.Errorf("%w: %s is not in a cgroup2 file system", ErrUnsupported, cfg.Cgroup)
	}
	for what, err := range map[string]error{
		"BPF programs on cgroup socket addresses":     features.HaveProgramType(ebpf.CGroupSockAddr),
		"BPF socket storage":                          features.HaveMapType(ebpf.SkStorage),
		"the BPF helper get_netns_cookie (Linux 5.7)": features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnGetNetnsCookie),
	} {
		if errors.Is(err, ebpf.ErrNotSupported) {
			return fmt.Errorf("%w: it lacks %s", ErrUnsupported, what)
		}
		if err != nil {
			return fmt.Errorf("ask the kernel for %s: %w", what, err)
		}
	}
	return nil
}

// hook is one program and where it goes.
type hook struct {
	name string
	at   ebpf.AttachType
	prog *ebpf.Program
}

// hooks has the reverse translations first: no socket must meet a translation that is not undone.
func (l *LB) hooks() []hook {
	o := &l.objs
	return []hook{
		{objectProgGetpeername4, ebpf.AttachCgroupInet4GetPeername, o.Getpeername4},
		{objectProgGetpeername6, ebpf.AttachCgroupInet6GetPeername, o.Getpeername6},
		{objectProgRecvmsg4, ebpf.AttachCGroupUDP4Recvmsg, o.Recvmsg4},
		{objectProgRecvmsg6, ebpf.AttachCGroupUDP6Recvmsg, o.Recvmsg6},
		{objectProgSendmsg4, ebpf.AttachCGroupUDP4Sendmsg, o.Sendmsg4},
		{objectProgSendmsg6, ebpf.AttachCGroupUDP6Sendmsg, o.Sendmsg6},
		{objectProgConnect4, ebpf.AttachCGroupInet4Connect, o.Connect4},
		{objectProgConnect6, ebpf.AttachCGroupInet6Connect, o.Connect6},
		{objectProgPostBind4, ebpf.AttachCGroupInet4PostBind, o.PostBind4},
		{objectProgPostBind6, ebpf.AttachCGroupInet6PostBind, o.PostBind6},
	}
}

// Attach puts the programs in charge of the cgroup, in the place of an earlier process's where there are any, and drops maps of
// other layouts. The maps should hold all services by now.
func (l *LB) Attach() error {
	links := filepath.Join(l.cfg.PinDir, "links")
	if err := os.MkdirAll(links, 0o700); err != nil {
		return fmt.Errorf("make pin folder: %w", err)
	}
	for _, h := range l.hooks() {
		if err := l.attach(h, filepath.Join(links, h.name)); err != nil {
			return fmt.Errorf("attach %s to %s: %w", h.name, l.cfg.Cgroup, err)
		}
	}
	old, err := filepath.Glob(filepath.Join(l.cfg.PinDir, "v*"))
	if err != nil {
		return fmt.Errorf("list pin folder: %w", err)
	}
	for _, dir := range old {
		if filepath.Base(dir) != layout {
			if err := os.RemoveAll(dir); err != nil {
				return fmt.Errorf("drop maps of another layout: %w", err)
			}
		}
	}
	return nil
}

func (l *LB) attach(h hook, pin string) error {
	if l.replace(h, pin) {
		return nil
	}
	// None there, or one on another cgroup: make a new link under another name and let it take the name over.
	lk, err := link.AttachCgroup(link.CgroupOptions{Path: l.cfg.Cgroup, Attach: h.at, Program: h.prog})
	if err != nil {
		return err
	}
	defer lk.Close()
	tmp := pin + "_new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := lk.Pin(tmp); err != nil {
		return err
	}
	return os.Rename(tmp, pin)
}

// replace says whether the pinned link is on our cgroup and has our program now.
func (l *LB) replace(h hook, pin string) bool {
	lk, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return false
	}
	defer lk.Close()
	info, err := lk.Info()
	if err != nil || info.Cgroup() == nil {
		return false
	}
	var st unix.Stat_t
	if err := unix.Stat(l.cfg.Cgroup, &st); err != nil || info.Cgroup().CgroupId != st.Ino {
		return false
	}
	return lk.Update(h.prog) == nil
}

// Close lets go of programs and maps; what is pinned stays in charge.
func (l *LB) Close() error {
	return errors.Join(l.frontends.close(), l.backends.close(), l.tables.close(), l.members.close(), l.nodes.close(), l.objs.Close())
}

// Remove ends the translation and deletes all that is pinned in dir. What is not there is no error.
func Remove(dir string) error {
	// Links first: programs must not run over maps that are half gone.
	for _, sub := range []string{"links", ""} {
		if err := os.RemoveAll(filepath.Join(dir, sub)); err != nil {
			return fmt.Errorf("remove pins: %w", err)
		}
	}
	return nil
}

// NetnsCookie returns the kernel's name of the network namespace of the calling thread.
func NetnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("ask for the cookie of the network namespace (Linux 5.14): %w", err)
	}
	return cookie, nil
}

func words(a netip.Addr) (w [4]uint32) {
	b := a.As16()
	for i := range w {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

func addr(w [4]uint32) netip.Addr {
	var b [16]byte
	for i := range w {
		binary.NativeEndian.PutUint32(b[4*i:], w[i])
	}
	return netip.AddrFrom16(b).Unmap()
}

// swap turns a port into network byte order, or back.
func swap(port uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port))
}
