// Package metricsapi serves metrics.k8s.io: what nodes and pods use of CPU and memory now, for kubectl top and for
// horizontal pod autoscalers.
//
// It asks the kubelets' /metrics/resource while a request waits, keeps the last two answers of each, and does nothing
// when nobody asks. A cluster that runs a metrics server of its own takes the group over by its APIService.
package metricsapi

import (
	"context"
	"reflect"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/klog/v2"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/orlop-io/orlop/cmd/apiserver/kubeletclient"
)

// GroupVersion is what is served.
var GroupVersion = metricsv1beta1.SchemeGroupVersion

// atOnce bounds how many kubelets are asked side by side for one request.
const atOnce = 32

// Kubelets finds a node's kubelet.
type Kubelets func(ctx context.Context, node string) (kubeletclient.Kubelet, error)

// AddToScheme registers the types, which are their own internal version.
func AddToScheme(s *runtime.Scheme) error {
	if err := metricsv1beta1.AddToScheme(s); err != nil {
		return err
	}
	internal := schema.GroupVersion{Group: GroupVersion.Group, Version: runtime.APIVersionInternal}
	for kind, t := range s.KnownTypes(GroupVersion) {
		if strings.HasPrefix(t.PkgPath(), "k8s.io/metrics/") {
			s.AddKnownTypeWithName(internal.WithKind(kind), reflect.New(t).Interface().(runtime.Object))
		}
	}
	return s.SetVersionPriority(GroupVersion)
}

// Storage is the storage of the group's resources.
func Storage(find Kubelets, nodes corelisters.NodeLister, pods corelisters.PodLister) map[string]rest.Storage {
	m := &metrics{newCollector(overHTTP(find, time.Now)), nodes, pods}
	return map[string]rest.Storage{"nodes": &nodeUsage{metrics: m}, "pods": &podUsage{metrics: m}}
}

// metrics is what both resources are made from.
type metrics struct {
	collector *collector
	nodes     corelisters.NodeLister
	pods      corelisters.PodLister
}

// looks are a node's last two samples.
type looks struct{ before, last *sample }

// look asks several kubelets at once. One that does not answer is left out, and told of in the log.
func (m *metrics) look(ctx context.Context, nodes map[string]bool) map[string]looks {
	type answer struct {
		node string
		looks
	}
	answers := make(chan answer, len(nodes))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for node := range nodes {
		group.Go(func() error {
			before, last, err := m.collector.look(ctx, node)
			if err != nil {
				klog.FromContext(ctx).Info("no metrics of a node", "node", node, "err", err)
				return nil
			}
			answers <- answer{node, looks{before, last}}
			return nil
		})
	}
	_ = group.Wait() // each error was told
	close(answers)
	out := map[string]looks{}
	for a := range answers {
		out[a.node] = a.looks
	}
	return out
}

// chosen says whether the options of a list choose an object.
func chosen(o *internalversion.ListOptions, l labels.Set, f fields.Set) bool {
	return o == nil || (o.LabelSelector == nil || o.LabelSelector.Matches(l)) && (o.FieldSelector == nil || o.FieldSelector.Matches(f))
}

// nodeUsage is the storage of nodes.
type nodeUsage struct{ *metrics }

func (*nodeUsage) New() runtime.Object     { return &metricsv1beta1.NodeMetrics{} }
func (*nodeUsage) NewList() runtime.Object { return &metricsv1beta1.NodeMetricsList{} }
func (*nodeUsage) Destroy()                {}
func (*nodeUsage) NamespaceScoped() bool   { return false }
func (*nodeUsage) GetSingularName() string { return "" }
func (*nodeUsage) Kind() string            { return "NodeMetrics" }

// Get asks one kubelet.
func (r *nodeUsage) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	node, err := r.nodes.Get(name)
	if err == nil {
		if out := r.of(ctx, []*corev1.Node{node}); len(out) == 1 {
			return &out[0], nil
		}
	}
	return nil, apierrors.NewNotFound(GroupVersion.WithResource("nodes").GroupResource(), name)
}

// List asks the kubelets of the nodes chosen.
func (r *nodeUsage) List(ctx context.Context, o *internalversion.ListOptions) (runtime.Object, error) {
	all, err := r.nodes.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	var some []*corev1.Node
	for _, n := range all {
		there[n.Name] = true
		if chosen(o, n.Labels, fields.Set{"metadata.name": n.Name}) {
			some = append(some, n)
		}
	}
	r.collector.keep(there)
	return &metricsv1beta1.NodeMetricsList{Items: r.of(ctx, some)}, nil
}

func (r *nodeUsage) of(ctx context.Context, nodes []*corev1.Node) []metricsv1beta1.NodeMetrics {
	names := map[string]bool{}
	for _, n := range nodes {
		names[n.Name] = true
	}
	looks := r.look(ctx, names)
	out := []metricsv1beta1.NodeMetrics{}
	for _, n := range nodes {
		l, ok := looks[n.Name]
		if !ok {
			continue
		}
		u, ok := between(l.before.node, l.last.node)
		if !ok {
			continue
		}
		out = append(out, metricsv1beta1.NodeMetrics{
			ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.Labels, CreationTimestamp: metav1.Now()},
			Timestamp:  metav1.NewTime(u.at), Window: metav1.Duration{Duration: u.window}, Usage: u.resources,
		})
	}
	return out
}

// podUsage is the storage of pods.
type podUsage struct{ *metrics }

func (*podUsage) New() runtime.Object     { return &metricsv1beta1.PodMetrics{} }
func (*podUsage) NewList() runtime.Object { return &metricsv1beta1.PodMetricsList{} }
func (*podUsage) Destroy()                {}
func (*podUsage) NamespaceScoped() bool   { return true }
func (*podUsage) GetSingularName() string { return "" }
func (*podUsage) Kind() string            { return "PodMetrics" }

// Get asks the kubelet of one pod.
func (r *podUsage) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	pod, err := r.pods.Pods(request.NamespaceValue(ctx)).Get(name)
	if err == nil {
		if out := r.of(ctx, []*corev1.Pod{pod}); len(out) == 1 {
			return &out[0], nil
		}
	}
	return nil, apierrors.NewNotFound(GroupVersion.WithResource("pods").GroupResource(), name)
}

// List asks the kubelets that the pods chosen run under.
func (r *podUsage) List(ctx context.Context, o *internalversion.ListOptions) (runtime.Object, error) {
	all, err := r.pods.Pods(request.NamespaceValue(ctx)).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var some []*corev1.Pod
	for _, p := range all {
		if chosen(o, p.Labels, fields.Set{"metadata.name": p.Name, "metadata.namespace": p.Namespace}) {
			some = append(some, p)
		}
	}
	return &metricsv1beta1.PodMetricsList{Items: r.of(ctx, some)}, nil
}

func (r *podUsage) of(ctx context.Context, pods []*corev1.Pod) []metricsv1beta1.PodMetrics {
	nodes := map[string]bool{}
	for _, p := range pods {
		if p.Spec.NodeName != "" && p.Status.Phase == corev1.PodRunning {
			nodes[p.Spec.NodeName] = true
		}
	}
	looks := r.look(ctx, nodes)
	out := []metricsv1beta1.PodMetrics{}
	for _, p := range pods {
		if l, ok := looks[p.Spec.NodeName]; ok && p.Status.Phase == corev1.PodRunning {
			if m, ok := podMetrics(p, l); ok {
				out = append(out, m)
			}
		}
	}
	return out
}

// podMetrics is what a pod's containers use. It is not ok as long as one that runs cannot be told of: half a pod would
// make an autoscaler shrink what is busy.
func podMetrics(p *corev1.Pod, l looks) (metricsv1beta1.PodMetrics, bool) {
	m := metricsv1beta1.PodMetrics{ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace, Labels: p.Labels, CreationTimestamp: metav1.Now()}}
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, st := range list {
			if st.State.Running == nil {
				continue
			}
			key := container{p.Namespace, p.Name, st.Name}
			u, ok := between(l.before.containers[key], l.last.containers[key])
			if !ok {
				return m, false
			}
			m.Containers = append(m.Containers, metricsv1beta1.ContainerMetrics{Name: st.Name, Usage: u.resources})
			if m.Timestamp.IsZero() || u.at.Before(m.Timestamp.Time) {
				m.Timestamp, m.Window = metav1.NewTime(u.at), metav1.Duration{Duration: u.window}
			}
		}
	}
	return m, len(m.Containers) > 0
}
