package ipam

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// readFile and writeFile are those of package os without what it does for files that could block: eight system calls each, in a program
// that lives for three milliseconds. Lease files fit into one read and one write.

// largest is more than a lease with all the ports of a node takes, in bytes.
const largest = 64 << 20

func readFile(path string) ([]byte, time.Time, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, time.Time{}, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, time.Time{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Size > largest {
		return nil, time.Unix(st.Mtim.Unix()), nil // torn, as an empty one is
	}
	b := make([]byte, st.Size)
	n, err := unix.Read(fd, b)
	if err != nil {
		return nil, time.Time{}, &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return b[:n], time.Unix(st.Mtim.Unix()), nil
}

func writeFile(path string, b []byte) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC|unix.O_TRUNC, 0o600)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	n, err := unix.Write(fd, b)
	if err == nil && n < len(b) {
		err = unix.ENOSPC
	}
	if err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

func exists(path string) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(unix.AT_FDCWD, path, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return true, nil
}

// listFiles gives names in a folder and when they were written, in no order.
func listFiles(dir string) ([]Note, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	var names []string
	for buf := make([]byte, 4<<10); ; {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil {
			return nil, &fs.PathError{Op: "readdirent", Path: dir, Err: err}
		}
		if n == 0 {
			break
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
	var out []Note
	for _, name := range names {
		var st unix.Stat_t
		if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil { // else it has gone meanwhile
			out = append(out, Note{name, time.Unix(st.Mtim.Unix())})
		}
	}
	return out, nil
}

// rename is that of package os without its look at what is there: files take the place of files.
func rename(from, to string) error {
	if err := unix.Renameat(unix.AT_FDCWD, from, unix.AT_FDCWD, to); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// grip is a hold on the lock of a network, whose file keeps for each set the address that was given last. It is outside the boot's folder: after a
// reboot, too, those addresses come last.
type grip struct{ fd int }

// take waits until nobody else holds the lock.
func take(path string) (grip, error) {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return grip{}, fmt.Errorf("open IPAM lock: %w", &fs.PathError{Op: "open", Path: path, Err: err})
	}
	for {
		if err = unix.Flock(fd, unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		unix.Close(fd)
		return grip{}, fmt.Errorf("lock %s: %w", path, err)
	}
	return grip{fd}, nil
}

func (g grip) unlock() { unix.Close(g.fd) }

// cursorSize has room for any address: what is written over an older one leaves nothing of it.
const cursorSize = 40

// cursor is what setCursor wrote; nil when it has not yet.
func (g grip) cursor(set int) []byte {
	b := make([]byte, cursorSize)
	if n, err := unix.Pread(g.fd, b, int64(set*cursorSize)); err != nil || n < cursorSize {
		return nil
	}
	return b
}

// setCursor leaves a hint where to look next: a torn or lost one costs a few more lookups. It is written in place, for that does not wait for the
// disk, as ext4 does when a file is closed that was emptied: a tenth of a millisecond.
func (g grip) setCursor(set int, a netip.Addr) {
	_, _ = unix.Pwrite(g.fd, fmt.Appendf(nil, "%-*s", cursorSize, a), int64(set*cursorSize))
}
