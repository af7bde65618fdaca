package volumes

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// SubPath gives the path on the node that a container mounts for a part of a volume. subPath is what the pod says,
// variables filled in. What is not there is made as a directory.
//
// The containers of the pod can change the volume at any time, and may put links in it that lead out. So the part is
// looked up by the kernel in one step that cannot leave the volume, and bound to a place that only the kubelet reaches;
// that place is returned. Call it for each start of a container: the part may have been replaced since.
func (v *Volumes) SubPath(pod *v1.Pod, vol Mount, subPath string) (string, error) {
	path, err := v.subPath(pod, vol, subPath)
	if err != nil {
		return "", fmt.Errorf("failed to prepare subPath for volumeMount %q: %w", vol.Name, err)
	}
	return path, nil
}

func (v *Volumes) subPath(pod *v1.Pod, vol Mount, subPath string) (string, error) {
	if filepath.IsAbs(subPath) {
		return "", fmt.Errorf("subPath %q must not be an absolute path", subPath)
	}
	if slices.Contains(strings.Split(subPath, "/"), "..") {
		return "", fmt.Errorf("subPath %q must not contain '..'", subPath)
	}
	base, err := unix.Open(vol.HostPath, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open volume %s: %w", vol.HostPath, err)
	}
	defer unix.Close(base)
	part, err := openBeneath(base, filepath.Clean(subPath))
	if err != nil {
		return "", err
	}
	defer unix.Close(part)
	root, err := realPath(v.cfg.PodsDir)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(filepath.Clean(subPath)))
	target := filepath.Join(root, string(pod.UID), "volume-subpaths", vol.Name, hex.EncodeToString(sum[:8]))
	return target, bindTo(part, target)
}

// openBeneath opens path below base, and makes what is missing of it.
func openBeneath(base int, path string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	}
	open := func(p string) (int, error) {
		for {
			fd, err := unix.Openat2(base, p, &how)
			// EAGAIN: something was renamed during the walk, and the kernel could not tell whether it stayed within.
			if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
				return fd, err
			}
		}
	}
	fd, err := open(path)
	if !errors.Is(err, unix.ENOENT) {
		return fd, explain(path, err)
	}
	if err := makeBeneath(base, path, open); err != nil {
		return -1, err
	}
	fd, err = open(path)
	return fd, explain(path, err)
}

func explain(path string, err error) error {
	if errors.Is(err, unix.EXDEV) {
		return fmt.Errorf("subPath %q leads out of the volume", path)
	}
	if err != nil {
		return fmt.Errorf("open subPath %q: %w", path, err)
	}
	return nil
}

// makeBeneath makes the missing directories of path, each in a parent that was opened without leaving base. They get the
// mode of the volume's own directory.
func makeBeneath(base int, path string, open func(string) (int, error)) error {
	var st unix.Stat_t
	if err := unix.Fstat(base, &st); err != nil {
		return fmt.Errorf("look at volume: %w", err)
	}
	parts := strings.Split(path, "/")
	for i := range parts {
		parent, err := open(filepath.Join(append([]string{"."}, parts[:i]...)...))
		if err != nil {
			return explain(filepath.Join(parts[:i]...), err)
		}
		err = makeIn(parent, parts[i], st.Mode&0o7777)
		unix.Close(parent)
		if err != nil {
			return fmt.Errorf("make subPath %q: %w", path, err)
		}
	}
	return nil
}

func makeIn(parent int, name string, mode uint32) error {
	err := unix.Mkdirat(parent, name, mode)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return err
	}
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fchmod(fd, mode) // the umask took part in Mkdirat
}

// bindTo makes target show the file or directory that fd holds open.
func bindTo(fd int, target string) error {
	var want, have unix.Stat_t
	if err := unix.Fstat(fd, &want); err != nil {
		return fmt.Errorf("look at subPath: %w", err)
	}
	dir := want.Mode&unix.S_IFMT == unix.S_IFDIR
	if err := unix.Lstat(target, &have); err == nil {
		if have.Dev == want.Dev && have.Ino == want.Ino {
			return nil
		}
		// The part was replaced, or the kubelet died after making the place. Containers that run keep what they have.
		if err := removeTree(target); err != nil {
			return err
		}
	}
	if err := makeTarget(target, dir); err != nil {
		return fmt.Errorf("make place for subPath: %w", err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind subPath to %s: %w", target, err)
	}
	return nil
}

func makeTarget(target string, dir bool) error {
	if dir {
		return os.MkdirAll(target, 0o750)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o640)
	if err != nil {
		return err
	}
	return f.Close()
}
