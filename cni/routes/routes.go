// Package routes keeps the node's routes to the pods of other nodes.
//
// It owns the routes it tagged with its own protocol number and metric and touches no others. Every other node must share a link
// with this one; a next hop behind a router is refused by the kernel, and there is no overlay yet.
package routes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"
)

// Table maps the pods of a node to the node's address.
type Table map[netip.Prefix]netip.Addr

// Action is one change to the kernel's table. A Via that is not valid removes the route.
type Action struct {
	Dst netip.Prefix
	Via netip.Addr
	Why string
}

func (a Action) String() string {
	if !a.Via.IsValid() {
		return fmt.Sprintf("delete route to %s: %s", a.Dst, a.Why)
	}
	return fmt.Sprintf("route %s via %s: %s", a.Dst, a.Via, a.Why)
}

// Plan lists what turns actual into desired. Equal inputs give equal output.
func Plan(desired, actual Table) []Action {
	var add, del []Action
	for dst, via := range desired {
		if actual[dst] != via {
			add = append(add, Action{dst, via, "node has these pods"})
		}
	}
	for dst := range actual {
		if _, ok := desired[dst]; !ok {
			del = append(del, Action{Dst: dst, Why: "no node has these pods"})
		}
	}
	byDst := func(a, b Action) int { return a.Dst.Compare(b.Dst) }
	slices.SortFunc(add, byDst)
	slices.SortFunc(del, byDst)
	return append(add, del...) // add first: never a moment without a route
}

// kernel is what the reconciler asks of the host.
type kernel interface {
	Routes() (Table, error)
	Apply(Action) error
}

// Config is what New needs.
type Config struct {
	// Desired returns the newest table; false while nodes have not been seen yet, when nothing is changed.
	Desired func() (Table, bool)
	// Resync is how often the kernel is looked at without being poked.
	Resync time.Duration
	Log    *slog.Logger
}

// Reconciler drives the kernel to the newest desired table.
type Reconciler struct {
	cfg    Config
	kernel kernel
	poke   chan struct{}
}

// New checks cfg and returns a Reconciler that has done nothing yet.
func New(cfg Config, k kernel) (*Reconciler, error) {
	if cfg.Desired == nil || cfg.Resync <= 0 || cfg.Log == nil {
		return nil, errors.New("routes: Desired, a positive Resync and Log are needed")
	}
	return &Reconciler{cfg: cfg, kernel: k, poke: make(chan struct{}, 1)}, nil
}

// Poke says that desired may have changed. It never blocks; pokes coalesce.
func (r *Reconciler) Poke() {
	select {
	case r.poke <- struct{}{}:
	default:
	}
}

// Run keeps the kernel at the newest desired table until ctx ends, then returns its error. The routes stay.
func (r *Reconciler) Run(ctx context.Context) error {
	tick := time.NewTicker(r.cfg.Resync)
	defer tick.Stop()
	for {
		if err := r.once(); err != nil {
			r.cfg.Log.Warn("reconcile routes", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.poke:
		case <-tick.C:
		}
	}
}

func (r *Reconciler) once() error {
	desired, known := r.cfg.Desired()
	if !known {
		return nil
	}
	actual, err := r.kernel.Routes()
	if err != nil {
		return fmt.Errorf("list routes: %w", err) // a partial list must delete nothing
	}
	var errs []error
	for _, a := range Plan(desired, actual) {
		if err := r.kernel.Apply(a); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a, err))
			continue
		}
		r.cfg.Log.Info("changed route", "dst", a.Dst, "via", a.Via, "why", a.Why)
	}
	return errors.Join(errs...)
}

// RemoveAll deletes every route of ours.
func RemoveAll(k kernel) error {
	actual, err := k.Routes()
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	var errs []error
	for _, a := range Plan(nil, actual) {
		errs = append(errs, k.Apply(a))
	}
	return errors.Join(errs...)
}
