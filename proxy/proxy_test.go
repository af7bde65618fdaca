package proxy

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
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

// A balancer's check counts what is ready here, and goes with its service.
func TestHealthChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told [][]HealthCheck
		p, err := New(Config{
			Synced: func(context.Context) error { return nil }, Log: slog.New(slog.DiscardHandler),
			HealthChecks: func(c []HealthCheck) { told = append(told, c) },
		}, &recorder{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		checked := web
		checked.ExternalLocal, checked.HealthCheckPort = true, 31000
		ends := func(list ...Endpoint) *Slice {
			s := endpoint("10.1.0.2")
			s.Endpoints = list
			return s
		}
		here := Endpoint{Addrs: parse([]string{"10.1.0.2"}), Ready: true, Local: true}
		ending, away := here, here
		ending.Ready, ending.Serving, ending.Terminating, ending.Addrs = false, true, true, parse([]string{"10.1.0.3"})
		away.Local = false
		for _, step := range []struct {
			do   func()
			want []HealthCheck
		}{
			{func() { p.SetService("ns/web", &web) }, nil},
			{func() { p.SetService("ns/web", &checked) }, []HealthCheck{{"ns/web", 31000, 0}}},
			{func() { p.SetSlice("a", ends(here, ending, away)) }, []HealthCheck{{"ns/web", 31000, 1}}},
			{func() { p.SetSlice("a", ends(here, ending)) }, nil},
			{func() { p.SetSlice("a", ends(ending)) }, []HealthCheck{{"ns/web", 31000, 0}}},
			{func() { p.SetService("ns/web", nil) }, []HealthCheck{}},
		} {
			told = nil
			step.do()
			synctest.Wait()
			if step.want == nil && len(told) > 0 || step.want != nil && (len(told) != 1 || !slices.Equal(told[0], step.want)) {
				t.Errorf("told %v, want %v", told, step.want)
			}
		}
		cancel()
		<-done
	})
}
