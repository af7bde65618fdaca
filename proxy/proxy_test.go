package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// recorder is a backend that keeps the model and fails as often as told, half-way.
type recorder struct {
	model Model
	sets  int
	fail  atomic.Int64 // also told while a change is applied
	count int          // groups of the last change
}

func (r *recorder) Apply(c Change) error {
	if r.model == nil {
		r.model = Model{}
	}
	r.model.Apply(c)
	r.count = 0
	for range c.Groups {
		r.count++
	}
	r.sets++
	if r.fail.Add(-1) >= 0 {
		r.model = Model{"half": {}}
		return errors.New("the kernel is full")
	}
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
			{func() { p.SetSlice("ns/web-a", endpoint("10.1.0.2").Pack()) }, -1},
			{func() { p.SetService("ns/web", web.Pack()) }, 1},
			{func() { p.SetSlice("ns/web-b", endpoint("10.1.0.3").Pack()) }, 2},
			{func() { p.SetSlice("ns/web-a", "") }, 1},
			{func() { p.SetSlice("ns/web-b", Slice{Service: "ns/other"}.Pack()) }, 0},
			{func() { p.SetService("ns/web", "") }, -1},
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
		p.SetService("ns/web", web.Pack())
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
		r := &recorder{}
		r.fail.Store(2)
		p := start(t, r, func(context.Context) error { return nil })
		p.SetService("ns/web", web.Pack())
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if r.backends() != 0 || len(r.model) != 1 {
			t.Errorf("model %v after %d tries", r.model, r.sets)
		}
	})
}

// A change is as large as what has changed, whatever else there is, and after a failure all comes again; from any state it is the same model.
func TestChangesAreSmallAndConverge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		p := start(t, r, func(context.Context) error { return nil })
		svc := func(i int, ports ...uint16) Service {
			s := Service{Key: fmt.Sprint("ns/", i), ClusterIPs: parse([]string{fmt.Sprint("10.96.1.", i)})}
			for _, port := range ports {
				s.Ports = append(s.Ports, Port{Protocol: TCP, Port: port})
			}
			return s
		}
		ends := func(i int, n byte) Slice {
			s := *endpoint("10.1.0.2")
			s.Service = fmt.Sprint("ns/", i)
			for b := range n {
				s.Endpoints = append(s.Endpoints, Endpoint{Addrs: parse([]string{fmt.Sprint("10.1.1.", b)}), Ready: true})
			}
			return s
		}
		for i := range 50 {
			p.SetService(fmt.Sprint("ns/", i), svc(i, 80).Pack())
		}
		synctest.Wait()
		p.SetSlice("a", ends(7, 3).Pack())
		synctest.Wait()
		if r.count != 1 {
			t.Errorf("%d groups in the change of one", r.count)
		}
		want := map[string]PackedService{}
		given := map[string]PackedSlice{}
		seed := rand.Uint64()
		t.Log("seed", seed)
		rnd := rand.New(rand.NewPCG(seed, 0))
		for range 500 {
			i := rnd.IntN(50)
			key, slice := fmt.Sprint("ns/", i), fmt.Sprint("slice-", rnd.IntN(20))
			switch rnd.IntN(5) {
			case 0:
				want[key] = ""
			case 1, 2:
				want[key] = svc(i, uint16(80+rnd.IntN(3)), uint16(90+rnd.IntN(3))).Pack()
			case 3:
				given[slice] = ends(rnd.IntN(50), byte(rnd.IntN(4))).Pack()
			case 4:
				given[slice] = ""
			}
			p.SetService(key, want[key])
			p.SetSlice(slice, given[slice])
			r.fail.Store(int64(rnd.IntN(8) - 6))
			if rnd.IntN(2) == 0 {
				synctest.Wait()
			}
		}
		for i := range 50 {
			key := fmt.Sprint("ns/", i)
			want[key] = svc(i, 81).Pack()
			p.SetService(key, want[key])
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		model := Model{}
		for key, s := range want {
			one, _ := s.Unpack()
			var list []Slice
			for _, name := range slices.Sorted(maps.Keys(given)) {
				if given[name].Service() == key {
					s, _ := given[name].Unpack()
					list = append(list, s)
				}
			}
			maps.Copy(model, groups(one, list, Place{}))
		}
		p.SetSlice("a", "")
		synctest.Wait()
		if d := cmp.Diff(model, r.model, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}), cmpopts.EquateEmpty()); d != "" {
			t.Error(d)
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
			{func() { p.SetService("ns/web", web.Pack()) }, nil},
			{func() { p.SetService("ns/web", checked.Pack()) }, []HealthCheck{{"ns/web", 31000, 0}}},
			{func() { p.SetSlice("a", ends(here, ending, away).Pack()) }, []HealthCheck{{"ns/web", 31000, 1}}},
			{func() { p.SetSlice("a", ends(here, ending).Pack()) }, nil},
			{func() { p.SetSlice("a", ends(ending).Pack()) }, []HealthCheck{{"ns/web", 31000, 0}}},
			{func() { p.SetService("ns/web", "") }, []HealthCheck{}},
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
