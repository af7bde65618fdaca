package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/orlop-io/orlop/proxy"
)

// refusals tells of Services that are not translated, or not whole: in the log, by an Event of the Service, and as a metric.
type refusals struct {
	log    *slog.Logger
	events chan refusal
	desc   *prometheus.Desc

	mu    sync.Mutex
	limit map[string][]proxy.Limit // by service
	taken map[string]string        // addresses that cannot be listened at: the service's, by port and address
	full  map[string]string        // ports that the maps have no room for: the service's, by port
}

// refusal is what an Event says.
type refusal struct{ service, text string }

func newRefusals(log *slog.Logger) *refusals {
	return &refusals{
		log: log, events: make(chan refusal, 1000), limit: map[string][]proxy.Limit{}, taken: map[string]string{}, full: map[string]string{},
		desc: prometheus.NewDesc("orlop_proxy_refused_services", "Services that are not translated, or not whole, by what it is for.", []string{"feature"}, nil),
	}
}

// service takes what of a service is refused now.
func (r *refusals) service(key string, why []proxy.Limit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if delete(r.limit, key); len(why) == 0 {
		r.log.Info("service is translated whole again", "service", key)
		return
	}
	r.limit[key] = why
	for _, l := range why {
		r.tell(key, fmt.Sprintf("%s: %s", l.Feature, l.Instead))
	}
}

// unserved takes that a port of a service (namespace/name:port) cannot be listened at, or can again.
func (r *refusals) unserved(port string, at netip.AddrPort, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := port + " at " + at.String()
	key, _, _ := strings.Cut(port, ":")
	if err == nil {
		delete(r.taken, name)
		r.log.Info("service is served again", "port", port, "at", at)
		return
	}
	r.taken[name] = key
	r.tell(key, err.Error())
}

// unfit takes that the maps have no room for a port of a service (namespace/name:port), or have it again.
func (r *refusals) unfit(port string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		delete(r.full, port)
		r.log.Info("service fits again", "port", port)
		return
	}
	if r.full[port] != "" {
		return // its other family
	}
	key, _, _ := strings.Cut(port, ":")
	r.full[port] = key
	r.tell(key, err.Error())
}

// tell never waits: an Event more or less is not worth a service.
func (r *refusals) tell(service, text string) {
	r.log.Warn("service is refused", "service", service, "why", text)
	select {
	case r.events <- refusal{service, text}:
	default:
	}
}

// run writes Events until ctx ends. The API server may be away; the log and the metric have it all.
func (r *refusals) run(ctx context.Context, client kubernetes.Interface, find func(namespace, name string) *corev1.Service, node string) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-r.events:
			namespace, name, _ := strings.Cut(e.service, "/")
			svc := find(namespace, name)
			if svc == nil {
				continue
			}
			if _, err := client.EventsV1().Events(namespace).Create(ctx, eventOf(svc, node, e.text, time.Now()), metav1.CreateOptions{}); err != nil && ctx.Err() == nil {
				r.log.Debug("write event", "service", e.service, "err", err)
			}
		}
	}
}

func eventOf(svc *corev1.Service, node, text string, now time.Time) *eventsv1.Event {
	return &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: svc.Namespace, Name: fmt.Sprintf("%s.%x", svc.Name, now.UnixNano())},
		Regarding: corev1.ObjectReference{
			APIVersion: "v1", Kind: "Service", Namespace: svc.Namespace, Name: svc.Name, UID: svc.UID, ResourceVersion: svc.ResourceVersion,
		},
		Action: "Translating", Reason: "ServiceRefused", Type: corev1.EventTypeWarning, Note: text, EventTime: metav1.NewMicroTime(now),
		ReportingController: "orlop-agent", ReportingInstance: "orlop-agent-" + node,
	}
}

// Describe implements prometheus.Collector.
func (r *refusals) Describe(ch chan<- *prometheus.Desc) { ch <- r.desc }

// Collect implements prometheus.Collector.
func (r *refusals) Collect(ch chan<- prometheus.Metric) {
	r.mu.Lock()
	defer r.mu.Unlock()
	count := map[string]int{}
	for _, why := range r.limit {
		for _, l := range why {
			count[string(l.Feature)]++
		}
	}
	for feature, ports := range map[string]map[string]string{"ports that a process of the node has taken": r.taken, "room in BPF maps": r.full} {
		services := map[string]bool{}
		for _, service := range ports {
			services[service] = true
		}
		if len(services) > 0 {
			count[feature] = len(services)
		}
	}
	for _, f := range slices.Sorted(maps.Keys(count)) {
		ch <- prometheus.MustNewConstMetric(r.desc, prometheus.GaugeValue, float64(count[f]), f)
	}
}
