package proxy

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// recorder is a backend that keeps the last model and fails as often as told.
type recorder struct {
	model Model
	sets  int
	fail  int
}

func (r *recorder) Set(m Model) error {
	if r.sets++; r.fail > 0 {
		r.fail--
		return errors.New("the kernel is full")
	}
	r.model = maps.Clone(m)
	return nil
}

func (r *recorder) Sweep(time.Time) (bool, error) { return false, nil }

func start(t *testing.T, r *recorder, synced func(context.Context) error) *Proxy {
	t.Helper()
	p, err := New(Config{Synced: synced, Log: slog.New(slog.DiscardHandler)}, r)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return p
}

var web = Service{Key: "ns/web", ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.9")}, Ports: []Port{{Protocol: TCP, Port: 80}}}

func endpoint(a string) *Slice {
	return &Slice{Service: "ns/web", Ports: []SlicePort{{Protocol: TCP, Port: 8080}}, Endpoints: []Endpoint{{Addrs: parse([]string{a}), Ready: true}}}
}

func (r *recorder) backends() int {
	g := r.model["ns/web:80/6/4"]
	if g == nil {
		return -1
	}
	return len(g.Backends)
}

func TestProxyFollowsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		p := start(t, r, func(context.Context) error { return nil })
		for _, step := range []struct {
			do   func()
			want int
		}{
			{func() { p.SetSlice("ns/web-a", endpoint("10.1.0.2")) }, -1},
			{func() { p.SetService("ns/web", &web) }, 1},
			{func() { p.SetSlice("ns/web-b", endpoint("10.1.0.3")) }, 2},
			{func() { p.SetSlice("ns/web-a", nil) }, 1},
			{func() { p.SetSlice("ns/web-b", &Slice{Service: "ns/other"}) }, 0},
			{func() { p.SetService("ns/web", nil) }, -1},
		} {
			before := time.Now()
			step.do()
			synctest.Wait()
			if r.backends() != step.want || time.Since(before) != 0 {
				t.Errorf("%d backends after %s, want %d at once", r.backends(), time.Since(before), step.want)
			}
		}
	})
}

func TestProxyGivesNothingAwayBeforeItIsSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		synced := make(chan struct{})
		p := start(t, r, func(context.Context) error { <-synced; return nil })
		p.SetService("ns/web", &web)
		time.Sleep(time.Hour)
		if r.sets != 0 {
			t.Error("a model was set before all services were known")
		}
		close(synced)
		synctest.Wait()
		if r.backends() != 0 {
			t.Errorf("model %v", r.model)
		}
	})
}

func TestProxyTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{fail: 2}
		p := start(t, r, func(context.Context) error { return nil })
		p.SetService("ns/web", &web)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if r.backends() != 0 {
			t.Errorf("model %v after %d tries", r.model, r.sets)
		}
	})
}
