package proxy

import (
	"slices"
	"time"
)

// Sync is one synchronisation of the backend.
type Sync struct {
	Took   time.Duration
	Waited time.Duration // of its oldest change, before it; 0 where nothing had changed
	Whole  bool          // the first that the backend has taken: it put all in force
	Err    error
	// Triggered is when what it puts in force for the first time had happened, as EndpointSlices tell it (their annotation last-change-trigger-time).
	Triggered []time.Time
}

// Changes is what has been seen of services and endpoints.
type Changes struct {
	Services, Slices               uint64    // changes of Services and EndpointSlices
	PendingServices, PendingSlices int       // those of them that are not in force
	Queued                         time.Time // when the last one was seen; zero: never
	// Lonely are services of which other nodes have endpoints and this one, by their internal or external traffic policy Local, leads clients to none.
	LonelyInside, LonelyOutside int
}

// pending is changes that are not in force.
type pending struct {
	services, slices int
	since            time.Time // when the first was seen
	triggered        []time.Time
}

// with adds what was given up to try again.
func (p pending) with(earlier pending) pending {
	p.services += earlier.services
	p.slices += earlier.slices
	if !earlier.since.IsZero() {
		p.since = earlier.since
	}
	p.triggered = append(earlier.triggered, p.triggered...)
	return p
}

// Changes may be called at any time.
func (p *Proxy) Changes() Changes {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.seen
	c.PendingServices, c.PendingSlices = p.pending.services, p.pending.slices
	for _, l := range p.lonely {
		if l.inside {
			c.LonelyInside++
		}
		if l.outside {
			c.LonelyOutside++
		}
	}
	return c
}

// Behind says for how long the oldest change waits that is not in force; 0: all are. It may be called at any time.
func (p *Proxy) Behind(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	since := p.pending.since
	if !p.taken.IsZero() {
		since = p.taken
	}
	if since.IsZero() {
		return 0
	}
	return now.Sub(since)
}

// triggerLocked notes when a change of endpoints had happened, if the slice says so for the first time since this process began.
func (p *Proxy) triggerLocked(key string, at time.Time) {
	if !at.After(p.began) {
		return
	}
	if r := p.owner[key]; r != nil {
		i, _ := r.find(key)
		if _, before := r.slices[i].slice.service(); before.Equal(at) {
			return
		}
	}
	p.pending.triggered = append(p.pending.triggered, at)
}

// lonely is by which of a service's policies clients of this node are led to none of the endpoints that there are.
type lonely struct{ inside, outside bool }

func lonelyOf(svc Service, list []Slice) lonely {
	if !svc.InternalLocal && !svc.ExternalLocal {
		return lonely{}
	}
	for _, port := range svc.Ports {
		for _, v4 := range []bool{true, false} {
			all := endpoints(list, port, v4)
			if len(all.usable()) > 0 && len(all.local()) == 0 {
				outer := svc.ExternalLocal && (port.NodePort != 0 || slices.Concat(svc.LoadBalancerIPs, svc.ExternalIPs) != nil)
				return lonely{svc.InternalLocal, outer}
			}
		}
	}
	return lonely{}
}
