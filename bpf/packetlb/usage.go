package packetlb

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/bpf/socklb"
)

// How long after its last packet a flow is over, in seconds, as programs have it.
const (
	idleTCP    = 86400
	idleUDP    = 180
	idleClosed = 10
)

// Usage says how full the map of flows is: of those that are not over, because others make room. It reads the whole map, some 0.3 µs a flow.
func (l *LB) Usage() (socklb.Usage, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return socklb.Usage{}, fmt.Errorf("ask for the time since boot: %w", err)
	}
	m := l.objs.Flows
	u := socklb.Usage{Map: objectMapFlows, Capacity: m.MaxEntries(), Limit: m.MaxEntries()}
	n := min(4096, int(m.MaxEntries()))
	keys, flows := make([]objectTuple, n), make([]objectFlow, n)
	var at ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&at, keys, flows, nil)
		end := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !end {
			return socklb.Usage{}, fmt.Errorf("count flows: %w", err)
		}
		for i := range n {
			if !over(keys[i].Proto, &flows[i], time.Duration(now.Nano())) {
				u.Entries++
			}
		}
		if end {
			return u, nil
		}
	}
}

func over(proto uint8, f *objectFlow, now time.Duration) bool {
	idle := int64(now/time.Second) - int64(f.Seen)
	switch {
	case proto == unix.IPPROTO_UDP:
		return idle > idleUDP
	case f.Flags&uint8(objectFlowFlagFLOW_CLOSING) != 0:
		return idle > idleClosed
	default:
		return idle > idleTCP
	}
}
