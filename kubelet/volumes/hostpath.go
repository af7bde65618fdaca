package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
)

// checkHostPath makes sure that path is what the pod says it must be, and makes it where the pod says so.
func checkHostPath(path string, kind v1.HostPathType) error {
	switch kind {
	case v1.HostPathUnset:
		return nil
	case v1.HostPathDirectoryOrCreate:
		if err := os.MkdirAll(path, 0o755); err != nil {
			return fmt.Errorf("make host directory: %w", err)
		}
	case v1.HostPathFileOrCreate:
		if err := makeFile(path); err != nil {
			return err
		}
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		info = nil
	} else if err != nil {
		return fmt.Errorf("hostPath type check failed: %w", err)
	}
	if what := mismatch(info, kind); what != "" {
		return fmt.Errorf("hostPath type check failed: %s is not %s", path, what)
	}
	return nil
}

// makeFile makes an empty file, but no directories above it: a wrong path should be noticed.
func makeFile(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		if info, statErr := os.Stat(filepath.Clean(path)); statErr == nil && info.IsDir() {
			return nil // the check after this says so in its own words
		}
		return fmt.Errorf("make host file: %w", err)
	}
	return f.Close()
}

// mismatch names what a path should have been but is not. info is nil if there is nothing at the path.
func mismatch(info fs.FileInfo, kind v1.HostPathType) string {
	var mode fs.FileMode
	if info != nil {
		mode = info.Mode()
	}
	var ok bool
	var what string
	switch kind {
	case v1.HostPathDirectory, v1.HostPathDirectoryOrCreate:
		ok, what = mode.IsDir(), "a directory"
	case v1.HostPathFile, v1.HostPathFileOrCreate:
		ok, what = mode.IsRegular(), "a file"
	case v1.HostPathSocket:
		ok, what = mode&fs.ModeSocket != 0, "a socket file"
	case v1.HostPathCharDev:
		ok, what = mode&fs.ModeCharDevice != 0, "a character device"
	case v1.HostPathBlockDev:
		ok, what = mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0, "a block device"
	default:
		return fmt.Sprintf("of a known type: %q", kind)
	}
	if ok && info != nil {
		return ""
	}
	return what
}
