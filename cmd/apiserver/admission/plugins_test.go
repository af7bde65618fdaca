package admission

import (
	"context"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	adm "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// run asks a plugin as the server does: first it may change, then it judges.
func run(t *testing.T, p adm.Interface, w write) error {
	t.Helper()
	a := w.attributes()
	if !p.Handles(w.op) {
		return nil
	}
	if m, ok := p.(adm.MutationInterface); ok {
		if err := m.Admit(t.Context(), a, nil); err != nil {
			return err
		}
	}
	if v, ok := p.(adm.ValidationInterface); ok {
		return v.Validate(t.Context(), a, nil)
	}
	return nil
}

// outcome checks a refusal by a part of its text; empty means that there must be none.
func outcome(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil {
		t.Errorf("refused: %v", err)
	}
	if want != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), want)) {
		t.Errorf("got %v, want forbidden with %q", err, want)
	}
}

func quantity(text string) corev1.ResourceList {
	if text == "" {
		return nil
	}
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(text)}
}

func claim(size, class string, phase corev1.PersistentVolumeClaimPhase) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data"}, Status: corev1.PersistentVolumeClaimStatus{Phase: phase}}
	c.Spec.Resources.Requests = quantity(size)
	if class != "" {
		c.Spec.StorageClassName = &class
	}
	return c
}

func claims(op adm.Operation, obj, old runtime.Object) write {
	return write{op: op, resource: corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims"), ns: "shop", name: "data", obj: obj, old: old}
}

func TestLimitsOfClaimsAndRatios(t *testing.T) {
	cpu := func(q string) corev1.ResourceList {
		if q == "" {
			return nil
		}
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(q)}
	}
	p := ready(t, newLimitRanger(), &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "l"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
		{Type: corev1.LimitTypePersistentVolumeClaim, Min: quantity("1Gi"), Max: quantity("2Gi")},
		{Type: corev1.LimitTypeContainer, MaxLimitRequestRatio: cpu("2")},
	}}})
	pod := func(request, limit string) write {
		return createPod(&corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: cpu(request), Limits: cpu(limit)}}}}})
	}
	for _, tt := range []struct {
		name string
		write
		want string
	}{
		{"a fitting claim", claims(adm.Create, claim("1Gi", "", ""), nil), ""},
		{"a small claim", claims(adm.Create, claim("1Mi", "", ""), nil), "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi"},
		{"a big claim", claims(adm.Create, claim("3Gi", "", ""), nil), "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"},
		{"a claim that grows too big", claims(adm.Update, claim("3Gi", "", ""), claim("1Gi", "", "")), "but request is 3Gi"},
		{"a claim for nothing", claims(adm.Create, claim("", "", ""), nil), "minimum storage usage per PersistentVolumeClaim is 1Gi.  No request is specified"},
		{"a fitting ratio", pod("1", "2"), ""},
		{"a ratio too high", pod("1", "3"), "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"},
		{"no request", pod("", "3"), "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0"},
		{"no limit", pod("1", ""), "cpu max limit to request ratio per Container is 2, but no limit is specified or limit is 0"},
	} {
		t.Run(tt.name, func(t *testing.T) { outcome(t, run(t, p, tt.write), tt.want) })
	}
}

func TestClaimResize(t *testing.T) {
	yes := true
	p := ready(t, newClaimResize(),
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "elastic"}, AllowVolumeExpansion: &yes},
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "stiff"}})
	const refusal = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"
	for _, tt := range []struct {
		name     string
		now, old *corev1.PersistentVolumeClaim
		want     string
	}{
		{"the same size", claim("1Gi", "stiff", "Bound"), claim("1Gi", "stiff", "Bound"), ""},
		{"smaller, which validation judges", claim("1Gi", "stiff", "Bound"), claim("2Gi", "stiff", "Bound"), ""},
		{"bigger", claim("2Gi", "elastic", "Bound"), claim("1Gi", "elastic", "Bound"), ""},
		{"bigger, of a class that does not grow", claim("2Gi", "stiff", "Bound"), claim("1Gi", "stiff", "Bound"), refusal},
		{"bigger, of no class", claim("2Gi", "", "Bound"), claim("1Gi", "", "Bound"), refusal},
		{"bigger, of a class that is gone", claim("2Gi", "gone", "Bound"), claim("1Gi", "gone", "Bound"), refusal},
		{"bigger before it is bound", claim("2Gi", "elastic", "Pending"), claim("1Gi", "elastic", "Pending"), "Only bound persistent volume claims can be expanded"},
	} {
		t.Run(tt.name, func(t *testing.T) { outcome(t, run(t, p, claims(adm.Update, tt.now, tt.old)), tt.want) })
	}
}

func TestInUse(t *testing.T) {
	pvc := claim("1Gi", "", "")
	if err := run(t, newInUse(), claims(adm.Create, pvc, nil)); err != nil || !slices.Equal(pvc.Finalizers, []string{"kubernetes.io/pvc-protection"}) {
		t.Errorf("claim: %v, %v", pvc.Finalizers, err)
	}
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Finalizers: []string{"kubernetes.io/pv-protection"}}}
	w := write{op: adm.Create, resource: corev1.SchemeGroupVersion.WithResource("persistentvolumes"), obj: pv}
	if err := run(t, newInUse(), w); err != nil || len(pv.Finalizers) != 1 {
		t.Errorf("volume: %v, %v", pv.Finalizers, err)
	}
	class := &storagev1.VolumeAttributesClass{}
	w = write{op: adm.Create, resource: storagev1.SchemeGroupVersion.WithResource("volumeattributesclasses"), obj: class}
	if err := run(t, newInUse(), w); err != nil || !slices.Equal(class.Finalizers, []string{"kubernetes.io/vac-protection"}) {
		t.Errorf("attributes class: %v, %v", class.Finalizers, err)
	}
}

func TestNamespacePlugins(t *testing.T) {
	exists := ready(t, newNamespaceExists(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	if err := run(t, exists, createPod(&corev1.Pod{})); err != nil {
		t.Errorf("a namespace that is there: %v", err)
	}
	lost := createPod(&corev1.Pod{})
	lost.ns = "gone"
	if err := run(t, exists, lost); !apierrors.IsNotFound(err) {
		t.Errorf("a namespace that is not there: %v", err)
	}
	provision := ready(t, newAutoProvision())
	if err := run(t, provision, lost); err != nil {
		t.Fatal(err)
	}
	if _, err := provision.client.CoreV1().Namespaces().Get(t.Context(), "gone", metav1.GetOptions{}); err != nil {
		t.Errorf("the namespace was not made: %v", err)
	}
}

func TestPodNodeSelector(t *testing.T) {
	plugin, err := newPodNodeSelector(strings.NewReader("podNodeSelectorPluginConfig:\n  clusterDefaultNodeSelector: env=prod\n  shop: env=test,rack=r1\n  other: env=prod\n"))
	if err != nil {
		t.Fatal(err)
	}
	p := ready(t, plugin, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Annotations: map[string]string{nodeSelectorAnnotation: "env=test"}}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other"}})
	for _, tt := range []struct {
		name, ns  string
		has, gets map[string]string
		want      string
	}{
		{"of the annotation", "shop", nil, map[string]string{"env": "test"}, ""},
		{"besides the pod's own", "shop", map[string]string{"rack": "r1"}, map[string]string{"env": "test", "rack": "r1"}, ""},
		{"against the namespace's", "shop", map[string]string{"env": "prod"}, nil, "pod node label selector conflicts with its namespace node label selector"},
		{"beyond what is allowed", "shop", map[string]string{"rack": "r2"}, nil, "pod node label selector labels conflict with its namespace whitelist"},
		{"of the cluster", "other", nil, map[string]string{"env": "prod"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{NodeSelector: tt.has}}
			w := createPod(pod)
			w.ns = tt.ns
			outcome(t, run(t, p, w), tt.want)
			if tt.want == "" && !equal(pod.Spec.NodeSelector, tt.gets) {
				t.Errorf("selector %v, want %v", pod.Spec.NodeSelector, tt.gets)
			}
		})
	}
	if _, err := newPodNodeSelector(strings.NewReader("podNodeSelectorPluginConfig: {shop: 'a in (b)'}")); err == nil {
		t.Error("a selector that is no map of labels passes")
	}
}

func TestRarerPlugins(t *testing.T) {
	service := func(op adm.Operation, now []string, old ...string) write {
		return write{op: op, resource: corev1.SchemeGroupVersion.WithResource("services"), ns: "shop",
			obj: &corev1.Service{Spec: corev1.ServiceSpec{ExternalIPs: now}}, old: &corev1.Service{Spec: corev1.ServiceSpec{ExternalIPs: old}}}
	}
	apart := func(key string) write {
		return createPod(&corev1.Pod{Spec: corev1.PodSpec{Affinity: &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: key}}}}}})
	}
	for _, tt := range []struct {
		name   string
		plugin adm.Interface
		write
		want string
	}{
		{"no external address", newExternalIPs(), service(adm.Create, nil), ""},
		{"an external address", newExternalIPs(), service(adm.Create, []string{"1.2.3.4"}), "Use of external IPs is denied by admission control."},
		{"one that was there before", newExternalIPs(), service(adm.Update, []string{"1.2.3.4"}, "1.2.3.4", "5.6.7.8"), ""},
		{"one more", newExternalIPs(), service(adm.Update, []string{"1.2.3.4", "5.6.7.8"}, "1.2.3.4"), "Use of external IPs is denied"},
		{"apart by host", newHardAntiAffinity(), apart(corev1.LabelHostname), ""},
		{"apart by zone", newHardAntiAffinity(), apart("zone"), "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey zone but only key kubernetes.io/hostname is allowed"},
		{"always", alwaysAdmit{}, apart("zone"), ""},
		{"never", alwaysDeny{}, apart(corev1.LabelHostname), "admission control is denying all modifications"},
	} {
		t.Run(tt.name, func(t *testing.T) { outcome(t, run(t, tt.plugin, tt.write), tt.want) })
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
		"acme.io/gpu": resource.MustParse("1"), "cpu": resource.MustParse("1"), "hugepages-2Mi": resource.MustParse("2Mi"), "pod.alpha.kubernetes.io/x": resource.MustParse("1")}}}}}}
	if err := run(t, newExtendedTolerations(), createPod(pod)); err != nil {
		t.Fatal(err)
	}
	if want := []corev1.Toleration{{Key: "acme.io/gpu", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}}; !equal(pod.Spec.Tolerations, want) {
		t.Errorf("tolerations %v, want %v", pod.Spec.Tolerations, want)
	}
}

func TestAlwaysPull(t *testing.T) {
	pod := func(image string, policy corev1.PullPolicy) *corev1.Pod {
		return &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: image, ImagePullPolicy: policy}},
			InitContainers: []corev1.Container{{Image: "init"}}}}
	}
	made := pod("a", corev1.PullNever)
	if err := run(t, newAlwaysPull(), createPod(made)); err != nil || made.Spec.Containers[0].ImagePullPolicy != corev1.PullAlways || made.Spec.InitContainers[0].ImagePullPolicy != corev1.PullAlways {
		t.Errorf("created: %v, %v", made.Spec, err)
	}
	update := func(now, old *corev1.Pod) adm.Attributes {
		return write{op: adm.Update, resource: pods(), ns: "shop", obj: now, old: old}.attributes()
	}
	outcome(t, newAlwaysPull().Validate(t.Context(), update(pod("a", corev1.PullNever), pod("a", corev1.PullNever)), nil), "")
	outcome(t, newAlwaysPull().Validate(t.Context(), update(pod("b", corev1.PullNever), pod("a", corev1.PullNever)), nil),
		`spec.containers[0].imagePullPolicy: Unsupported value: "Never": supported values: "Always"`)
}

func TestDefaultClasses(t *testing.T) {
	at := func(second int64) metav1.Time { return metav1.Unix(second, 0) }
	storage := ready(t, newDefaultStorageClass(),
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "old", CreationTimestamp: at(1), Annotations: map[string]string{betaDefaultStorageAnnotation: "true"}}},
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "new", CreationTimestamp: at(2), Annotations: map[string]string{defaultStorageAnnotation: "true"}}},
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "newest", CreationTimestamp: at(3)}})
	for own, want := range map[string]string{"": "new", "mine": "mine"} {
		pvc := claim("1Gi", own, "")
		if err := run(t, storage, claims(adm.Create, pvc, nil)); err != nil || pvc.Spec.StorageClassName == nil || *pvc.Spec.StorageClassName != want {
			t.Errorf("storage class %q becomes %v, %v", own, pvc.Spec.StorageClassName, err)
		}
	}
	none := claim("1Gi", "", "")
	none.Spec.StorageClassName = new(string)
	if err := run(t, storage, claims(adm.Create, none, nil)); err != nil || *none.Spec.StorageClassName != "" {
		t.Errorf("the choice of no class becomes %q, %v", *none.Spec.StorageClassName, err)
	}
	ingresses := ready(t, newDefaultIngressClass(), &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: "web",
		Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}}})
	ingress := new(networkingv1.Ingress)
	w := write{op: adm.Create, resource: networkingv1.SchemeGroupVersion.WithResource("ingresses"), ns: "shop", obj: ingress}
	if err := run(t, ingresses, w); err != nil || ingress.Spec.IngressClassName == nil || *ingress.Spec.IngressClassName != "web" {
		t.Errorf("ingress class %v, %v", ingress.Spec.IngressClassName, err)
	}
}

func TestRuntimeClass(t *testing.T) {
	overhead := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}
	p := ready(t, newRuntimeClass(), &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "vm"}, Handler: "vm",
		Overhead:   &nodev1.Overhead{PodFixed: overhead},
		Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"vm": "yes"}, Tolerations: []corev1.Toleration{{Key: "vm"}}}})
	pod := func(class string, edit func(*corev1.PodSpec)) *corev1.Pod {
		o := new(corev1.Pod)
		if class != "" {
			o.Spec.RuntimeClassName = &class
		}
		if edit != nil {
			edit(&o.Spec)
		}
		return o
	}
	good := pod("vm", nil)
	outcome(t, run(t, p, createPod(good)), "")
	if !equal(good.Spec.Overhead, overhead) || good.Spec.NodeSelector["vm"] != "yes" || len(good.Spec.Tolerations) != 1 {
		t.Errorf("pod %+v", good.Spec)
	}
	more := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("200m")}
	outcome(t, run(t, p, createPod(pod("none", nil))), `pod rejected: RuntimeClass "none" not found`)
	outcome(t, run(t, p, createPod(pod("vm", func(s *corev1.PodSpec) { s.Overhead = more }))), "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
	outcome(t, run(t, p, createPod(pod("", func(s *corev1.PodSpec) { s.Overhead = more }))), "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
	outcome(t, run(t, p, createPod(pod("vm", func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{"vm": "no"} }))),
		"conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no")
}

func TestOwnerReferences(t *testing.T) {
	p := newOwnerReferences()
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Node"), meta.RESTScopeRoot)
	p.SetRESTMapper(mapper)
	yes := true
	owner := func(blocks bool) []metav1.OwnerReference {
		r := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "n1-uid"}
		if blocks {
			r.BlockOwnerDeletion = &yes
		}
		return []metav1.OwnerReference{r}
	}
	pod := func(refs []metav1.OwnerReference) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", OwnerReferences: refs}}
	}
	update := func(now, old []metav1.OwnerReference) write {
		return write{op: adm.Update, resource: pods(), ns: "shop", name: "p", obj: pod(now), old: pod(old)}
	}
	for _, tt := range []struct {
		name string
		may  string // verb that the user may
		write
		want string
	}{
		{"unchanged", "", update(owner(true), owner(true)), ""},
		{"an owner at birth", "", createPod(pod(owner(false))), ""},
		{"a blocking owner at birth", "", createPod(pod(owner(true))), "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on"},
		{"a blocking owner at birth, with the right", "update", createPod(pod(owner(true))), ""},
		{"an owner later", "", update(owner(false), nil), "cannot set an ownerRef on a resource you can't delete"},
		{"an owner later, with the right", "delete", update(owner(false), nil), ""},
		{"a block later", "delete", update(owner(true), owner(false)), "cannot set blockOwnerDeletion"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p.SetUnconditionalAuthorizer(authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
				if a.GetVerb() == tt.may {
					return authorizer.DecisionAllow, "", nil
				}
				return authorizer.DecisionNoOpinion, "", nil
			}))
			outcome(t, run(t, p, tt.write), tt.want)
		})
	}
}
