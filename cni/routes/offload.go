package routes

import (
	"context"
	"net/netip"
	"time"
)

// target is where a tunnel can be tried: an address of another node that answers over it.
type target struct {
	tunnel string
	addr   netip.Addr
}

// targetsOf lists the first address of each range over a tunnel, which is that of the node's bridge as soon as the node has had a pod.
func targetsOf(s State) (out []target) {
	for _, i := range s {
		if r, ok := i.(Route); ok && r.Tunnel != "" && !r.Inner {
			out = append(out, target{r.Tunnel, r.Dst.Addr().Next()})
		}
	}
	return out
}

// Verdict is what came of a try.
type Verdict struct {
	Offloaded bool // an answer came to a packet whose checksum the device was to work out
	Plain     bool // and to one that needs none from it
}

const (
	// tried is how many nodes a tunnel is tried with at once.
	tried = 3
	// tryAgain is when, if none has answered; the wait doubles up to Resync.
	tryAgain = 3 * time.Second
)

// proveOffload finds out whether checksums of packets in tunnels are right. Some devices and kernels leave those of the packets inside unfinished,
// and the receiver drops them: then the kernel is told to work them out. A tunnel that nobody answers over is tried again later.
func (r *Reconciler) proveOffload(ctx context.Context) error {
	proven, wait := map[string]bool{}, tryAgain
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-again:
			wait = min(2*wait, r.cfg.Resync)
		case <-r.tunnels:
			wait = tryAgain
		}
		again = nil
		tries := map[string]int{}
		for _, t := range *r.targets.Load() {
			if tries[t.tunnel]++; proven[t.tunnel] || tries[t.tunnel] > tried {
				continue
			}
			v := r.kernel.Try(ctx, t.addr)
			if !v.Offloaded && v.Plain { // one may be lost, but not twice in the same way
				v = r.kernel.Try(ctx, t.addr)
			}
			proven[t.tunnel] = v.Offloaded
			if v.Plain && !v.Offloaded {
				if err := r.kernel.TurnOffload(t.tunnel); err != nil {
					r.cfg.Log.Warn("checksums of packets in the tunnel are wrong", "tunnel", t.tunnel, "err", err)
					continue
				}
				proven[t.tunnel] = true
				r.cfg.Log.Warn("turned off checksum offload of the tunnel: the device leaves checksums of packets inside wrong", "tunnel", t.tunnel, "tried with", t.addr)
			}
		}
		for tunnel := range tries {
			if !proven[tunnel] {
				again = time.After(wait)
			}
		}
	}
}
