package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// localPath is what the helper pods of the provisioner of local paths run, and those that recycle volumes: it makes, removes or empties
// one directory of the node. Each may be cut off anywhere and run again.
func localPath() *cobra.Command {
	var dir string
	cmd := &cobra.Command{Use: "local-path", Short: "Make, remove or empty the directory of a volume", Args: cobra.NoArgs}
	cmd.PersistentFlags().StringVar(&dir, "dir", "/volumes", "folder that all the directories lie in")
	act := func(name, short string, run func(base int, volume string) error) {
		cmd.AddCommand(&cobra.Command{Use: name + " VOLUME", Short: short, Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
			if !volumeName.MatchString(args[0]) {
				return fmt.Errorf("%q is not the name of a volume", args[0])
			}
			base, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("open %s: %w", dir, err)
			}
			defer unix.Close(base)
			if err := run(base, args[0]); err != nil {
				return fmt.Errorf("%s directory %s: %w", name, args[0], err)
			}
			return nil
		}})
	}
	act("make", "Make it, for pods of any user to write into", makeDirectory)
	act("remove", "Remove it with all that it holds", removeDirectory)
	cmd.AddCommand(&cobra.Command{Use: "empty", Short: "Empty the folder that --dir names, for the next claim of its volume", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		if err := emptyDirectory(dir); err != nil {
			return fmt.Errorf("empty volume: %w", err)
		}
		return nil
	}})
	return cmd
}

// volumeName is what a directory may be called: never a path, never a name that begins with a dot.
var volumeName = regexp.MustCompile(`^[a-z0-9][-a-z0-9]{0,252}$`)

// makeDirectory makes name in base, open to all: only pods that the volume is given to get there, as base is closed.
func makeDirectory(base int, name string) (err error) {
	if err := unix.Fchmod(base, 0o700); err != nil {
		return fmt.Errorf("close the folder of all directories: %w", err)
	}
	err = unix.Mkdirat(base, name, 0o777)
	made := err == nil
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	defer func() {
		if err != nil && made {
			err = errors.Join(err, unix.Unlinkat(base, name, unix.AT_REMOVEDIR))
		}
	}()
	fd, err := openBelow(base, name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fchmod(fd, 0o777); err != nil { // whatever the umask is
		return err
	}
	return errors.Join(unix.Fsync(fd), unix.Fsync(base))
}

func removeDirectory(base int, name string) error {
	if err := removeTree(base, name); err != nil {
		return err
	}
	return unix.Fsync(base)
}

// openBelow opens the directory name of parent. It follows no link and enters no other mount.
func openBelow(parent int, name string) (int, error) {
	return unix.Openat2(parent, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
}

// removeTree removes name of parent, and what it holds. What cannot be removed does not keep the rest.
func removeTree(parent int, name string) error {
	fd, err := openBelow(parent, name)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP):
		return gone(unix.Unlinkat(parent, name, 0))
	case errors.Is(err, unix.EXDEV):
		return fmt.Errorf("%s: a file system is mounted there", name)
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	if err := empty(dir); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return gone(unix.Unlinkat(parent, name, unix.AT_REMOVEDIR))
}

// emptyDirectory removes all that is in path, which stays.
func emptyDirectory(path string) error {
	dir, err := os.OpenFile(path, unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := empty(dir); err != nil {
		return err
	}
	return dir.Sync()
}

// empty removes what a directory holds.
func empty(dir *os.File) error {
	for {
		// A directory that changes while it is read may leave out some: it is read anew until it is empty.
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return err
		}
		names, err := dir.Readdirnames(1000)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := removeAll(int(dir.Fd()), names); err != nil {
			return err
		}
	}
}

func removeAll(dir int, names []string) error {
	var first error
	for _, n := range names {
		err := unix.Unlinkat(dir, n, 0)
		if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
			err = removeTree(dir, n)
		} else if err = gone(err); err != nil {
			err = fmt.Errorf("%s: %w", n, err)
		}
		if first == nil {
			first = err
		}
	}
	return first
}

func gone(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
