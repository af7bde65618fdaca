package apiserver

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// When garbage is collected: after the heap grew by so many per cent. An API server's heap is mostly caches that stay, and
// half of Go's default saves a third of the memory. But a busy server would collect several times a second, and spend a third
// of its processor time so: as long as it makes much garbage, the heap may grow by roomBusy before, or by Go's default.
const (
	collectCalm = 50
	collectBusy = 100
	collectMost = 400
	roomBusy    = 192 << 20
	// busyRate, in bytes a second, is much garbage. It fills roomBusy within calmAfter, so that a server that stays busy
	// rarely counts as calm in between.
	busyRate  = 16 << 20
	calmAfter = 12 * time.Second
)

// heapGrowth is after how many per cent of growth garbage is to be collected when so much of the heap is in use and so
// many bytes are allocated a second.
func heapGrowth(live uint64, rate float64) int {
	if rate < busyRate {
		return collectCalm
	}
	return int(max(collectBusy, min(collectMost, roomBusy*100/max(live, 1))))
}

// paceCollector sets when garbage is collected, until ctx ends. When a busy time is over, what it needed of memory goes back
// to the system.
func paceCollector(ctx context.Context) {
	debug.SetGCPercent(collectCalm)
	collected := make(chan struct{}, 1)
	tellCollections(ctx, collected)
	calm := time.NewTimer(calmAfter)
	defer calm.Stop()
	percent, allocated, since := collectCalm, readMetric("/gc/heap/allocs:bytes"), time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-collected:
			now, total := time.Now(), readMetric("/gc/heap/allocs:bytes")
			rate := float64(total-allocated) / max(now.Sub(since).Seconds(), 0.001)
			allocated, since = total, now
			if next := heapGrowth(readMetric("/gc/heap/live:bytes"), rate); rate >= busyRate {
				calm.Reset(calmAfter)
				if next != percent {
					percent = next
					debug.SetGCPercent(percent)
				}
			}
		case <-calm.C:
			if percent != collectCalm {
				percent = collectCalm
				debug.SetGCPercent(percent)
				debug.FreeOSMemory()
			}
		}
	}
}

// sentinel is garbage from its beginning.
type sentinel struct{ self *sentinel }

// tellCollections sends after each collection of garbage, until ctx ends; what is not taken yet is not sent twice.
func tellCollections(ctx context.Context, to chan<- struct{}) {
	runtime.AddCleanup(&sentinel{}, func(struct{}) {
		if ctx.Err() != nil {
			return
		}
		select {
		case to <- struct{}{}:
		default:
		}
		tellCollections(ctx, to)
	}, struct{}{})
}

func readMetric(name string) uint64 {
	sample := []metrics.Sample{{Name: name}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
