package proxy

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What a mode cannot do is refused by name, and nothing else is: what is left of the service is what can be done.
func TestLimits(t *testing.T) {
	for _, tt := range []struct {
		name    string
		service func(*Service)
		refused map[string][]Feature // by mode
		left    func(mode string, s Service) bool
	}{
		{"nothing special", func(*Service) {}, nil, func(_ string, s Service) bool { return len(s.Ports) == 1 && s.Ports[0].NodePort == 30080 }},
		{"a port of SCTP", func(s *Service) { s.Ports = append(s.Ports, Port{Name: "sctp", Protocol: sctp, Port: 90}) },
			map[string][]Feature{ModeEBPF: {SCTP}, ModeNftables: {SCTP}, ModeIptables: {SCTP}, ModeUserspace: {SCTP}},
			func(_ string, s Service) bool { return len(s.Ports) == 1 }},
		{"an external address", func(s *Service) { s.ExternalIPs = addrs("192.0.2.7") },
			map[string][]Feature{ModeEBPF: {ExternalIPs}, ModeNftables: {ExternalIPs}, ModeIptables: {ExternalIPs}, ModeUserspace: {ExternalIPs}},
			func(_ string, s Service) bool { return len(s.ExternalIPs) == 0 && len(s.ClusterIPs) == 1 }},
		{"external policy Local with node ports", func(s *Service) {
			s.ExternalLocal, s.LoadBalancerIPs, s.HealthCheckPort = true, addrs("192.0.2.9"), 32000
		},
			map[string][]Feature{ModeUserspace: {ExternalLocal}},
			func(mode string, s Service) bool {
				served := s.Ports[0].NodePort == 30080 && len(s.LoadBalancerIPs) == 1 && s.HealthCheckPort == 32000
				nothing := s.Ports[0].NodePort == 0 && len(s.LoadBalancerIPs) == 0 && s.HealthCheckPort == 0 && len(s.ClusterIPs) == 1
				return served != (mode == ModeUserspace) && nothing == (mode == ModeUserspace)
			}},
	} {
		for _, mode := range Modes() {
			s := Service{Key: "ns/web", ClusterIPs: addrs("10.96.0.9"), Ports: []Port{{Name: "http", Protocol: TCP, Port: 80, NodePort: 30080}}}
			tt.service(&s)
			before := slices.Clone(s.Ports)
			left, why := s.limit(mode)
			var got []Feature
			for _, l := range why {
				got = append(got, l.Feature)
			}
			if d := cmp.Diff(tt.refused[mode], got); d != "" || !tt.left(mode, left) {
				t.Errorf("%s, %s: %s left %+v", tt.name, mode, d, left)
			}
			if d := cmp.Diff(before, s.Ports); d != "" {
				t.Errorf("%s, %s: the service itself is changed: %s", tt.name, mode, d)
			}
		}
	}
}

// Every limit is of known modes, says what happens, and is told once for each mode.
func TestLimitsAreWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, l := range Limits() {
		if l.Instead == "" || len(l.Modes) == 0 {
			t.Errorf("%+v says nothing", l)
		}
		for _, m := range l.Modes {
			key := m + " " + string(l.Feature)
			if !slices.Contains(Modes(), m) || seen[key] {
				t.Errorf("%s: no such mode, or twice", key)
			}
			seen[key] = true
		}
	}
}

// A refusal is told when it begins and when it ends, and not again meanwhile.
func TestRefusalIsToldOnce(t *testing.T) {
	var told [][]Limit
	p, err := New(Config{Synced: func(context.Context) error { return nil }, Log: slog.New(slog.DiscardHandler), Mode: ModeEBPF, Refused: func(service string, why []Limit) {
		if service != "ns/web" {
			t.Errorf("service %s", service)
		}
		told = append(told, why)
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	model := Model{}
	with := Service{Key: "ns/web", ClusterIPs: addrs("10.96.0.9"), Ports: []Port{{Protocol: sctp, Port: 90}, {Protocol: TCP, Port: 80}}}
	without := with
	without.Ports = with.Ports[1:]
	for _, s := range []Service{with, with, without, without} {
		s.Affinity += time.Second
		p.SetService("ns/web", s.Pack())
		change, _, _ := p.take()
		model.Apply(change)
	}
	if len(told) != 2 || len(told[0]) != 1 || told[0][0].Feature != SCTP || len(told[1]) != 0 {
		t.Errorf("told %+v, want SCTP and then nothing", told)
	}
	if len(model) != 1 || len(model["ns/web:80/6/4"].Frontends) != 1 {
		t.Errorf("model %+v", model)
	}
}
