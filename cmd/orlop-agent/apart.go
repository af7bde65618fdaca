package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/bpf/packetlb"
	"github.com/orlop-io/orlop/bpf/podnet"
	"github.com/orlop-io/orlop/bpf/socklb"
	"github.com/orlop-io/orlop/cni/plugin"
)

// optOut selects the pods whose sockets are left as they are, unless --socket-opt-out says others.
const optOut = "orlop.io/socket-services=off"

// Whose sockets are translated, by --sockets.
const (
	socketsAll  = "all"
	socketsNode = "node" // those of the node's own network namespace
)

// checkSockets says what is wrong with the flags.
func (o options) checkSockets() error {
	if o.sockets != socketsAll && o.sockets != socketsNode {
		return fmt.Errorf(`--sockets=%s is not supported: give "all", or "node" for those of the node's own network namespace`, o.sockets)
	}
	for _, s := range o.socketOptOut {
		if selector, err := labels.Parse(s); err != nil {
			return fmt.Errorf("read --socket-opt-out: %w", err)
		} else if selector.Empty() {
			return errors.New("read --socket-opt-out: an empty selector means all pods: give --sockets=node")
		}
	}
	return nil
}

// apart keeps sockets of pods that opt out as they are: what such a pod sends is translated at its link instead. It follows those pods of this node, finds their
// network namespaces by their addresses, and is sure that a pod's link has the programs before it lets its sockets alone.
type apart struct {
	o       options
	lb      *socklb.LB
	outside *outside
	client  kubernetes.Interface
	log     *slog.Logger
	poke    chan struct{}
	netns   *podnet.Lister
	stores  []cache.Store // of pods; the selectors' in turn
	synced  []cache.InformerSynced
	desc    *prometheus.Desc

	mu   sync.Mutex
	told map[types.UID]string // why a pod is not apart, though it asks to be; "": it is
}

// newApart returns nil where no sockets are translated, or no packets of pods would be in their place.
func newApart(o options, s *services, client kubernetes.Interface, log *slog.Logger) *apart {
	if s.lb == nil || s.outside == nil {
		if s.lb != nil && o.sockets != socketsAll {
			log.Warn("sockets of pods are translated, too: their packets are not, by --proxy-external=nft", "sockets", o.sockets)
		}
		return nil
	}
	return &apart{
		o: o, lb: s.lb, outside: s.outside, netns: podnet.NewLister(podnet.Config{Folders: []string{o.netnsDir}, Proc: "/proc"}), client: client, log: log, poke: make(chan struct{}, 1), told: map[types.UID]string{},
		desc: prometheus.NewDesc("orlop_proxy_opted_out_pods", "Pods that ask for their sockets to be left as they are, by whether they are.", []string{"apart"}, nil),
	}
}

// run follows pods until ctx ends, once services are in force.
func (a *apart) run(ctx context.Context, proxying <-chan struct{}) error {
	if a == nil {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-proxying:
	}
	var running sync.WaitGroup
	defer running.Wait()
	for _, selector := range a.o.socketOptOut {
		if err := a.follow(ctx, selector, &running); err != nil {
			return err
		}
	}
	said := ""
	for waits := 0; ; {
		waiting, err := a.once(ctx, waits == 0)
		switch {
		case err != nil && err.Error() != said:
			a.log.Warn("leave sockets of pods as they are", "err", err)
			said = err.Error()
		case err == nil:
			said = ""
		}
		rest := resync
		if waiting || err != nil {
			rest = min(50*time.Millisecond<<min(waits/40, 8), 10*time.Second)
			waits++
		} else {
			waits = 0
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.poke:
			waits = 0
		case <-time.After(rest):
		}
	}
}

// follow asks the API server for this node's pods of a selector only, so that all other pods cost nothing.
func (a *apart) follow(ctx context.Context, selector string, running *sync.WaitGroup) error {
	informer := informers.NewSharedInformerFactoryWithOptions(a.client, 0, informers.WithTransform(slimPod), informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.LabelSelector, o.FieldSelector = selector, fields.OneTermEqualSelector("spec.nodeName", a.o.node).String()
	})).Core().V1().Pods().Informer()
	reg, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { a.look() }, UpdateFunc: func(any, any) { a.look() }, DeleteFunc: func(any) { a.look() },
	})
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	a.stores, a.synced = append(a.stores, informer.GetStore()), append(a.synced, reg.HasSynced)
	running.Go(func() {
		informer.RunWithContext(ctx)
	})
	running.Go(func() {
		if cache.WaitForCacheSync(ctx.Done(), reg.HasSynced) {
			a.look() // there may be none
		}
	})
	return nil
}

func (a *apart) look() {
	select {
	case a.poke <- struct{}{}:
	default:
	}
}

// slimPod keeps what is asked here.
func slimPod(obj any) (any, error) {
	p, is := obj.(*corev1.Pod)
	if !is {
		return obj, nil
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion},
		Spec:       corev1.PodSpec{NodeName: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork},
		Status:     corev1.PodStatus{Phase: p.Status.Phase, PodIPs: p.Status.PodIPs},
	}, nil
}

// once brings the kernel to what pods want now; waiting says that one of them is still to come. Until the API server has said which pods there are, those stay
// apart that an earlier process has set. Namespaces that are known already are looked into again only if anew.
func (a *apart) once(ctx context.Context, anew bool) (waiting bool, err error) {
	have, err := a.lb.Apart()
	if err != nil {
		return false, err
	}
	want := socklb.Apart{Pods: a.o.sockets == socketsNode, Netns: have.Netns}
	if slices.ContainsFunc(a.synced, func(done cache.InformerSynced) bool { return !done() }) {
		return false, a.lb.SetApart(want)
	}
	pods := a.pods()
	want.Netns = nil
	states := map[types.UID]string{}
	if len(pods) > 0 {
		found, err := a.netns.List(anew)
		if err != nil {
			return true, fmt.Errorf("look for pods' network namespaces: %w", err)
		}
		on, err := a.outside.sync() // a pod's link may be a moment old
		if err != nil {
			a.log.Debug("attach to devices", "err", err)
		}
		want.Netns, states = placesOf(pods, found, on)
	}
	if !slices.Equal(want.Netns, have.Netns) || want.Pods != have.Pods {
		a.log.Info("sockets are left as they are", "ofPods", len(want.Netns), "ofAllPods", want.Pods)
	}
	if err := a.lb.SetApart(want); err != nil {
		return true, err
	}
	a.tell(ctx, pods, states)
	for _, why := range states {
		waiting = waiting || why == notYet
	}
	return waiting, nil
}

// asking is a pod that opts out, with the addresses that it is known by.
type asking struct {
	pod   *corev1.Pod
	addrs []netip.Addr
}

// pods are those of this node that opt out and have not ended.
func (a *apart) pods() (out []asking) {
	seen := map[types.UID]bool{}
	for _, s := range a.stores {
		for _, obj := range s.List() {
			p, is := obj.(*corev1.Pod)
			if !is || seen[p.UID] || p.Spec.NodeName != a.o.node || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
				continue
			}
			seen[p.UID] = true
			ask := asking{pod: p}
			for _, ip := range p.Status.PodIPs {
				if addr, err := netip.ParseAddr(ip.IP); err == nil {
					ask.addrs = append(ask.addrs, addr.Unmap())
				}
			}
			if len(ask.addrs) == 0 && a.o.cni && !p.Spec.HostNetwork { // our own plugin knows before the API server does
				if addrs, err := plugin.AddressesOf(a.o.stateDir, networkName, p.Namespace+"/"+p.Name); err == nil {
					ask.addrs = addrs
				}
			}
			out = append(out, ask)
		}
	}
	return out
}

// notYet is why a pod is not apart that is being started.
const notYet = "its network namespace has not been found yet"

// placesOf finds the namespaces of pods, and says why a pod has none. on are the devices that have the programs.
func placesOf(pods []asking, found []podnet.Namespace, on []packetlb.Device) (netns []uint64, states map[types.UID]string) {
	states = map[types.UID]string{}
	for _, ask := range pods {
		if ask.pod.Spec.HostNetwork {
			states[ask.pod.UID] = "it has the node's network, whose sockets are always translated"
			continue
		}
		why := notYet
		for _, ns := range found {
			i := slices.IndexFunc(ns.Links, func(l podnet.Link) bool {
				return slices.ContainsFunc(l.Addrs, func(addr netip.Addr) bool { return slices.Contains(ask.addrs, addr) })
			})
			switch {
			case i < 0:
			case slices.ContainsFunc(on, func(d packetlb.Device) bool { return d.Pod && d.Index == ns.Links[i].Peer }):
				why = ""
				netns = append(netns, ns.Cookie)
			case why != "":
				why = "its packets pass no link of the node at which they could be translated"
			}
		}
		states[ask.pod.UID] = why
	}
	slices.Sort(netns)
	return slices.Compact(netns), states
}

// tell says what has changed of pods that opt out.
func (a *apart) tell(ctx context.Context, pods []asking, states map[types.UID]string) {
	a.mu.Lock()
	before := a.told
	a.told = states
	a.mu.Unlock()
	for _, ask := range pods {
		why := states[ask.pod.UID]
		if was, known := before[ask.pod.UID]; known && was == why {
			continue
		}
		name := ask.pod.Namespace + "/" + ask.pod.Name
		switch why {
		case "":
			a.log.Info("a pod's sockets are left as they are", "pod", name)
		case notYet:
			a.log.Debug("a pod's sockets are to be left as they are", "pod", name)
		default:
			a.log.Warn("a pod's sockets are translated, though it opts out", "pod", name, "why", why)
			if _, err := a.client.EventsV1().Events(ask.pod.Namespace).Create(ctx, optOutEvent(ask.pod, a.o.node, why, time.Now()), metav1.CreateOptions{}); err != nil && ctx.Err() == nil {
				a.log.Debug("write event", "pod", name, "err", err)
			}
		}
	}
}

func optOutEvent(p *corev1.Pod, node, why string, now time.Time) *eventsv1.Event {
	return &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: fmt.Sprintf("%s.%x", p.Name, now.UnixNano())},
		Regarding:  corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion},
		Action:     "Translating", Reason: "OptOutRefused", Type: corev1.EventTypeWarning, Note: "its sockets are translated, though it opts out: " + why, EventTime: metav1.NewMicroTime(now),
		ReportingController: "orlop-agent", ReportingInstance: "orlop-agent-" + node,
	}
}

// Describe implements prometheus.Collector.
func (a *apart) Describe(ch chan<- *prometheus.Desc) { ch <- a.desc }

// Collect implements prometheus.Collector.
func (a *apart) Collect(ch chan<- prometheus.Metric) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := map[string]int{"yes": 0, "waits": 0, "refused": 0}
	for _, why := range a.told {
		switch why {
		case "":
			n["yes"]++
		case notYet:
			n["waits"]++
		default:
			n["refused"]++
		}
	}
	for state, count := range n {
		ch <- prometheus.MustNewConstMetric(a.desc, prometheus.GaugeValue, float64(count), state)
	}
}
