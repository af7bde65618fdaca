// Package ipam hands out pod addresses of one network on one node and remembers who holds them.
//
// It owns one folder per network. The state of a boot lives in a folder named by the kernel's boot id,
// so whatever a reboot or a power cut left behind is not read, only removed: no pod survives its kernel.
// Within a boot every step is a rename, a link or an unlink, in an order that lets a process die anywhere:
// a lease is written before its addresses are taken and removed after they are given back, so that a
// half-made one can always be released by its name and never keeps an address nobody can find.
//
// Reserve and Release cost the same however many leases there are.
package ipam

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrExhausted is returned by Reserve when a range has no free address.
var ErrExhausted = errors.New("no free address")

// ErrReserved is returned by Reserve when the attachment holds a lease already.
var ErrReserved = errors.New("attachment holds a lease already")

// Attachment names one interface of one container.
type Attachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// Lease is what one attachment holds.
type Lease struct {
	Attachment
	Addrs []netip.Addr `json:"addrs"`
	// Data is the caller's own and comes back as it was given.
	Data json.RawMessage `json:"data,omitempty"`
}

// Config says where the leases of one network are kept.
type Config struct {
	Dir     string // folder of all networks; made when missing
	Network string // name of the network; one path element
	BootID  string // the running kernel's boot id; leases of any other are dropped
}

// Store is the leases of one network. Its methods may be called by any number of processes at once.
type Store struct {
	network string // <Dir>/<Network>, holds lock and one folder per boot
	boot    string // <network>/<BootID>
}

// New checks cfg and returns a Store that has touched nothing yet.
func New(cfg Config) (*Store, error) {
	var errs []error
	if cfg.Dir == "" {
		errs = append(errs, errors.New("ipam: Dir is empty"))
	}
	for what, s := range map[string]string{"network name": cfg.Network, "boot id": cfg.BootID} {
		if s == "" || s == "." || s == ".." || strings.ContainsAny(s, "/\x00") || s == lockName {
			errs = append(errs, fmt.Errorf("ipam: %s %q is not a file name", what, s))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	network := filepath.Join(cfg.Dir, cfg.Network)
	return &Store{network: network, boot: filepath.Join(network, cfg.BootID)}, nil
}

const (
	lockName  = "lock"
	leasesDir = "leases" // a file per attachment
	addrsDir  = "addrs"  // per address a hard link to the lease that took it, as first written
)

// Reserve takes one address of each range for att and keeps data beside them. The first address of a range
// is the gateway's and never handed out. It returns ErrReserved or ErrExhausted, holding nothing new.
func (s *Store) Reserve(att Attachment, ranges []netip.Prefix, data json.RawMessage) (lease Lease, err error) {
	unlock, err := s.lock()
	if err != nil {
		return Lease{}, err
	}
	defer unlock()
	if _, err := os.Lstat(s.leasePath(att)); err == nil {
		return Lease{}, fmt.Errorf("reserve for container %s %s: %w", att.ContainerID, att.IfName, ErrReserved)
	}
	lease = Lease{Attachment: att, Data: data}
	for _, r := range ranges {
		addr, err := s.pick(r)
		if err != nil {
			return Lease{}, err
		}
		lease.Addrs = append(lease.Addrs, addr)
	}
	if err := s.writeLease(lease); err != nil {
		return Lease{}, err
	}
	for _, addr := range lease.Addrs {
		if err := os.Link(s.leasePath(att), s.addrPath(addr)); err != nil {
			return Lease{}, errors.Join(fmt.Errorf("take address %s: %w", addr, err), s.release(att))
		}
	}
	for i, r := range ranges {
		// Only a hint where to look next: a torn or lost one costs a few more lookups.
		_ = os.WriteFile(s.cursorPath(r), []byte(lease.Addrs[i].String()), 0o600)
	}
	return lease, nil
}

// Release gives back what att holds. An attachment that holds nothing is no error.
func (s *Store) Release(att Attachment) error {
	if _, err := os.Lstat(s.boot); errors.Is(err, fs.ErrNotExist) {
		return nil // no lease in this boot
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return s.release(att)
}

// SetData replaces what is kept beside the lease of att, which must hold one.
func (s *Store) SetData(att Attachment, data json.RawMessage) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	lease, ok, err := readLease(s.leasePath(att))
	if err == nil && !ok {
		err = fs.ErrNotExist
	}
	if err != nil {
		return fmt.Errorf("keep data of container %s %s: %w", att.ContainerID, att.IfName, err)
	}
	lease.Data = data
	return s.writeLease(lease)
}

// Lookup returns the lease of att, and whether there is one.
func (s *Store) Lookup(att Attachment) (Lease, bool, error) {
	return readLease(s.leasePath(att))
}

// List returns all leases of this boot, in no order.
func (s *Store) List() ([]Lease, error) {
	entries, err := os.ReadDir(filepath.Join(s.boot, leasesDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	var leases []Lease
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		l, ok, err := readLease(filepath.Join(s.boot, leasesDir, e.Name()))
		if err != nil {
			return nil, err
		}
		if ok {
			leases = append(leases, l)
		}
	}
	return leases, nil
}

// Check says whether Reserve would find an address in each range; it returns ErrExhausted when not.
func (s *Store) Check(ranges []netip.Prefix) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	for _, r := range ranges {
		if _, err := s.pick(r); err != nil {
			return err
		}
	}
	return nil
}

const tempPrefix = ".new-"

func (s *Store) leasePath(att Attachment) string {
	sum := sha256.Sum256([]byte(att.ContainerID + "\x00" + att.IfName))
	return filepath.Join(s.boot, leasesDir, hex.EncodeToString(sum[:16]))
}

func (s *Store) addrPath(a netip.Addr) string { return filepath.Join(s.boot, addrsDir, a.String()) }

func (s *Store) cursorPath(r netip.Prefix) string {
	return filepath.Join(s.boot, "next-"+strings.ReplaceAll(r.Masked().String(), "/", "_"))
}

// lock makes the folders of this boot, drops those of others, and holds the network's lock until unlock.
func (s *Store) lock() (unlock func(), err error) {
	if err := os.MkdirAll(s.network, 0o700); err != nil {
		return nil, fmt.Errorf("make IPAM folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(s.network, lockName), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open IPAM lock: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	unlock = func() { f.Close() }
	if _, err := os.Lstat(filepath.Join(s.boot, addrsDir)); err == nil {
		return unlock, nil
	}
	if err := s.begin(); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// begin makes this boot's folders, after those of earlier boots are gone.
func (s *Store) begin() error {
	entries, err := os.ReadDir(s.network)
	if err != nil {
		return fmt.Errorf("read IPAM folder: %w", err)
	}
	for _, e := range entries {
		if p := filepath.Join(s.network, e.Name()); e.Name() != lockName && p != s.boot {
			if err := os.RemoveAll(p); err != nil {
				return fmt.Errorf("drop leases of an earlier boot: %w", err)
			}
		}
	}
	for _, d := range []string{leasesDir, addrsDir} {
		if err := os.MkdirAll(filepath.Join(s.boot, d), 0o700); err != nil {
			return fmt.Errorf("make IPAM folder: %w", err)
		}
	}
	return nil
}

// pick returns a free address of r, looking from the one after the last taken, so that an address rests
// as long as the range allows before it is used again.
func (s *Store) pick(r netip.Prefix) (netip.Addr, error) {
	pool := poolOf(r)
	start := pool.first
	if b, err := os.ReadFile(s.cursorPath(r)); err == nil {
		if last, err := netip.ParseAddr(string(b)); err == nil {
			start = pool.after(last)
		}
	}
	for a, n := start, uint64(0); n < pool.size; n++ {
		_, err := os.Lstat(s.addrPath(a))
		if errors.Is(err, fs.ErrNotExist) {
			return a, nil
		}
		if err != nil {
			return netip.Addr{}, fmt.Errorf("look up address %s: %w", a, err)
		}
		a = pool.after(a)
	}
	return netip.Addr{}, fmt.Errorf("range %s: %w", r, ErrExhausted)
}

func (s *Store) writeLease(l Lease) (err error) {
	b, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("encode lease: %w", err)
	}
	f, err := os.CreateTemp(filepath.Join(s.boot, leasesDir), tempPrefix+"*")
	if err != nil {
		return fmt.Errorf("write lease: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write lease: %w", err)
	}
	if err := os.Rename(f.Name(), s.leasePath(l.Attachment)); err != nil {
		return fmt.Errorf("write lease: %w", err)
	}
	return nil
}

// release needs the lock.
func (s *Store) release(att Attachment) error {
	path := s.leasePath(att)
	lease, ok, err := readLease(path)
	if err != nil {
		return err
	}
	if !ok {
		return nil
	}
	for _, a := range lease.Addrs {
		holder, taken, err := readLease(s.addrPath(a))
		// A process that died before it took the address leaves a lease that names it; by now it may be another's.
		if err == nil && (!taken || holder.Attachment != att) {
			continue
		}
		if err == nil {
			err = os.Remove(s.addrPath(a))
		}
		if err != nil {
			return fmt.Errorf("give back address %s: %w", a, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove lease: %w", err)
	}
	return nil
}

func readLease(path string) (Lease, bool, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Lease{}, false, nil
	}
	if err != nil {
		return Lease{}, false, fmt.Errorf("read lease: %w", err)
	}
	var l Lease
	if err := json.Unmarshal(b, &l); err != nil {
		return Lease{}, false, fmt.Errorf("decode lease %s: %w", path, err)
	}
	return l, true, nil
}
