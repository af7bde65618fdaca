// Package podautoscaler keeps the scale of workloads at what their HorizontalPodAutoscalers ask for, by what their pods
// use of CPU and memory.
//
// Every autoscaler is looked at every 15 s and when its spec changes. What it remembers of the past, for stabilization
// and rates, is in memory. Metrics other than resources (Pods, Object, External) need an adapter's API that no part of
// this cluster serves; an autoscaler that names one says so in its condition and does not scale by it.
package podautoscaler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	autoscalinglisters "k8s.io/client-go/listers/autoscaling/v2"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// Clients are what the controller acts through.
type Clients struct {
	API     kubernetes.Interface
	Scales  scale.ScalesGetter
	Mapper  meta.RESTMapper
	Metrics metricsclient.PodMetricsesGetter
}

// Controller keeps all autoscalers.
type Controller struct {
	clients  Clients
	settings Settings
	scalers  autoscalinglisters.HorizontalPodAutoscalerLister
	pods     corelisters.PodLister
	events   record.EventRecorder
	loop     *loop.Loop
	synced   []cache.InformerSynced

	mu      sync.Mutex
	history map[string]*history // by key; each used by one sync at a time
	// selectors are of the pods that each autoscaler last measured, by key.
	selectors map[string]labels.Selector
}

// Defaults are upstream's.
func Defaults() Settings {
	return Settings{Tolerance: 0.1, Downscale: 5 * time.Minute, CPUInitialization: 5 * time.Minute, InitialReadiness: 30 * time.Second, Sync: 15 * time.Second}
}

// New returns a Controller that has done nothing yet.
func New(clients Clients, settings Settings, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (*Controller, error) {
	scalers, pods := shared.Autoscaling().V2().HorizontalPodAutoscalers(), shared.Core().V1().Pods()
	c := &Controller{clients: clients, settings: settings, scalers: scalers.Lister(), pods: pods.Lister(), events: events, history: map[string]*history{}, selectors: map[string]labels.Selector{},
		synced: []cache.InformerSynced{scalers.Informer().HasSynced, pods.Informer().HasSynced}}
	c.loop = loop.New("horizontalpodautoscaling", c.sync, log)
	_, err := scalers.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: c.loop.AddObject,
		UpdateFunc: func(old, obj any) {
			if old.(*autoscalingv2.HorizontalPodAutoscaler).Generation != obj.(*autoscalingv2.HorizontalPodAutoscaler).Generation || !sameSpec(old, obj) {
				c.loop.AddObject(obj)
			}
		},
		DeleteFunc: c.loop.AddObject,
	})
	return c, err
}

func sameSpec(old, obj any) bool {
	return equality.Semantic.DeepEqual(old.(*autoscalingv2.HorizontalPodAutoscaler).Spec, obj.(*autoscalingv2.HorizontalPodAutoscaler).Spec)
}

// Run scales until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 5, c.synced...) }

func (c *Controller) remembered(key string) *history {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.history[key]
	if h == nil {
		h = &history{}
		c.history[key] = h
	}
	return h
}

func (c *Controller) forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.history, key)
	delete(c.selectors, key)
}

// rivals notes that the autoscaler called key measures pods, which selector selects, and returns the keys of all that measure
// one of them, if it is not the only one.
func (c *Controller) rivals(key string, selector labels.Selector, pods []*corev1.Pod) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.selectors[key] = selector
	all := []string{key}
	namespace, _, _ := strings.Cut(key, "/")
	for other, theirs := range c.selectors {
		measures := func(pod *corev1.Pod) bool { return theirs.Matches(labels.Set(pod.Labels)) }
		if in, _, _ := strings.Cut(other, "/"); other != key && in == namespace && slices.ContainsFunc(pods, measures) {
			all = append(all, other)
		}
	}
	if len(all) == 1 {
		return nil
	}
	slices.Sort(all)
	return all
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	hpa, err := c.scalers.HorizontalPodAutoscalers(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.forget(key)
		return nil
	} else if err != nil {
		return err
	}
	c.loop.AddAfter(key, c.settings.Sync)
	changed := hpa.DeepCopy()
	changed.Status.ObservedGeneration = &changed.Generation
	err = c.scale(ctx, changed, c.remembered(key), time.Now())
	return errors.Join(err, c.write(ctx, hpa, changed))
}

func (c *Controller) write(ctx context.Context, old, hpa *autoscalingv2.HorizontalPodAutoscaler) error {
	if equality.Semantic.DeepEqual(old.Status, hpa.Status) {
		return nil
	}
	_, err := c.clients.API.AutoscalingV2().HorizontalPodAutoscalers(hpa.Namespace).UpdateStatus(ctx, hpa, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

// target is the scale of a workload, and where it was found.
type target struct {
	scale *autoscalingv1.Scale
	gr    schema.GroupResource
}

func (c *Controller) target(ctx context.Context, hpa *autoscalingv2.HorizontalPodAutoscaler) (target, error) {
	ref := hpa.Spec.ScaleTargetRef
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return target{}, fmt.Errorf("invalid API version in scale target reference: %w", err)
	}
	mappings, err := c.clients.Mapper.RESTMappings(schema.GroupKind{Group: gv.Group, Kind: ref.Kind})
	if err != nil {
		return target{}, fmt.Errorf("unable to determine resource for scale target reference: %w", err)
	}
	for _, m := range mappings {
		gr := m.Resource.GroupResource()
		s, getErr := c.clients.Scales.Scales(hpa.Namespace).Get(ctx, gr, ref.Name, metav1.GetOptions{})
		if getErr == nil {
			return target{s, gr}, nil
		}
		err = getErr
	}
	return target{}, err
}

// scale measures, decides, and changes the scale of hpa's workload; what came of it is in hpa's status.
func (c *Controller) scale(ctx context.Context, hpa *autoscalingv2.HorizontalPodAutoscaler, h *history, now time.Time) error {
	able := func(r reason) { condition(hpa, autoscalingv2.AbleToScale, r, now) }
	t, err := c.target(ctx, hpa)
	if err != nil {
		c.events.Event(hpa, corev1.EventTypeWarning, "FailedGetScale", err.Error())
		able(reason{false, "FailedGetScale", "the HPA controller was unable to get the target's current scale: " + err.Error()})
		return nil // it was told; the next look is near
	}
	able(reason{true, "SucceededGetScale", "the HPA controller was able to get the target's current scale"})
	current := t.scale.Spec.Replicas
	hpa.Status.CurrentReplicas = t.scale.Status.Replicas
	h.begin(current, now)
	d, why, err := c.desired(ctx, hpa, t.scale, h, now)
	if err != nil {
		hpa.Status.DesiredReplicas = current
		return nil
	}
	if d.ready.name != "" {
		able(d.ready)
	}
	hpa.Status.DesiredReplicas = d.replicas
	if d.replicas == current {
		return nil
	}
	t.scale.Spec.Replicas = d.replicas
	if _, err := c.clients.Scales.Scales(hpa.Namespace).Update(ctx, t.gr, t.scale, metav1.UpdateOptions{}); err != nil {
		c.events.Eventf(hpa, corev1.EventTypeWarning, "FailedRescale", "New size: %d; reason: %s; error: %v", d.replicas, why, err)
		able(reason{false, "FailedUpdateScale", "the HPA controller was unable to update the target scale: " + err.Error()})
		hpa.Status.DesiredReplicas = current
		return fmt.Errorf("update scale: %w", err)
	}
	able(reason{true, "SucceededRescale", fmt.Sprintf("the HPA controller was able to update the target scale to %d", d.replicas)})
	c.events.Eventf(hpa, corev1.EventTypeNormal, "SuccessfulRescale", "New size: %d; reason: %s", d.replicas, why)
	h.changed(current, d.replicas, &hpa.Spec, c.settings, now)
	hpa.Status.LastScaleTime = &metav1.Time{Time: now}
	return nil
}

// desired says how many replicas there should be. An error was told already, by event and condition.
func (c *Controller) desired(ctx context.Context, hpa *autoscalingv2.HorizontalPodAutoscaler, s *autoscalingv1.Scale, h *history, now time.Time) (decision, string, error) {
	least := int32(1)
	if hpa.Spec.MinReplicas != nil {
		least = *hpa.Spec.MinReplicas
	}
	current := s.Spec.Replicas
	active := func(r reason) { condition(hpa, autoscalingv2.ScalingActive, r, now) }
	switch {
	case current == 0 && least != 0:
		active(reason{false, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero"})
		return decision{replicas: 0}, "", nil
	case current > hpa.Spec.MaxReplicas:
		return decision{replicas: hpa.Spec.MaxReplicas}, "Current number of replicas above Spec.MaxReplicas", nil
	case current < least:
		return decision{replicas: least}, "Current number of replicas below Spec.MinReplicas", nil
	}
	wanted, why, err := c.measure(ctx, hpa, s, now)
	if err != nil {
		return decision{}, "", err
	}
	if wanted < current {
		why = "All metrics below target"
	} else if wanted > current {
		why += " above target"
	}
	d := decide(&hpa.Spec, current, wanted, h, c.settings, now)
	condition(hpa, autoscalingv2.ScalingLimited, d.limited, now)
	return d, why, nil
}

// measure takes the largest of what the metrics want. If one of them cannot be had, the others may only add replicas.
func (c *Controller) measure(ctx context.Context, hpa *autoscalingv2.HorizontalPodAutoscaler, s *autoscalingv1.Scale, now time.Time) (int32, string, error) {
	selector, err := labels.Parse(s.Status.Selector)
	if err == nil && selector.Empty() {
		err = errors.New("selector is required")
	}
	if err != nil {
		c.events.Event(hpa, corev1.EventTypeWarning, "InvalidSelector", err.Error())
		condition(hpa, autoscalingv2.ScalingActive, reason{false, "InvalidSelector", "the HPA target's scale is missing a selector: " + err.Error()}, now)
		return 0, "", err
	}
	pods, err := c.pods.Pods(hpa.Namespace).List(selector)
	if err != nil {
		return 0, "", err
	}
	if all := c.rivals(hpa.Namespace+"/"+hpa.Name, selector, pods); all != nil {
		err := fmt.Errorf("pods by selector %v are controlled by multiple HPAs: %v", selector, all)
		c.events.Event(hpa, corev1.EventTypeWarning, "AmbiguousSelector", err.Error())
		condition(hpa, autoscalingv2.ScalingActive, reason{false, "AmbiguousSelector", err.Error()}, now)
		return 0, "", err
	}
	var replicas int32
	var why string
	var told []autoscalingv2.MetricStatus
	var bad reason
	var first error
	got := 0
	for i := range hpa.Spec.Metrics {
		spec := &hpa.Spec.Metrics[i]
		w, failed, err := targetOf(spec)
		var f found
		if err == nil {
			f, err = c.measureOne(ctx, hpa, s.Spec.Replicas, pods, selector, w, now)
		}
		if err != nil {
			if bad.name == "" {
				bad = reason{false, failed, "the HPA was unable to compute the replica count: " + err.Error()}
				first = w.failed(err)
			}
			c.events.Event(hpa, corev1.EventTypeWarning, failed, err.Error())
			continue
		}
		got++
		told = append(told, statusOf(spec, w, f))
		if f.replicas > replicas || got == 1 {
			replicas, why = f.replicas, describe(w)
		}
	}
	if bad.name != "" && (got == 0 || replicas < s.Spec.Replicas) {
		condition(hpa, autoscalingv2.ScalingActive, bad, now)
		err := fmt.Errorf("invalid metrics (%d invalid out of %d), first error is: %w", len(hpa.Spec.Metrics)-got, len(hpa.Spec.Metrics), first)
		c.events.Event(hpa, corev1.EventTypeWarning, "FailedComputeMetricsReplicas", err.Error())
		return 0, "", err
	}
	hpa.Status.CurrentMetrics = told
	condition(hpa, autoscalingv2.ScalingActive, reason{true, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from " + why}, now)
	return replicas, why, nil
}

func (c *Controller) measureOne(ctx context.Context, hpa *autoscalingv2.HorizontalPodAutoscaler, current int32, pods []*corev1.Pod, selector labels.Selector, w want, now time.Time) (found, error) {
	metrics, err := c.metrics(ctx, hpa.Namespace, selector, w)
	var f found
	if err == nil {
		f, err = measure(current, pods, metrics, w, c.settings, tolerancesOf(&hpa.Spec, c.settings), now)
	}
	if err != nil && w.utilization != nil {
		return found{}, fmt.Errorf("failed to get %s utilization: %w", w.resource, err)
	} else if err != nil {
		return found{}, fmt.Errorf("failed to get %s usage: %w", w.resource, err)
	}
	return f, nil
}

// metrics is what the pods use, by their names. A pod of which a container is not told of is left out.
func (c *Controller) metrics(ctx context.Context, namespace string, selector labels.Selector, w want) (map[string]metric, error) {
	list, err := c.clients.Metrics.PodMetricses(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return nil, fmt.Errorf("unable to get metrics for resource %s: unable to fetch metrics from resource metrics API: %w", w.resource, err)
	}
	out := map[string]metric{}
	for _, m := range list.Items {
		one := metric{at: m.Timestamp.Time, window: m.Window.Duration}
		known := false
		for _, ct := range m.Containers {
			if w.container != "" && ct.Name != w.container {
				continue
			}
			q, ok := ct.Usage[w.resource]
			if known = ok; !ok {
				break
			}
			one.value += q.MilliValue()
		}
		if known {
			out[m.Name] = one
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("unable to get metrics for resource %s: no metrics returned from resource metrics API", w.resource)
	}
	return out, nil
}

// targetOf reads a metric of the spec, and says under which reason its failures are told.
func targetOf(spec *autoscalingv2.MetricSpec) (w want, failed string, err error) {
	var t autoscalingv2.MetricTarget
	switch spec.Type {
	case autoscalingv2.ResourceMetricSourceType:
		w, t, failed = want{resource: spec.Resource.Name}, spec.Resource.Target, "FailedGetResourceMetric"
	case autoscalingv2.ContainerResourceMetricSourceType:
		w = want{resource: spec.ContainerResource.Name, container: spec.ContainerResource.Container}
		t, failed = spec.ContainerResource.Target, "FailedGetContainerResourceMetric"
	default:
		return w, "FailedGet" + string(spec.Type) + "Metric", fmt.Errorf("metrics of type %s are not supported: only Resource and ContainerResource are", spec.Type)
	}
	switch {
	case t.AverageUtilization != nil:
		w.utilization = t.AverageUtilization
	case t.AverageValue != nil:
		w.average = t.AverageValue.MilliValue()
	default:
		err = errors.New("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set")
	}
	return w, failed, err
}
