package simulation

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

var (
	seeds = flag.Uint64("seeds", 1000, "how many stories to tell")
	first = flag.Uint64("first", 0, "the seed of the first story")
	keep  = flag.Bool("keep", false, "tell all stories, though some break")
	about = flag.Int("plot", -1, "tell only stories of that plot")
	only  = flag.Int64("seed", -1, "the one story to tell, with all that happens in it")
)

func TestSimulation(t *testing.T) {
	if *only >= 0 {
		synctest.Test(t, func(t *testing.T) {
			s := tell(uint64(*only))
			t.Log("\n" + strings.Join(s.trace, "\n"))
			if s.broken != "" {
				t.Errorf("seed %d: %s", *only, s.broken)
			}
		})
		return
	}
	var next atomic.Uint64
	for _, worker := range []string{"a", "b", "c", "d"} {
		t.Run(worker, func(t *testing.T) {
			t.Parallel()
			for n := next.Add(1) - 1; n < *seeds && (*keep || !t.Failed()); n = next.Add(1) - 1 {
				seed := *first + n
				if *about >= 0 {
					seed = (*first+n)*uint64(len(plots)) + uint64(*about)
				}
				var s *story
				synctest.Test(t, func(*testing.T) { s = tell(seed) })
				if s.broken != "" {
					last := s.trace[max(len(s.trace)-40, 0):]
					t.Errorf("seed %d: %s\n%s\nagain, and whole: go test ./integration/simulation -run TestSimulation -v -seed %d", seed, s.broken, strings.Join(last, "\n"), seed)
				}
			}
		})
	}
}

// A failing seed is of use only if it fails again, so every story must be the same each time it is told.
func TestStoriesRepeat(t *testing.T) {
	times := map[uint64]int{
		645:  60, // one in twelve was another: two patches of one pod waited, and went in the order in which they came
		1685: 20, // pods were collected node by node in the order of a map
	}
	for seed := range uint64(2 * len(plots)) {
		times[seed] = 3
	}
	for _, seed := range slices.Sorted(maps.Keys(times)) {
		var before []string
		for range times[seed] {
			synctest.Test(t, func(t *testing.T) {
				trace := tell(seed).trace
				if before == nil {
					before = trace
				}
				if at := differ(before, trace); at != "" {
					t.Errorf("seed %d: %s", seed, at)
				}
			})
		}
	}
}

// differ says where two traces part.
func differ(a, b []string) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("at %d %q, and before %q, after %q", i, b[i], a[i], a[max(i-5, 0):i])
		}
	}
	if len(a) != len(b) {
		return fmt.Sprintf("%d and %d events", len(a), len(b))
	}
	return ""
}
