package quota

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	library "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/utils/ptr"
)

func list(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

func pod(mutate ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	for _, m := range mutate {
		m(p)
	}
	return p
}

func asks(requests, limits corev1.ResourceList) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: requests, Limits: limits}
	}
}

func claim(class string, storage string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: &class, Resources: corev1.VolumeResourceRequirements{Requests: list("storage", storage)},
	}}
}

func evaluatorOf(t *testing.T, kind string) library.Evaluator {
	t.Helper()
	now := func() time.Time { return time.Unix(1000, 0) }
	for _, e := range Evaluators(nil, now) {
		if e.GroupResource().Resource == kind {
			return e
		}
	}
	t.Fatalf("no evaluator of %s", kind)
	return nil
}

func TestUsage(t *testing.T) {
	service := func(kind corev1.ServiceType, mutate func(*corev1.ServiceSpec)) *corev1.Service {
		s := &corev1.Service{Spec: corev1.ServiceSpec{Type: kind, Ports: []corev1.ServicePort{{Port: 1}, {Port: 2, NodePort: 30000}}}}
		if mutate != nil {
			mutate(&s.Spec)
		}
		return s
	}
	dead := metav1.NewTime(time.Unix(900, 0))
	exact := resourcev1.DeviceRequest{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", Count: 2, AllocationMode: resourcev1.DeviceAllocationModeExactCount}}
	either := resourcev1.DeviceRequest{FirstAvailable: []resourcev1.DeviceSubRequest{
		{DeviceClassName: "gpu", Count: 1}, {DeviceClassName: "gpu", Count: 3}, {DeviceClassName: "nic", AllocationMode: resourcev1.DeviceAllocationModeAll},
	}}
	for _, tc := range []struct {
		name, kind string
		obj        runtime.Object
		want       corev1.ResourceList
	}{
		{"empty pod", "pods", pod(), list("pods", "1", "count/pods", "1")},
		{"pod with everything", "pods", pod(asks(list("cpu", "1", "memory", "2Gi", "hugepages-2Mi", "4Mi", "example.com/gpu", "3"), list("cpu", "2", "ephemeral-storage", "1Gi"))),
			list("pods", "1", "count/pods", "1", "cpu", "1", "requests.cpu", "1", "memory", "2Gi", "requests.memory", "2Gi", "hugepages-2Mi", "4Mi",
				"requests.hugepages-2Mi", "4Mi", "requests.example.com/gpu", "3", "limits.cpu", "2", "limits.ephemeral-storage", "1Gi")},
		{"ended pod", "pods", pod(asks(list("cpu", "1"), nil), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), list("count/pods", "1")},
		{"pod past its grace", "pods", pod(func(p *corev1.Pod) { p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &dead, ptr.To[int64](30) }), list("count/pods", "1")},
		{"pod within its grace", "pods", pod(func(p *corev1.Pod) { p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &dead, ptr.To[int64](300) }),
			list("pods", "1", "count/pods", "1")},
		{"ClusterIP", "services", service(corev1.ServiceTypeClusterIP, nil), list("services", "1", "count/services", "1", "services.nodeports", "0", "services.loadbalancers", "0")},
		{"NodePort", "services", service(corev1.ServiceTypeNodePort, nil), list("services", "1", "count/services", "1", "services.nodeports", "2", "services.loadbalancers", "0")},
		{"LoadBalancer", "services", service(corev1.ServiceTypeLoadBalancer, nil), list("services", "1", "count/services", "1", "services.nodeports", "2", "services.loadbalancers", "1")},
		{"LoadBalancer without node ports", "services", service(corev1.ServiceTypeLoadBalancer, func(s *corev1.ServiceSpec) { s.AllocateLoadBalancerNodePorts = ptr.To(false) }),
			list("services", "1", "count/services", "1", "services.nodeports", "1", "services.loadbalancers", "1")},
		{"claim", "persistentvolumeclaims", claim("fast", "10Gi"), list("persistentvolumeclaims", "1", "count/persistentvolumeclaims", "1", "requests.storage", "10Gi",
			"fast.storageclass.storage.k8s.io/requests.storage", "10Gi", "fast.storageclass.storage.k8s.io/persistentvolumeclaims", "1")},
		{"devices", "resourceclaims", &resourcev1.ResourceClaim{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{exact, either}}}},
			list("count/resourceclaims.resource.k8s.io", "1", "gpu.deviceclass.resource.k8s.io/devices", "5", "nic.deviceclass.resource.k8s.io/devices", "32")},
		{"config map", "configmaps", &corev1.ConfigMap{}, list("configmaps", "1", "count/configmaps", "1")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := evaluatorOf(t, tc.kind)
			got, err := e.Usage(tc.obj)
			if err != nil || !library.Equals(got, tc.want) {
				t.Errorf("got %v, %v; want %v", got, err, tc.want)
			}
			if n := len(e.MatchingResources(library.ResourceNames(got))); n != len(got) {
				t.Errorf("it uses %d names, of which quotas may name %d", len(got), n)
			}
		})
	}
}

func TestScopes(t *testing.T) {
	terminating := pod(func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](5) })
	important := pod(func(p *corev1.Pod) { p.Spec.PriorityClassName = "high" })
	burst := pod(asks(nil, list("memory", "1Gi")))
	elsewhere := pod(func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
			{PodAffinityTerm: corev1.PodAffinityTerm{NamespaceSelector: &metav1.LabelSelector{}}},
		}}}
	})
	gold := claim("x", "1Gi")
	gold.Status.CurrentVolumeAttributesClassName = ptr.To("gold")
	in := func(scope corev1.ResourceQuotaScope, op corev1.ScopeSelectorOperator, values ...string) corev1.ScopedResourceSelectorRequirement {
		return corev1.ScopedResourceSelectorRequirement{ScopeName: scope, Operator: op, Values: values}
	}
	for _, tc := range []struct {
		name, kind string
		scope      corev1.ScopedResourceSelectorRequirement
		yes, no    runtime.Object
	}{
		{"terminating", "pods", in(corev1.ResourceQuotaScopeTerminating, corev1.ScopeSelectorOpExists), terminating, pod()},
		{"not terminating", "pods", in(corev1.ResourceQuotaScopeNotTerminating, corev1.ScopeSelectorOpExists), pod(), terminating},
		{"best effort", "pods", in(corev1.ResourceQuotaScopeBestEffort, corev1.ScopeSelectorOpExists), pod(), burst},
		{"not best effort", "pods", in(corev1.ResourceQuotaScopeNotBestEffort, corev1.ScopeSelectorOpExists), burst, pod(asks(list("example.com/x", "1"), nil))},
		{"a priority class", "pods", in(corev1.ResourceQuotaScopePriorityClass, corev1.ScopeSelectorOpExists), important, pod()},
		{"that priority class", "pods", in(corev1.ResourceQuotaScopePriorityClass, corev1.ScopeSelectorOpIn, "high"), important, pod()},
		{"another priority class", "pods", in(corev1.ResourceQuotaScopePriorityClass, corev1.ScopeSelectorOpNotIn, "high"), pod(), important},
		{"no priority class", "pods", in(corev1.ResourceQuotaScopePriorityClass, corev1.ScopeSelectorOpDoesNotExist), pod(), important},
		{"affinity elsewhere", "pods", in(corev1.ResourceQuotaScopeCrossNamespacePodAffinity, corev1.ScopeSelectorOpExists), elsewhere, pod()},
		{"attributes class", "persistentvolumeclaims", in(corev1.ResourceQuotaScopeVolumeAttributesClass, corev1.ScopeSelectorOpIn, "gold"), gold, claim("x", "1Gi")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := evaluatorOf(t, tc.kind)
			for want, obj := range map[int]runtime.Object{1: tc.yes, 0: tc.no} {
				got, err := e.MatchingScopes(obj, []corev1.ScopedResourceSelectorRequirement{tc.scope})
				if err != nil || len(got) != want {
					t.Errorf("%d scopes match, %v; want %d", len(got), err, want)
				}
			}
		})
	}
}

func TestPodMustSay(t *testing.T) {
	two := pod(asks(list("cpu", "1"), nil), func(p *corev1.Pod) {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "a"})
	})
	for _, tc := range []struct {
		name     string
		required []corev1.ResourceName
		pod      *corev1.Pod
		want     string
	}{
		{"all said", []corev1.ResourceName{"requests.cpu", "cpu"}, pod(asks(list("cpu", "1"), nil)), ""},
		{"nothing said", []corev1.ResourceName{"limits.memory", "cpu"}, two, "must specify cpu for: a; limits.memory for: a,c"},
		{"other resources need not be said", []corev1.ResourceName{"requests.ephemeral-storage", "requests.example.com/x", "pods"}, pod(), ""},
		{"said for the whole pod", []corev1.ResourceName{"requests.cpu"}, pod(func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: list("cpu", "1")}
		}), ""},
	} {
		err := evaluatorOf(t, "pods").Constraints(tc.required, tc.pod)
		if got := errText(err); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return strings.TrimSpace(err.Error())
}
