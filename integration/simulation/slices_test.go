package simulation

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// slicesPlot is of a Service, and of the pods of a Deployment that come and go behind it.
type slicesPlot struct{}

func (p *slicesPlot) parts() []string { return []string{"deployment", "replicaset", "endpointslice"} }

func (p *slicesPlot) ownerless() {}

func (p *slicesPlot) begin(s *story) {
	labels := map[string]string{"app": "web"}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: namespace}}
	d.Spec = appsv1.DeploymentSpec{Replicas: ptr.To(1 + s.rand.Int32N(4)), RevisionHistoryLimit: ptr.To[int32](1), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template("web", "v0"),
		Strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}}
	s.put("deployments", d)
	s.note("user: Deployment of %d", *d.Spec.Replicas)
	p.serve(s)
}

func (p *slicesPlot) serve(s *story) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: namespace}}
	svc.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, Selector: map[string]string{"app": "web"}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
		ClusterIP: "10.96.0.9", ClusterIPs: []string{"10.96.0.9"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080), Protocol: corev1.ProtocolTCP}}}
	s.put("services", svc)
	s.note("user: Service")
}

func (p *slicesPlot) user(s *story) {
	switch n := s.rand.IntN(6); {
	case n == 0 && s.table("services").objects["web"] == nil:
		p.serve(s)
	case n == 0 && s.rand.IntN(2) == 0:
		s.note("user: delete the Service")
		s.remove("services", "web")
		s.sweep()
	case n == 1:
		edit(s.world, "deployments", "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = fmt.Sprint("v", s.rand.IntN(3)) })
	case n < 4:
		edit(s.world, "deployments", "web", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To(s.rand.Int32N(5)) })
	case s.table("services").objects["web"] != nil:
		edit(s.world, "services", "web", func(svc *corev1.Service) { svc.Spec.Ports[0].TargetPort = intstr.FromInt32(8080 + s.rand.Int32N(2)) })
	}
}

func (p *slicesPlot) accident(s *story) {
	switch slices := all[*discoveryv1.EndpointSlice](s.world, "endpointslices"); {
	case s.rand.IntN(3) == 0:
		s.nodeLeaves()
	case len(slices) > 0 && s.rand.IntN(3) == 0:
		p.meddle(s, pick(s, slices).Name)
	default:
		s.mishap()
	}
}

// meddle takes a slice away, or what it says.
func (p *slicesPlot) meddle(s *story, name string) {
	switch s.rand.IntN(3) {
	case 0:
		s.note("somebody deletes slice %s", name)
		s.remove("endpointslices", name)
	case 1:
		s.note("somebody makes slice %s his own", name)
		edit(s.world, "endpointslices", name, func(e *discoveryv1.EndpointSlice) { e.Labels[discoveryv1.LabelManagedBy] = "somebody" })
	case 2:
		s.note("somebody empties slice %s", name)
		edit(s.world, "endpointslices", name, func(e *discoveryv1.EndpointSlice) { e.Endpoints, e.Generation = nil, e.Generation+1 })
	}
}

func (p *slicesPlot) calm(*story) {}

func (p *slicesPlot) check(s *story, e effect) {
	slice, ok := e.out.(*discoveryv1.EndpointSlice)
	if !ok || e.verb == "delete" {
		return
	}
	for _, end := range slice.Endpoints {
		if why := e.excused(func(saw sight) string { return whyNotThere(end, saw) }); why != "" {
			s.fail("%s", why)
		}
	}
}

// whyNotThere says what is wrong with an endpoint, by what was known of its pod.
func whyNotThere(end discoveryv1.Endpoint, saw sight) string {
	pod, _ := saw["pods"][end.TargetRef.Name].(*corev1.Pod)
	switch {
	case pod == nil || pod.UID != end.TargetRef.UID:
		return fmt.Sprintf("endpoint %v of a pod that is not there", end)
	case len(end.Addresses) != 1 || end.Addresses[0] != pod.Status.PodIP || ptr.Deref(end.NodeName, "") != pod.Spec.NodeName:
		return fmt.Sprintf("endpoint %v of pod %s at %s on %s", end, pod.Name, pod.Status.PodIP, pod.Spec.NodeName)
	case ptr.Deref(end.Conditions.Ready, true) != available(pod):
		return fmt.Sprintf("endpoint %v of pod %s, available %t", end, pod.Name, available(pod))
	}
	return ""
}

func (p *slicesPlot) end(s *story) {
	want := map[string]bool{}
	svc := find[*corev1.Service](s.world, "services", "web")
	for _, pod := range all[*corev1.Pod](s.world, "pods") {
		if svc != nil && available(pod) {
			want[pod.Status.PodIP] = true
		}
	}
	have := map[string]bool{}
	for _, slice := range all[*discoveryv1.EndpointSlice](s.world, "endpointslices") {
		if slice.Labels[discoveryv1.LabelManagedBy] == "somebody" {
			continue
		}
		if svc == nil || metav1.GetControllerOfNoCopy(slice).UID != svc.UID {
			s.fail("calm, and slice %s is of no Service", slice.Name)
			continue
		}
		for _, end := range slice.Endpoints {
			ip := end.Addresses[0]
			if have[ip] {
				s.fail("calm, and %s is told twice", ip)
			}
			if have[ip] = true; !want[ip] || !ptr.Deref(end.Conditions.Ready, false) || *slice.Ports[0].Port != svc.Spec.Ports[0].TargetPort.IntVal {
				s.fail("calm, and an endpoint is %v, port %d", end, *slice.Ports[0].Port)
			}
		}
	}
	if len(have) != len(want) {
		s.fail("calm, and the slices tell of %v, of %v", have, want)
	}
	if !s.everybodyKnows() {
		s.fail("calm, and somebody does not know")
	}
}
