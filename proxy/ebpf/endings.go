package ebpf

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/orlop-io/orlop/bpf/socklb"
	"github.com/orlop-io/orlop/proxy"
)

// How long connections of TCP to an endpoint that is in no slice any more are left alone, as one may be missing while it moves from slice to slice, and
// for how long after that they are ended.
const (
	doubt  = 2 * time.Second
	ending = 10 * time.Minute
	// throng is how many endpoints that are gone may be remembered so long; past it they are forgotten early, oldest or not.
	throng = 16384
	early  = 10 * time.Second
)

// looks is how often sockets are looked through after a change, a second apart: a program that read the service before it may write what its socket chose after it.
const looks = 3

// former is an endpoint that was a group's backend and is something else now.
type former struct {
	at    netip.AddrPort
	state socklb.MemberState // as it is in the maps
	since time.Time          // when it was first in no slice; zero: it is in one
}

// step says what becomes of a former backend: another state, or nothing at all.
func (f former) step(tcp, kept bool, lasts time.Duration, now time.Time) (_ former, over bool) {
	switch {
	case kept:
		return former{at: f.at, state: socklb.Leaving}, false
	case !tcp: // its sockets are ended at once, and there is nothing to reset
		return f, true
	case f.since.IsZero():
		return former{f.at, socklb.Leaving, now}, false
	case now.Sub(f.since) >= lasts:
		return f, true
	case now.Sub(f.since) >= doubt:
		f.state = socklb.Gone
	}
	return f, false
}

// EndSockets has end called after backends went, from Sweep: it ends the sockets that are connected to them.
func (b *Backend) EndSockets(end func() error) { b.end = end }

// depose makes backends that the group does not have any more its former ones. The maps are behind until age.
func (b *Backend) depose(l *live, before, now []socklb.Backend) {
	for _, old := range before {
		if old.IsValid() && !has(now, old.AddrPort) && !slices.ContainsFunc(l.former, func(f former) bool { return f.at == old.AddrPort }) {
			l.former = append(l.former, former{at: old.AddrPort, state: socklb.Chosen})
		}
	}
	l.former = slices.DeleteFunc(l.former, func(f former) bool {
		if !has(now, f.at) {
			return false
		}
		b.count(f, -1)
		return true
	})
}

// age brings the former backends of a group up to date, and notes whether there is more to come.
func (b *Backend) age(l *live, now time.Time) error {
	lasts := ending
	if b.gone > throng {
		lasts = early
	}
	var errs []error
	var left []former
	for _, f := range l.former {
		_, kept := slices.BinarySearchFunc(l.kept, f.at, netip.AddrPort.Compare)
		next, over := f.step(l.tcp, kept, lasts, now)
		var err error
		switch {
		case over:
			err = b.lb.DeleteMember(l.entry.Service, f.at)
		case next.state != f.state:
			err = b.lb.PutMember(l.entry.Service, f.at, next.state)
		}
		if err != nil {
			errs = append(errs, err)
			left = append(left, f)
			continue
		}
		b.count(f, -1)
		if !over {
			b.count(next, 1)
			left = append(left, next)
		}
		if (over && !l.tcp) || (next.state == socklb.Gone && f.state != socklb.Gone) {
			b.looks = looks
		}
	}
	l.former = left
	delete(b.parting, l)
	if slices.ContainsFunc(left, func(f former) bool { return !f.since.IsZero() }) {
		b.parting[l] = true
	}
	return errors.Join(errs...)
}

func (b *Backend) count(f former, n int) {
	if f.state == socklb.Gone {
		b.gone += n
	}
}

// depart deletes all members of a group that goes. What was connected by TCP stays so.
func (b *Backend) depart(l *live) error {
	for _, m := range b.holds(l) {
		if !m.IsValid() {
			continue
		}
		if err := b.lb.DeleteMember(l.entry.Service, m.AddrPort); err != nil {
			return err
		}
	}
	for _, f := range l.former {
		if err := b.lb.DeleteMember(l.entry.Service, f.at); err != nil {
			return err
		}
		b.count(f, -1)
	}
	l.former = nil
	delete(b.parting, l)
	b.looks = looks
	return nil
}

// sweepEndings moves on what waits, and ends sockets; more says that there is something to wait for that clients would notice.
func (b *Backend) sweepEndings(now time.Time) (more bool, err error) {
	var errs []error
	for l := range b.parting {
		errs = append(errs, b.age(l, now))
		more = more || slices.ContainsFunc(l.former, func(f former) bool { return !f.since.IsZero() && f.state != socklb.Gone })
	}
	if b.end == nil || b.looks == 0 {
		return more, errors.Join(errs...)
	}
	if now.Sub(b.looked) >= time.Second || now.Before(b.looked) {
		b.looked = now
		b.looks--
		errs = append(errs, b.end())
	}
	return more || b.looks > 0, errors.Join(errs...)
}

func has(list []socklb.Backend, at netip.AddrPort) bool {
	_, found := slices.BinarySearchFunc(list, at, func(b socklb.Backend, ap netip.AddrPort) int { return b.AddrPort.Compare(ap) })
	return found
}

func isTCP(g *proxy.Group) bool { return len(g.Frontends) > 0 && g.Frontends[0].Protocol == proxy.TCP }
