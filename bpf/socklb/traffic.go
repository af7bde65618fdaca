package socklb

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// Traffic is what became of a service's clients on this node.
type Traffic struct {
	Connections uint64 // led to an endpoint: of UDP, by a socket that connects or a flow that begins
	Failures    uint64 // led to none: refused or dropped
	PacketsIn   uint64 // translated, to endpoints; those of sockets are not seen
	BytesIn     uint64
	PacketsOut  uint64 // translated, from endpoints
	BytesOut    uint64
}

// Traffic returns that of each service that somebody has asked for, since its maps were made.
func (l *LB) Traffic() (map[uint32]Traffic, error) {
	out := map[uint32]Traffic{}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count processors: %w", err)
	}
	perCPU := make([]objectTraffic, cpus)
	var service uint32
	it := l.objs.Traffics.Iterate()
	for it.Next(&service, &perCPU) {
		var t Traffic
		for _, c := range perCPU {
			t.Connections += c.Connections
			t.Failures += c.Failures
			t.PacketsIn += c.PacketsIn
			t.BytesIn += c.BytesIn
			t.PacketsOut += c.PacketsOut
			t.BytesOut += c.BytesOut
		}
		out[service] = t
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("list traffic: %w", err)
	}
	l.counted.Store(uint32(len(out)))
	return out, nil
}

// DeleteTraffic forgets that of a service which is gone. One that is not there is no error.
func (l *LB) DeleteTraffic(service uint32) error {
	if err := gone(l.objs.Traffics.Delete(service)); err != nil {
		return fmt.Errorf("delete traffic of service %d: %w", service, err)
	}
	return nil
}
