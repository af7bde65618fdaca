package proxy

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Changes are pending until the backend has taken them, and what they took is told then.
func TestChangesAreToldOnceInForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []Sync
		r := &recorder{}
		r.fail.Store(2)
		p, err := New(Config{
			Synced: func(context.Context) error { return nil }, Log: slog.New(slog.DiscardHandler), Observe: func(s Sync) { told = append(told, s) },
		}, r)
		if err != nil {
			t.Fatal(err)
		}
		at := func(when time.Time) *Slice {
			s := endpoint("10.1.0.2")
			s.Triggered = when
			return s
		}
		p.SetService("ns/web", web.Pack())
		p.SetSlice("a", at(time.Now().Add(-time.Hour)).Pack()) // before this process: not its doing
		time.Sleep(time.Second)
		happened := time.Now()
		p.SetSlice("a", at(happened).Pack())
		p.SetSlice("a", at(happened).Pack()) // something else of it has changed
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		synctest.Wait()
		if c := p.Changes(); c.Services != 1 || c.Slices != 3 || c.PendingServices != 1 || c.PendingSlices != 3 || !c.Queued.Equal(happened) {
			t.Errorf("after a failure: %+v", c)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if c := p.Changes(); c.Services != 1 || c.Slices != 3 || c.PendingServices != 0 || c.PendingSlices != 0 {
			t.Errorf("in force: %+v", c)
		}
		last := told[len(told)-1]
		if len(told) != 3 || told[0].Err == nil || last.Err != nil || !last.Whole || last.Waited < 2*time.Second || !slices.EqualFunc(last.Triggered, []time.Time{happened}, time.Time.Equal) {
			t.Errorf("told %+v", told)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestLonelyServices(t *testing.T) {
	list := func(local bool) []Slice {
		s := *endpoint("10.1.0.2")
		s.Endpoints[0].Local = local
		return []Slice{s}
	}
	for _, tt := range []struct {
		name   string
		change func(*Service)
		list   []Slice
		want   lonely
	}{
		{"policy Cluster", func(*Service) {}, list(false), lonely{}},
		{"inside", func(s *Service) { s.InternalLocal = true }, list(false), lonely{inside: true}},
		{"an endpoint here", func(s *Service) { s.InternalLocal = true }, list(true), lonely{}},
		{"no endpoint at all", func(s *Service) { s.InternalLocal = true }, nil, lonely{}},
		{"outside", func(s *Service) { s.ExternalLocal, s.LoadBalancerIPs = true, addrs("192.0.2.9") }, list(false), lonely{outside: true}},
		{"nobody outside can ask", func(s *Service) { s.ExternalLocal = true }, list(false), lonely{}},
	} {
		s := web
		tt.change(&s)
		if got := lonelyOf(s, tt.list); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}
