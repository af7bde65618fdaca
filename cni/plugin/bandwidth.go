package plugin

import (
	"fmt"
	"math"
)

// bandwidth is the capability's form: rates in bits a second, bursts in bits.
type bandwidth struct {
	IngressRate  uint64
	IngressBurst uint64
	EgressRate   uint64
	EgressBurst  uint64
}

// shape is a token bucket: bytes a second, and bytes at once.
type shape struct{ rate, burst uint64 }

func (b bandwidth) validate() error {
	for _, d := range []struct {
		name        string
		rate, burst uint64
	}{{"ingress", b.IngressRate, b.IngressBurst}, {"egress", b.EgressRate, b.EgressBurst}} {
		if d.rate == 0 && d.burst != 0 {
			return fmt.Errorf("runtimeConfig.bandwidth has %sBurst without %sRate", d.name, d.name)
		}
		if d.rate != 0 && d.rate < 8_000 {
			return fmt.Errorf("runtimeConfig.bandwidth.%sRate %d is in bits a second; fewer than 8000 carry nothing", d.name, d.rate)
		}
	}
	return nil
}

// shapes returns the limits to the container and from it; a rate of 0 is none.
func (b bandwidth) shapes() (in, out shape) {
	return shapeOf(b.IngressRate, b.IngressBurst), shapeOf(b.EgressRate, b.EgressBurst)
}

// shapeOf takes a burst of 2^31-1 bits as none given: that is what Kubernetes' runtimes send with a rate from an annotation, and it
// would let a slow rate through unlimited for minutes. None given is what the rate carries in 100 ms, and 64 KiB at least, which is a
// segment that the stack hands down in one piece.
func shapeOf(rate, burst uint64) shape {
	if rate == 0 {
		return shape{}
	}
	s := shape{rate: rate / 8, burst: burst / 8}
	if burst == 0 || burst == math.MaxInt32 {
		s.burst = s.rate / 10
	}
	s.burst = max(s.burst, 64<<10)
	s.burst = min(s.burst, s.rate*200+64<<10, math.MaxUint32) // the kernel counts it as time, in 64 ns, in 32 bits
	return s
}
