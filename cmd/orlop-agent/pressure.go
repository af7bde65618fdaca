package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/orlop-io/orlop/bpf/socklb"
	"github.com/orlop-io/orlop/proxy"
)

// A map under pressure is told of once, until it has had room again. Maps that can grow stay below both.
const (
	pressed  = 0.8
	relieved = 0.7
)

// flowsMap is the one that forgets what is longest idle.
const flowsMap = "flows"

// pressure tells how full the maps are that services are translated by: as metrics, and before one is full in the log and by an Event of the Node.
type pressure struct {
	read   func() ([]socklb.Usage, error)           // nil where there are no maps
	flows  func() (socklb.Usage, error)             // nil where packets are not translated by maps; it takes a while
	counts func() (map[string]proxy.Traffic, error) // nil where there are no maps; reading counts what is there
	log    *slog.Logger
	told   map[string]bool

	part, entries, capacity *prometheus.Desc

	mu   sync.Mutex
	last socklb.Usage // of flows
}

func newPressure(s *services, log *slog.Logger) *pressure {
	p := &pressure{
		log: log, told: map[string]bool{},
		part:     prometheus.NewDesc("orlop_proxy_map_pressure", "What part of a BPF map is in use: one that can grow stays below 0.75.", []string{"map"}, nil),
		entries:  prometheus.NewDesc("orlop_proxy_map_entries", "Entries of a BPF map; of flows, those that are not over, as of the last minute.", []string{"map"}, nil),
		capacity: prometheus.NewDesc("orlop_proxy_map_capacity", "Entries that a BPF map has room for before it grows.", []string{"map"}, nil),
	}
	if s.lb != nil {
		p.read, p.counts = s.lb.Usages, s.traffic()
	}
	if s.outside != nil {
		p.flows = s.outside.lb.Usage
	}
	return p
}

// run looks at the maps until ctx ends. An Event that the API server does not take is not tried again: log and metrics have it all.
func (p *pressure) run(ctx context.Context, client kubernetes.Interface, node string) error {
	if p.read == nil {
		return nil
	}
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for round := 0; ; round++ {
		for _, u := range p.look(round%6 == 0) {
			if _, err := client.EventsV1().Events(metav1.NamespaceDefault).Create(ctx, pressureEvent(u, node, time.Now()), metav1.CreateOptions{}); err != nil && ctx.Err() == nil {
				p.log.Debug("write event", "map", u.Map, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// look logs maps that have come under pressure, or are relieved of it, and returns the former.
func (p *pressure) look(slow bool) (pressedNow []socklb.Usage) {
	if slow && p.counts != nil {
		if _, err := p.counts(); err != nil {
			p.log.Warn("look at BPF maps", "err", err)
		}
	}
	if slow && p.flows != nil {
		u, err := p.flows()
		if err != nil {
			p.log.Warn("look at BPF maps", "err", err)
		} else {
			p.mu.Lock()
			p.last = u
			p.mu.Unlock()
		}
	}
	all, err := p.usages()
	if err != nil {
		p.log.Warn("look at BPF maps", "err", err)
		return nil
	}
	for _, u := range all {
		switch part := u.Pressure(); {
		case part >= pressed && !p.told[u.Map]:
			p.told[u.Map] = true
			p.log.Warn("a BPF map is nearly full", "map", u.Map, "entries", u.Entries, "capacity", u.Capacity, "why", u.Err)
			pressedNow = append(pressedNow, u)
		case part < relieved && p.told[u.Map]:
			delete(p.told, u.Map)
			p.log.Info("a BPF map has room again", "map", u.Map, "entries", u.Entries, "capacity", u.Capacity)
		}
	}
	return pressedNow
}

func (p *pressure) usages() ([]socklb.Usage, error) {
	if p.read == nil {
		return nil, nil
	}
	all, err := p.read()
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last.Capacity > 0 {
		all = append(all, p.last)
	}
	return all, nil
}

// pressureEvent is about the Node, in the namespace and by the UID that kubelets give such Events.
func pressureEvent(u socklb.Usage, node string, now time.Time) *eventsv1.Event {
	note := fmt.Sprintf("BPF map %s holds %d entries of %d", u.Map, u.Entries, u.Capacity)
	switch {
	case u.Err != nil:
		note += fmt.Sprintf(": %v. Services and endpoints that do not fit will not be translated", u.Err)
	case u.Map == flowsMap:
		note += ": when it is full, the longest idle is forgotten for each that comes"
	default:
		note += ": what has no room is left out"
	}
	return &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: fmt.Sprintf("%s.%x", node, now.UnixNano())},
		Regarding:  corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node, UID: types.UID(node)},
		Action:     "Translating", Reason: "ServiceMapPressure", Type: corev1.EventTypeWarning, Note: note, EventTime: metav1.NewMicroTime(now),
		ReportingController: "orlop-agent", ReportingInstance: "orlop-agent-" + node,
	}
}

// Describe implements prometheus.Collector.
func (p *pressure) Describe(ch chan<- *prometheus.Desc) {
	ch <- p.part
	ch <- p.entries
	ch <- p.capacity
}

// Collect implements prometheus.Collector.
func (p *pressure) Collect(ch chan<- prometheus.Metric) {
	all, err := p.usages()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(p.part, err)
		return
	}
	for _, u := range all {
		ch <- prometheus.MustNewConstMetric(p.part, prometheus.GaugeValue, u.Pressure(), u.Map)
		ch <- prometheus.MustNewConstMetric(p.entries, prometheus.GaugeValue, float64(u.Entries), u.Map)
		ch <- prometheus.MustNewConstMetric(p.capacity, prometheus.GaugeValue, float64(u.Capacity), u.Map)
	}
}
