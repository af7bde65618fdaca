// Package memory keeps a program small while it is calm, and lets it be fast while it is busy: it sets how much the heap may
// grow before garbage is collected, which is often in the one and seldom in the other, and gives back what busy times, or the
// start, needed and calm does not. That concerns the whole process, so there is one Pace in a program.
package memory

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine is how many bytes of memory the machine has, 0 if it does not say.
func Machine() uint64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return uint64(info.Totalram) * uint64(info.Unit)
}

// releaseProgram lets go of the pages of the program's file that are mapped: its start reads most of them, as it
// initializes every part of a program that has five, and what follows needs few, which come back when they are used.
func releaseProgram() error {
	file, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find the program: %w", err)
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("read mappings: %w", err)
	}
	defer maps.Close()
	var errs []error
	for _, m := range readOnly(maps, file) {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED); errno != 0 {
			errs = append(errs, fmt.Errorf("release %x: %w", m.start, errno))
		}
	}
	return errors.Join(errs...)
}

type mapping struct{ start, end uintptr }

// readOnly lists the mappings of file that nobody can have written to: only those read the same again.
func readOnly(maps io.Reader, file string) (all []mapping) {
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 6 || f[5] != file || strings.Contains(f[1], "w") {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err1 == nil && err2 == nil {
			all = append(all, mapping{uintptr(start), uintptr(end)})
		}
	}
	return all
}
