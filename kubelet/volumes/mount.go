package volumes

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// mountsBelow lists the mount points at and below dir, the one to unmount first at the front.
func mountsBelow(dir string) ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return nil, fmt.Errorf("list mounts below %s: %w", dir, err)
	}
	out := make([]string, 0, len(mounts))
	for _, m := range mounts {
		out = append(out, m.Mountpoint)
	}
	slices.SortStableFunc(out, func(a, b string) int {
		return -cmp.Compare(strings.Count(a, "/"), strings.Count(b, "/"))
	})
	return out, nil
}

// ensureTmpfs makes dir a file system in memory, of at most size bytes if size is not zero.
func ensureTmpfs(dir string, size int64) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("make volume directory: %w", err)
	}
	mounted, err := mountinfo.Mounted(dir)
	if err != nil {
		return fmt.Errorf("check mount of %s: %w", dir, err)
	}
	if mounted {
		return nil
	}
	options := "mode=0777"
	if size > 0 {
		options += fmt.Sprintf(",size=%d", size)
	}
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		return fmt.Errorf("ask the kernel's version: %w", err)
	}
	err = unix.EINVAL
	if knowsNoswap(unix.ByteSliceToString(host.Release[:])) { // secrets must not reach a disk by way of swap
		err = unix.Mount("tmpfs", dir, "tmpfs", 0, options+",noswap")
	}
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("tmpfs", dir, "tmpfs", 0, options)
	}
	if err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", dir, err)
	}
	return nil
}

// knowsNoswap says whether a kernel has the option: since 6.4. Others refuse the mount, and complain in their log each time.
func knowsNoswap(release string) bool {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > 6 || major == 6 && minor >= 4
}

// unmount takes one mount away. One that is gone is a success.
func unmount(dir string) error {
	err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		// A process of a container that ignored its end may stand in it. Detached, it ends with the process.
		err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

// removeTree unmounts everything at and below dir and removes dir. It removes nothing while anything is still mounted
// there, because the removal would go through the mount and take what is behind it.
func removeTree(dir string) error {
	for range 16 { // mounts can be stacked
		mounts, err := mountsBelow(dir)
		if err != nil {
			return err
		}
		if len(mounts) == 0 {
			if err := os.RemoveAll(dir); err != nil {
				return fmt.Errorf("remove volumes: %w", err)
			}
			return nil
		}
		var errs []error
		for _, m := range mounts {
			errs = append(errs, unmount(m))
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return fmt.Errorf("remove %s: still mounted", dir)
}

// realPath resolves links in the part of a path that belongs to the node's administrator, for the kernel lists mounts
// by their real paths.
func realPath(dir string) (string, error) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", dir, err)
	}
	return real, nil
}
