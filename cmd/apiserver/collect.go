package apiserver

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/cmd/memory"
)

// collection says when garbage is collected on a machine with so many bytes of memory. An API server's heap is mostly caches
// that stay: half of Go's default growth saves a third of the memory of a calm one, and a busy one, which makes 100 KB of
// garbage with each write, is given a part of the machine.
func collection(machine uint64) memory.Config {
	return memory.Config{Calm: 50, Busy: 100, Room: max(64<<20, min(512<<20, machine/16)), Rate: 16 << 20, After: 12 * time.Second}
}

// machineMemory is what the machine has, 0 if it does not say.
func machineMemory() uint64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return uint64(info.Totalram) * uint64(info.Unit)
}
