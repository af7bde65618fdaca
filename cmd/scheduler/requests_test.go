package scheduler

import (
	"math/rand/v2"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/utils/ptr"
)

// What pods request, with floors and without, is what the library says with all that it looks at, also where less is looked at.
func TestRequestsAreTheLibrarys(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	list := func() corev1.ResourceList {
		l := corev1.ResourceList{}
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, "example.com/thing"} {
			if r.IntN(4) > 0 {
				l[name] = *resource.NewQuantity(int64(r.IntN(5)), resource.DecimalSI)
			}
		}
		return l
	}
	some := func() bool { return r.IntN(6) == 0 }
	for range 3000 {
		p := testPod("p", func(p *corev1.Pod) {
			p.Spec.Containers = nil
			for _, name := range []string{"a", "b", "c"}[:1+r.IntN(3)] {
				p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: list()}})
				if status := (corev1.ContainerStatus{Name: name}); r.IntN(2) == 0 {
					if some() {
						status.AllocatedResources = list()
					}
					if some() {
						status.Resources = &corev1.ResourceRequirements{Requests: list()}
					}
					p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, status)
				}
			}
			for _, name := range []string{"i", "j"}[:r.IntN(3)] {
				init := corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: list()}}
				if r.IntN(2) == 0 {
					init.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
				}
				p.Spec.InitContainers = append(p.Spec.InitContainers, init)
			}
			if some() {
				p.Spec.Overhead = list()
			}
			if some() {
				p.Spec.Resources = &corev1.ResourceRequirements{Requests: list()}
			}
			if some() {
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodResizePending, Reason: corev1.PodReasonInfeasible}}
			}
		})
		got := NewPod(p)
		requests := resourcesOf(resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{UseStatusResources: true}))
		requests.Pods = 1
		scored := resourcesOf(resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{UseStatusResources: true, NonMissingContainerRequests: floorRequests()}))
		if !reflect.DeepEqual(got.requests, requests) || !reflect.DeepEqual(got.scored, scored) {
			t.Fatalf("%+v and %+v, want %+v and %+v, of %+v %+v", got.requests, got.scored, requests, scored, p.Spec, p.Status)
		}
	}
}
