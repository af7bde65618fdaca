package memory

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// most is the growth, in per cent, that no room exceeds: what a small heap leaves behind is soon collected.
const most = 800

// Config says how a program uses memory.
type Config struct {
	// Calm is after how many per cent of growth a calm program collects. Little saves memory and costs time.
	Calm int
	// Busy is the same for a busy one whose heap is so large that Room is less.
	Busy int
	// Room, in bytes, is how far the heap of a busy program may grow before it collects.
	Room uint64
	// Rate, in bytes allocated a second, is what makes a program busy.
	Rate float64
	// After is how long a program must allocate less than that to be calm.
	After time.Duration
	// Program lets the pages of the program's file go at the begin of each calm time too.
	Program bool
}

// Waiting is for programs that mostly wait: they keep a small heap, and room, in bytes, while they make much garbage.
func Waiting(room uint64) Config {
	return Config{Calm: 40, Busy: 100, Room: room, Rate: 4 << 20, After: 10 * time.Second, Program: true}
}

// Growth is after how many per cent of growth garbage is to be collected when so many bytes of the heap are in use and so
// many are allocated a second.
func (c Config) Growth(live uint64, rate float64) int {
	if rate < c.Rate {
		return c.Calm
	}
	return int(max(uint64(c.Busy), min(most, c.Room*100/max(live, 1))))
}

// Pace sets when garbage is collected in this process, until ctx ends. A program counts as busy from the first two collections on that
// follow each other fast, and its start as a busy time.
func Pace(ctx context.Context, c Config) {
	debug.SetGCPercent(c.Calm)
	collected := make(chan struct{}, 1)
	tell(ctx, collected)
	look := time.NewTimer(c.After)
	defer look.Stop()
	percent, busy, last := c.Calm, true, now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-collected:
			next := now()
			if next.rate(last) >= c.Rate {
				busy = true
				look.Reset(c.After)
				if growth := c.Growth(read("/gc/heap/live:bytes"), c.Rate); growth != percent {
					percent = growth
					debug.SetGCPercent(percent)
				}
			}
			last = next
		case <-look.C:
			// With much room, a busy program may not have collected for this long.
			next := now()
			if next.rate(last) < c.Rate && busy {
				busy, percent = false, c.Calm
				debug.SetGCPercent(percent)
				debug.FreeOSMemory()
				if c.Program {
					// What fails here costs memory and nothing else.
					_ = releaseProgram()
				}
			}
			last = next
			look.Reset(c.After)
		}
	}
}

// sample is how much has been allocated, and when.
type sample struct {
	bytes uint64
	at    time.Time
}

func now() sample { return sample{read("/gc/heap/allocs:bytes"), time.Now()} }

// rate is how much has been allocated a second since. What comes within a moment, as a collection that Pace itself asked for, is
// counted as if it had taken longer.
func (s sample) rate(past sample) float64 {
	return float64(s.bytes-past.bytes) / max(s.at.Sub(past.at), 50*time.Millisecond).Seconds()
}

// sentinel is garbage from its beginning.
type sentinel struct{ self *sentinel }

// tell sends after each collection of garbage, until ctx ends; what is not taken yet is not sent twice. Who has been told can
// rely on the next collection: that there will be news of it is settled before.
func tell(ctx context.Context, to chan<- struct{}) {
	runtime.AddCleanup(&sentinel{}, func(struct{}) {
		if ctx.Err() != nil {
			return
		}
		tell(ctx, to)
		select {
		case to <- struct{}{}:
		default:
		}
	}, struct{}{})
}

func read(name string) uint64 {
	s := []metrics.Sample{{Name: name}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
