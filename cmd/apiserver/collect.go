package apiserver

import (
	"time"

	"github.com/orlop-io/orlop/cmd/memory"
)

// collection says when garbage is collected on a machine with so many bytes of memory. An API server's heap is mostly caches
// that stay: half of Go's default growth saves a third of the memory of a calm one, and a busy one, which makes 100 KB of
// garbage with each write, is given a part of the machine.
func collection(machine uint64) memory.Config {
	return memory.Config{Calm: 50, Busy: 100, Room: max(64<<20, min(1<<30, machine/16)), Rate: 16 << 20, After: 12 * time.Second}
}
