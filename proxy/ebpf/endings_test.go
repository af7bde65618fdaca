package ebpf

import (
	"net/netip"
	"testing"
	"time"

	"github.com/orlop-io/orlop/bpf/socklb"
)

func TestWhatBecomesOfFormerBackends(t *testing.T) {
	at, now := netip.MustParseAddrPort("10.1.0.1:80"), time.Unix(1e9, 0)
	before := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, tt := range []struct {
		name      string
		was       former
		tcp, kept bool
		want      former
		over      bool
	}{
		{"TCP, it ends", former{at, socklb.Chosen, time.Time{}}, true, true, former{at, socklb.Leaving, time.Time{}}, false},
		{"TCP, it is in no slice", former{at, socklb.Leaving, time.Time{}}, true, false, former{at, socklb.Leaving, now}, false},
		{"TCP, it is back in a slice", former{at, socklb.Leaving, before(time.Second)}, true, true, former{at, socklb.Leaving, time.Time{}}, false},
		{"TCP, in no slice for a moment", former{at, socklb.Leaving, before(doubt - 1)}, true, false, former{at, socklb.Leaving, before(doubt - 1)}, false},
		{"TCP, in no slice for long", former{at, socklb.Leaving, before(doubt)}, true, false, former{at, socklb.Gone, before(doubt)}, false},
		{"TCP, gone and back", former{at, socklb.Gone, before(time.Minute)}, true, true, former{at, socklb.Leaving, time.Time{}}, false},
		{"TCP, gone for very long", former{at, socklb.Gone, before(ending)}, true, false, former{at, socklb.Gone, before(ending)}, true},
		{"UDP, it is ready and far", former{at, socklb.Chosen, time.Time{}}, false, true, former{at, socklb.Leaving, time.Time{}}, false},
		{"UDP, it ends", former{at, socklb.Chosen, time.Time{}}, false, false, former{at, socklb.Chosen, time.Time{}}, true},
	} {
		if got, over := tt.was.step(tt.tcp, tt.kept, ending, now); got != tt.want || over != tt.over {
			t.Errorf("%s: %+v, over %v; want %+v, over %v", tt.name, got, over, tt.want, tt.over)
		}
	}
}
