// Package ipam hands out addresses of one network on one node and remembers who holds them.
//
// It owns one folder per network. The state of a boot lives in a folder named by the kernel's boot id,
// so whatever a reboot or a power cut left behind is not read, only removed: no container survives its kernel. That is why nothing
// here waits for the disk. Within a boot every step is a rename, a link or an unlink, in an order that lets a process die anywhere: a
// lease that is being made or given up has a name of its own, under which addresses are taken and freed; whoever holds the lock next
// and finds a file of that name frees what it has. So a lease that can be looked up always has all its addresses, and nobody else has
// them.
//
// Reserve and Release cost the same however many leases there are. The folder may be one that the plugin host-local used before:
// its files count as taken, and Release removes the container's.
package ipam

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/orlop-io/orlop/cni/digest"
	"github.com/orlop-io/orlop/cni/jsonparts"
)

// Errors that callers branch on.
var (
	// ErrExhausted is returned by Reserve and Check when a set has no free address.
	ErrExhausted = errors.New("no free address")
	// ErrReserved is returned by Reserve when the attachment holds a lease already.
	ErrReserved = errors.New("attachment holds a lease already")
	// ErrTaken is returned by Reserve when a wanted address is another's.
	ErrTaken = errors.New("address is taken")
	// ErrOutside is returned by Reserve when a wanted address is of no set.
	ErrOutside = errors.New("in no range")
	// ErrTorn is returned by Lookup when a lease's file is there but cannot be read. Release works.
	ErrTorn = errors.New("lease is torn")
)

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

	Written time.Time `json:"-"` // when the file was
	Torn    bool      `json:"-"` // nothing but key and Written is known
	key     string    // name of the file
}

// Request is what a container is to get.
type Request struct {
	Attachment
	Sets     []Set          // normal ones; one address of each
	Wanted   []netip.Addr   // those that must be given, each of another set
	Reserved []netip.Prefix // those that are given only when wanted
	// Data returns what is kept beside the addresses.
	Data func([]netip.Addr) (json.RawMessage, error)
}

// Config says where the leases of one network are kept.
type Config struct {
	Dir     string // folder of all networks; made when missing
	Network string // name of the network; one path element
	BootID  string // the running kernel's boot id; leases of any other are dropped
}

// Store is the leases of one network. Its methods may be called by any number of processes at once.
type Store struct {
	network string // <Dir>/<Network>, holds lock, the cursors and one folder per boot
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
	lockName  = "lock" // host-local's, too
	leasesDir = "leases"
	addrsDir  = "addrs" // per address a hard link to the lease that took it, as first written
	notesDir  = "notes"
)

// Reserve gives an address of each set. It returns ErrReserved, ErrExhausted or ErrTaken, holding nothing new.
func (s *Store) Reserve(req Request) (lease Lease, err error) {
	held, err := s.lock()
	if err != nil {
		return Lease{}, err
	}
	defer held.unlock()
	att := req.Attachment
	if there, err := exists(s.leasePath(att)); there && err == nil {
		return Lease{}, fmt.Errorf("reserve for container %s %s: %w", att.ContainerID, att.IfName, ErrReserved)
	}
	lease = Lease{Attachment: att, key: keyOf(att)}
	if lease.Addrs, err = s.choose(held, req); err != nil {
		return Lease{}, err
	}
	if req.Data != nil {
		if lease.Data, err = req.Data(lease.Addrs); err != nil {
			return Lease{}, err
		}
	}
	if err := s.writeTemp(lease); err != nil {
		return Lease{}, err
	}
	for _, addr := range lease.Addrs {
		if err := os.Link(s.tempPath(), s.addrPath(addr)); err != nil {
			return Lease{}, errors.Join(fmt.Errorf("take address %s: %w", addr, err), s.finish())
		}
	}
	if err := rename(s.tempPath(), s.leasePath(att)); err != nil {
		return Lease{}, errors.Join(fmt.Errorf("write lease: %w", err), s.finish())
	}
	for i := range req.Sets {
		held.setCursor(i, lease.Addrs[i])
	}
	return lease, nil
}

// choose picks an address of each set.
func (s *Store) choose(held grip, req Request) ([]netip.Addr, error) {
	var left, out []netip.Addr
	for _, a := range req.Wanted {
		if !slices.Contains(left, a) {
			left = append(left, a)
		}
	}
	for i, set := range req.Sets {
		j := slices.IndexFunc(left, func(a netip.Addr) bool { _, ok := set.of(a); return ok })
		if j < 0 {
			a, err := set.search(s.cursor(held, i), req.Reserved, s.free)
			if err != nil {
				return nil, err
			}
			out = append(out, a)
			continue
		}
		ok, err := s.free(left[j])
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fmt.Errorf("%s, held by %s: %w", left[j], s.holder(left[j]), ErrTaken)
		}
		out, left = append(out, left[j]), slices.Delete(left, j, j+1)
	}
	if len(left) > 0 {
		return nil, fmt.Errorf("requested address %s is %w of the network that has not given one", left[0], ErrOutside)
	}
	return out, nil
}

// Release gives back what att holds. An attachment that holds nothing is no error.
func (s *Store) Release(att Attachment) error { return s.drop(keyOf(att), att) }

// Drop releases a lease that List returned, torn or not.
func (s *Store) Drop(l Lease) error { return s.drop(l.key, l.Attachment) }

func (s *Store) drop(key string, att Attachment) error {
	if there, err := exists(s.network); !there && err == nil {
		return nil
	}
	held, err := s.lock()
	if err != nil {
		return err
	}
	defer held.unlock()
	if err := s.release(key); err != nil {
		return err
	}
	return s.releaseForeign(att)
}

// SetData replaces what is kept beside the lease of att, which must hold one.
func (s *Store) SetData(att Attachment, data json.RawMessage) error {
	held, err := s.lock()
	if err != nil {
		return err
	}
	defer held.unlock()
	lease, ok, err := s.Lookup(att)
	if err == nil && !ok {
		err = fs.ErrNotExist
	}
	if err != nil {
		return fmt.Errorf("keep data of container %s %s: %w", att.ContainerID, att.IfName, err)
	}
	lease.Data = data
	err = writeFile(s.dataPath(), lease.encode())
	if err == nil {
		err = rename(s.dataPath(), s.leasePath(att))
	}
	if err != nil {
		return fmt.Errorf("write lease: %w", err)
	}
	return nil
}

// Lookup returns the lease of att, and whether there is one; ErrTorn where it cannot be read.
func (s *Store) Lookup(att Attachment) (Lease, bool, error) { return s.leaseIn(keyOf(att)) }

// leaseIn reads the lease in the file of that name. One that names another attachment than its file does is torn, too.
func (s *Store) leaseIn(key string) (Lease, bool, error) {
	path := filepath.Join(s.boot, leasesDir, key)
	l, there, err := readLease(path)
	if err == nil && there && keyOf(l.Attachment) != key {
		err = fmt.Errorf("lease %s: %w: it names container %s %s", path, ErrTorn, l.ContainerID, l.IfName)
		l = Lease{key: key, Written: l.Written, Torn: true}
	}
	return l, there, err
}

// KeyOf is what Lease.Key returns for the lease of att.
func KeyOf(att Attachment) string { return keyOf(att) }

// Key names the lease's attachment, torn or not.
func (l Lease) Key() string { return l.key }

// List returns all leases of this boot, in no order, torn ones too.
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
		l, ok, err := s.leaseIn(e.Name())
		if err != nil && !errors.Is(err, ErrTorn) {
			return nil, err
		}
		if ok {
			leases = append(leases, l)
		}
	}
	return leases, nil
}

// Check says whether Reserve would find an address in each set, and could write the lease; it returns ErrExhausted when there is no address.
func (s *Store) Check(sets []Set, reserved []netip.Prefix) error {
	held, err := s.lock()
	if err != nil {
		return err
	}
	defer held.unlock()
	for i, set := range sets {
		if _, err := set.search(s.cursor(held, i), reserved, s.free); err != nil {
			return err
		}
	}
	const aLease = 1 << 10 // bytes, at most without very many host ports
	err = writeFile(s.dataPath(), make([]byte, aLease))
	if rerr := os.Remove(s.dataPath()); err == nil {
		err = rerr
	}
	return err
}

// Exclusive runs f while no other process changes the network's leases.
func (s *Store) Exclusive(f func() error) error {
	held, err := s.lock()
	if err != nil {
		return err
	}
	defer held.unlock()
	return f()
}

const tempPrefix = ".new-"

func keyOf(att Attachment) string {
	sum := digest.Of(att.ContainerID + "\x00" + att.IfName)
	return hex.EncodeToString(sum[:16])
}

func (s *Store) leasePath(att Attachment) string { return s.boot + "/" + leasesDir + "/" + keyOf(att) }

func (s *Store) tempPath() string { return s.boot + "/" + leasesDir + "/" + tempPrefix + "lease" }

// dataPath is where SetData writes: what a process leaves there has no addresses to free.
func (s *Store) dataPath() string { return s.boot + "/" + leasesDir + "/" + tempPrefix + "data" }

func (s *Store) addrPath(a netip.Addr) string { return s.boot + "/" + addrsDir + "/" + a.String() }

// cursor is the address of a set that was given last; zero when that is not known.
func (s *Store) cursor(held grip, set int) netip.Addr {
	b := held.cursor(set)
	if b == nil { // an older plugin had a file for each
		b, _, _ = readFile(filepath.Join(s.network, fmt.Sprintf("next.%d", set)))
	}
	a, _ := netip.ParseAddr(strings.TrimRight(string(b), " "))
	return a
}

func (s *Store) free(a netip.Addr) (bool, error) {
	for _, p := range []string{s.addrPath(a), s.foreignPath(a)} {
		there, err := exists(p)
		if err != nil {
			return false, fmt.Errorf("look up address %s: %w", a, err)
		}
		if there {
			return false, nil
		}
	}
	return true, nil
}

func (s *Store) holder(a netip.Addr) string {
	l, ok, err := readLease(s.addrPath(a))
	if err != nil || !ok {
		return "an unknown container"
	}
	return fmt.Sprintf("container %s %s", l.ContainerID, l.IfName)
}

// lock makes the folders of this boot, drops those of others, and holds the network's lock until unlock.
func (s *Store) lock() (grip, error) {
	held, err := take(s.network + "/" + lockName)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(s.network, 0o700); err != nil {
			return grip{}, fmt.Errorf("make IPAM folder: %w", err)
		}
		held, err = take(s.network + "/" + lockName)
	}
	if err != nil {
		return grip{}, err
	}
	if there, terr := exists(s.boot + "/" + notesDir); !there || terr != nil {
		err = s.begin()
	} else if there, terr := exists(s.tempPath()); there && terr == nil {
		err = s.finish()
	}
	if err != nil {
		held.unlock()
		return grip{}, err
	}
	return held, nil
}

// begin makes this boot's folders, after those of earlier boots are gone.
func (s *Store) begin() error {
	entries, err := os.ReadDir(s.network)
	if err != nil {
		return fmt.Errorf("read IPAM folder: %w", err)
	}
	for _, e := range entries {
		if p := filepath.Join(s.network, e.Name()); e.IsDir() && p != s.boot {
			if err := os.RemoveAll(p); err != nil {
				return fmt.Errorf("drop leases of an earlier boot: %w", err)
			}
		}
	}
	for _, d := range []string{leasesDir, addrsDir, notesDir} { // the last says that all are there
		if err := os.MkdirAll(filepath.Join(s.boot, d), 0o700); err != nil {
			return fmt.Errorf("make IPAM folder: %w", err)
		}
	}
	return nil
}

// writeTemp writes a lease under the name that none is looked up by. It needs the lock.
func (s *Store) writeTemp(l Lease) error {
	if err := writeFile(s.tempPath(), l.encode()); err != nil {
		return fmt.Errorf("write lease: %w", errors.Join(err, s.finish()))
	}
	return nil
}

// release needs the lock.
func (s *Store) release(key string) error {
	err := rename(filepath.Join(s.boot, leasesDir, key), s.tempPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("give up lease: %w", err)
	}
	return s.finish()
}

// finish frees what the lease has that is being made or given up, and then it is no more. It needs the lock.
func (s *Store) finish() error {
	path := s.tempPath()
	lease, ok, err := readLease(path)
	if errors.Is(err, ErrTorn) {
		err = s.freeSame(path)
	} else if ok && err == nil {
		err = s.freeNamed(lease)
	}
	if err != nil {
		return err
	}
	for _, p := range []string{path, s.dataPath()} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove lease: %w", err)
		}
	}
	return nil
}

func (s *Store) freeNamed(lease Lease) error {
	for _, a := range lease.Addrs {
		holder, taken, err := readLease(s.addrPath(a))
		// A process that died before it took the address leaves a lease that names it; by now it may be another's.
		if err == nil && (!taken || holder.Attachment != lease.Attachment) {
			continue
		}
		if err == nil || errors.Is(err, ErrTorn) {
			err = os.Remove(s.addrPath(a))
		}
		if err != nil {
			return fmt.Errorf("give back address %s: %w", a, err)
		}
	}
	return nil
}

// freeSame frees the addresses of a lease that cannot be read: they are the same file.
func (s *Store) freeSame(path string) error {
	lease, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("look up lease: %w", err)
	}
	entries, err := os.ReadDir(filepath.Join(s.boot, addrsDir))
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && os.SameFile(info, lease) {
			err = os.Remove(filepath.Join(s.boot, addrsDir, e.Name()))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("give back address %s: %w", e.Name(), err)
		}
	}
	return nil
}

func readLease(path string) (Lease, bool, error) {
	b, written, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Lease{}, false, nil
	}
	if err != nil {
		return Lease{}, false, fmt.Errorf("read lease: %w", err)
	}
	l, err := decode(b)
	l.key, l.Written = filepath.Base(path), written
	if err != nil {
		return l, true, fmt.Errorf("lease %s: %w: %w", path, ErrTorn, err)
	}
	return l, true, nil
}

func decode(b []byte) (Lease, error) {
	l, ok := plainLease(b)
	var err error
	if !ok {
		l = Lease{}
		err = json.Unmarshal(b, &l)
	}
	if err == nil && (l.ContainerID == "" || l.IfName == "" || slices.ContainsFunc(l.Addrs, func(a netip.Addr) bool { return !a.IsValid() })) {
		err = errors.New("names no attachment, or no valid address")
	}
	if err != nil {
		return Lease{Torn: true}, err
	}
	return l, nil
}

// plainLease reads what encode writes, unless it is odd.
func plainLease(b []byte) (l Lease, ok bool) {
	members, ok := jsonparts.Members(b)
	for _, m := range members {
		plain := true
		switch m.Name {
		case "containerID":
			l.ContainerID, plain = jsonparts.Text(m.Value)
		case "ifname":
			l.IfName, plain = jsonparts.Text(m.Value)
		case "addrs":
			l.Addrs, plain = plainAddrs(m.Value)
		case "data":
			l.Data = slices.Clone(m.Value)
		default:
			plain = false
		}
		ok = ok && plain
	}
	return l, ok
}

func plainAddrs(b []byte) ([]netip.Addr, bool) {
	texts, ok := jsonparts.Texts(b)
	addrs := make([]netip.Addr, len(texts))
	for i, text := range texts {
		a, err := netip.ParseAddr(text)
		addrs[i], ok = a, ok && err == nil
	}
	return addrs, ok
}

// encode gives what json.Marshal would, without that.
func (l Lease) encode() []byte {
	b := jsonparts.AppendText([]byte(`{"containerID":`), l.ContainerID)
	b = jsonparts.AppendText(append(b, `,"ifname":`...), l.IfName)
	if l.Addrs == nil {
		b = append(b, `,"addrs":null`...)
	} else {
		texts := make([]string, 0, len(l.Addrs))
		for _, a := range l.Addrs {
			texts = append(texts, a.String())
		}
		b = jsonparts.AppendTexts(append(b, `,"addrs":`...), texts)
	}
	if len(l.Data) > 0 {
		b = append(append(b, `,"data":`...), l.Data...)
	}
	return append(b, '}')
}
