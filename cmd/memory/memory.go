// Package memory keeps a program small that mostly waits: it sets how much its heap may grow before garbage is
// collected, and gives back what busy times, or the start, needed and calm does not.
package memory

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A program that mostly waits keeps a small heap, which may grow little before garbage is collected; one that makes
// much garbage lets it grow as Go does otherwise.
const (
	calmGrowth = 40  // per cent
	busyGrowth = 100 // per cent
	// busyRate, in bytes a second, is much garbage.
	busyRate = 4 << 20
	lookRate = 10 * time.Second
)

// pace is how the collector is set, and for how long there has been calm.
type pace struct {
	growth int
	calm   int // looks in a row without much garbage
}

// next decides after a look. release tells that calm has just lasted: what busy times, or the start, needed goes back.
func (p pace) next(rate float64) (to pace, release bool) {
	if rate >= busyRate {
		return pace{growth: busyGrowth}, false
	}
	p.growth = calmGrowth
	p.calm++
	return p, p.calm == 2
}

// Pace sets when garbage is collected until ctx ends.
func Pace(ctx context.Context) {
	p := pace{growth: calmGrowth}
	debug.SetGCPercent(p.growth)
	tick := time.NewTicker(lookRate)
	defer tick.Stop()
	before := allocated()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := allocated()
		to, release := p.next(float64(now-before) / lookRate.Seconds())
		if to.growth != p.growth {
			debug.SetGCPercent(to.growth)
		}
		if release {
			debug.FreeOSMemory()
			// What fails here costs memory and nothing else.
			_ = releaseProgram()
		}
		p, before = to, now
	}
}

func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
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
