package simulation

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/scale"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"
	"k8s.io/utils/ptr"
)

// autoscalePlot is of a Deployment that an autoscaler keeps at so many pods as its load asks for. The load is shared by its
// pods, and is in the world as an annotation of the Deployment.
type autoscalePlot struct{}

// loadKey is where the load is written, in thousandths of a core.
const loadKey = "load"

func (p *autoscalePlot) parts() []string {
	return []string{"deployment", "replicaset", "horizontalpodautoscaling"}
}

func (p *autoscalePlot) begin(s *story) {
	labels := map[string]string{"app": "web"}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: namespace, Annotations: map[string]string{loadKey: "400"}}}
	d.Spec = appsv1.DeploymentSpec{Replicas: ptr.To(1 + s.rand.Int32N(5)), RevisionHistoryLimit: ptr.To[int32](1), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template("web", "v0"),
		Strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}}
	s.put("deployments", d)
	hpa := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: namespace}}
	hpa.Spec = autoscalingv2.HorizontalPodAutoscalerSpec{MinReplicas: ptr.To(1 + s.rand.Int32N(2)), MaxReplicas: 3 + s.rand.Int32N(4),
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
		Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU,
			Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr.To[int32](50)}}}}}
	s.put("horizontalpodautoscalers", hpa)
	s.note("user: Deployment of %d, autoscaled between %d and %d", *d.Spec.Replicas, *hpa.Spec.MinReplicas, hpa.Spec.MaxReplicas)
}

func (p *autoscalePlot) load(w *world) (milli int64) {
	d := find[*appsv1.Deployment](w, "deployments", "web")
	if _, err := fmt.Sscan(d.Annotations[loadKey], &milli); err != nil {
		panic(fmt.Sprintf("read the load: %v", err)) // we wrote it
	}
	return milli
}

func (p *autoscalePlot) user(s *story) {
	switch n := s.rand.IntN(8); {
	case n < 3:
		edit(s.world, "deployments", "web", func(d *appsv1.Deployment) {
			d.Annotations[loadKey] = fmt.Sprint(100 * (1 + s.rand.IntN(12)))
			s.note("the load is %sm", d.Annotations[loadKey])
		})
	case n == 3:
		edit(s.world, "horizontalpodautoscalers", "web", func(h *autoscalingv2.HorizontalPodAutoscaler) {
			h.Spec.MaxReplicas = 3 + s.rand.Int32N(4)
			s.note("user: at most %d", h.Spec.MaxReplicas)
		})
	default:
		s.settle(time.Duration(s.rand.IntN(40)) * time.Second)
	}
}

func (p *autoscalePlot) accident(s *story) { s.mishap() }
func (p *autoscalePlot) calm(*story)       {}

func (p *autoscalePlot) check(s *story, e effect) {
	if e.resource != "deployments" || e.verb != "scale" {
		return
	}
	was, is := *e.before.(*appsv1.Deployment).Spec.Replicas, *e.out.(*appsv1.Deployment).Spec.Replicas
	if why := e.excused(func(saw sight) string {
		h, _ := saw["horizontalpodautoscalers"]["web"].(*autoscalingv2.HorizontalPodAutoscaler)
		if h == nil || is < *h.Spec.MinReplicas || is > h.Spec.MaxReplicas {
			return fmt.Sprintf("scaled to %d, where %d to %d may be", is, *h.Spec.MinReplicas, h.Spec.MaxReplicas)
		}
		if most := max(2*was, was+4, *h.Spec.MinReplicas); is > most {
			return fmt.Sprintf("scaled from %d to %d in one step", was, is)
		}
		return ""
	}); why != "" {
		s.fail("%s", why)
	}
}

func (p *autoscalePlot) end(s *story) {
	d := find[*appsv1.Deployment](s.world, "deployments", "web")
	h := find[*autoscalingv2.HorizontalPodAutoscaler](s.world, "horizontalpodautoscalers", "web")
	n := *d.Spec.Replicas
	// Each asks for 400m and should use half of that; a tenth more or less is right.
	use := float64(p.load(s.world)) / float64(n) / 200
	low, high := n == *h.Spec.MinReplicas, n == h.Spec.MaxReplicas
	if use > 1.1 && !high || use < 0.9 && !low && float64(p.load(s.world))/200 <= float64(n-1) || n < *h.Spec.MinReplicas || n > h.Spec.MaxReplicas {
		s.fail("calm, and %d pods use %.2f of what they should, of %d to %d: %+v", n, use, *h.Spec.MinReplicas, h.Spec.MaxReplicas, h.Status)
	}
	if have := s.census(); have.available != int(n) || h.Status.CurrentReplicas != n || h.Status.DesiredReplicas != n {
		s.fail("calm, and %d pods of %d; %+v", have.available, n, h.Status)
	}
}

// scaler is one program's way to the scale of Deployments.
type scaler struct{ client }

func (c scaler) Scales(string) scale.ScaleInterface { return scaleClient{client: c.client} }

type scaleClient struct {
	scale.ScaleInterface
	client
}

func scaleOf(d *appsv1.Deployment) *autoscalingv1.Scale {
	return &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: d.Name, Namespace: d.Namespace, UID: d.UID, ResourceVersion: d.ResourceVersion},
		Spec:   autoscalingv1.ScaleSpec{Replicas: *d.Spec.Replicas},
		Status: autoscalingv1.ScaleStatus{Replicas: d.Status.Replicas, Selector: metav1.FormatLabelSelector(d.Spec.Selector)}}
}

func (c scaleClient) Get(ctx context.Context, _ schema.GroupResource, name string, o metav1.GetOptions) (*autoscalingv1.Scale, error) {
	d, err := resource[appsv1.Deployment]{c.client, "deployments"}.Get(ctx, name, o)
	if err != nil {
		return nil, err
	}
	return scaleOf(d), nil
}

func (c scaleClient) Update(ctx context.Context, _ schema.GroupResource, in *autoscalingv1.Scale, _ metav1.UpdateOptions) (*autoscalingv1.Scale, error) {
	asked := &appsv1.Deployment{ObjectMeta: in.ObjectMeta}
	d, err := resource[appsv1.Deployment]{c.client, "deployments"}.write(ctx, "scale", asked, func(was, _ object) object {
		out := was.(*appsv1.Deployment).DeepCopy()
		out.Spec.Replicas = &in.Spec.Replicas
		out.Generation++
		return out
	})
	if err != nil {
		return nil, err
	}
	return scaleOf(d), nil
}

// scalable knows the one kind that has a scale here.
func scalable() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper([]schema.GroupVersion{appsv1.SchemeGroupVersion})
	m.Add(appsv1.SchemeGroupVersion.WithKind("Deployment"), meta.RESTScopeNamespace)
	return m
}

// meter is one program's way to what pods use: each that runs its part of the load.
type meter struct{ client }

func (c meter) PodMetricses(string) metricsclient.PodMetricsInterface {
	return meterClient{client: c.client}
}

type meterClient struct {
	metricsclient.PodMetricsInterface
	client
}

func (c meterClient) List(ctx context.Context, _ metav1.ListOptions) (*metricsv1beta1.PodMetricsList, error) {
	list := &metricsv1beta1.PodMetricsList{}
	asked := &call{verb: "list", resource: "podmetrics"}
	asked.do = func() error {
		var running []*corev1.Pod
		for _, pod := range all[*corev1.Pod](c.world, "pods") {
			if pod.Status.Phase == corev1.PodRunning && live(pod) {
				running = append(running, pod)
			}
		}
		for _, pod := range running {
			part := quantity.NewMilliQuantity((&autoscalePlot{}).load(c.world)/int64(len(running)), quantity.DecimalSI)
			list.Items = append(list.Items, metricsv1beta1.PodMetrics{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace}, Timestamp: metav1.Now(),
				Window:     metav1.Duration{Duration: 10 * time.Second},
				Containers: []metricsv1beta1.ContainerMetrics{{Name: "c", Usage: corev1.ResourceList{corev1.ResourceCPU: *part}}}})
		}
		return nil
	}
	return list, c.send(ctx, asked)
}
