package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	autoscalingv1apply "k8s.io/client-go/applyconfigurations/autoscaling/v1"
)

func TestResize(t *testing.T) {
	ns := namespace(t, "resize")
	ctx := t.Context()
	pods := shared.client.CoreV1().Pods(ns)
	p := pod("p", nil)
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("64Mi")},
		Limits:   corev1.ResourceList{"cpu": resource.MustParse("200m"), "memory": resource.MustParse("128Mi")}}
	if _, err := pods.Create(ctx, p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	resize := func(body string, o metav1.PatchOptions) (*corev1.Pod, error) {
		return pods.Patch(ctx, "p", types.StrategicMergePatchType, []byte(body), o, "resize")
	}
	const more = `{"metadata":{"labels":{"sneaked":"in"}},"spec":{"activeDeadlineSeconds":5,"containers":[{"name":"c","image":"other","resources":{"requests":{"cpu":"150m"}}}]}}`
	if got, err := resize(more, metav1.PatchOptions{DryRun: []string{"All"}}); err != nil || got.Generation != 2 {
		t.Fatalf("dry run: %v, %v", got, err)
	}
	if got, err := pods.Get(ctx, "p", metav1.GetOptions{}); err != nil || got.Generation != 1 {
		t.Errorf("after the dry run: generation %d, %v", got.Generation, err)
	}
	got, err := resize(more, metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c := got.Spec.Containers[0]
	if c.Resources.Requests.Cpu().String() != "150m" || c.Image != "image" || got.Labels["sneaked"] != "" || got.Spec.ActiveDeadlineSeconds != nil || got.Generation != 2 {
		t.Errorf("resized: %v; want the resources changed and nothing else, generation 2", got)
	}
	for _, tt := range []struct{ name, body, want string }{
		{"another class", `{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"200m","memory":"128Mi"}}}]}}`, "Pod QOS Class may not change as a result of resizing"},
		{"another container", `{"spec":{"containers":[{"name":"d","image":"x"}]}}`, "containers may not be added or removed on resize"},
		{"negative", `{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"-1"}}}]}}`, "must be greater than or equal to 0"},
	} {
		if _, err := resize(tt.body, metav1.PatchOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
	_, err = pods.Patch(ctx, "p", types.StrategicMergePatchType, []byte(`{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"160m"}}}]}}`), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) {
		t.Errorf("resources changed without the subresource: %v", err)
	}
	got.Spec.Containers[0].Resources.Limits["cpu"] = resource.MustParse("300m")
	got.ResourceVersion = "1"
	if _, err := pods.UpdateResize(ctx, "p", got, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("stale PUT: %v", err)
	}
	got.ResourceVersion = ""
	if got, err = pods.UpdateResize(ctx, "p", got, metav1.UpdateOptions{}); err != nil || got.Spec.Containers[0].Resources.Limits.Cpu().String() != "300m" || got.Generation != 3 {
		t.Errorf("PUT: %v, %v", got, err)
	}
	status := `{"status":{"observedGeneration":3,"conditions":[{"type":"PodResizePending","status":"True","reason":"Deferred","observedGeneration":3}]},"spec":{"nodeName":"x"}}`
	if got, err = pods.Patch(ctx, "p", types.StrategicMergePatchType, []byte(status), metav1.PatchOptions{}, "status"); err != nil ||
		got.Status.ObservedGeneration != 3 || got.Generation != 3 || got.Spec.NodeName != "" || got.Status.QOSClass != corev1.PodQOSBurstable {
		t.Errorf("status: %v, %v", got, err)
	}
}

// stored is what the store has of a test's objects: a key's change is a write.
func stored(t *testing.T, mark string) map[string]int64 {
	t.Helper()
	r, err := shared.etcd.Server.KV().Range(t.Context(), []byte("/registry/"), []byte("/registry0"), rangeAll())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int64{}
	for _, kv := range r.KVs {
		if strings.Contains(string(kv.Key), mark) || strings.HasPrefix(string(kv.Key), "/registry/ranges/") || strings.HasPrefix(string(kv.Key), "/registry/ipaddresses/") {
			out[string(kv.Key)] = kv.ModRevision
		}
	}
	return out
}

func TestDryRunWritesNothing(t *testing.T) {
	ns := namespace(t, "dry-run")
	ctx := t.Context()
	core, apps := shared.client.CoreV1(), shared.client.AppsV1()
	labels := map[string]string{"a": "b"}
	p := pod("dry-run", labels)
	if _, err := core.Pods(ns).Create(ctx, p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	one := intstr.FromInt32(0)
	if _, err := shared.client.PolicyV1().PodDisruptionBudgets(ns).Create(ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "dry-run"},
		Spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &one, Selector: &metav1.LabelSelector{MatchLabels: labels}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := apps.Deployments(ns).Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "dry-run"}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod("", nil).Spec},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "dry-run"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}}}
	if _, err := core.Services(ns).Create(ctx, service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	csr, err := shared.client.CertificatesV1().CertificateSigningRequests().Create(ctx, &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "dry-run"},
		Spec: certificatesv1.CertificateSigningRequestSpec{Request: request(t), SignerName: "example.com/signer", Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	all := []string{metav1.DryRunAll}
	before := stored(t, "dry-run")
	for name, do := range map[string]func() error{
		"create service": func() error {
			s := service.DeepCopy()
			s.Name = "dry-run-other"
			_, err := core.Services(ns).Create(ctx, s, metav1.CreateOptions{DryRun: all})
			return err
		},
		"turn service": func() error {
			_, err := core.Services(ns).Patch(ctx, "dry-run", types.MergePatchType, []byte(`{"spec":{"type":"ExternalName","externalName":"x.org"}}`), metav1.PatchOptions{DryRun: all})
			return err
		},
		"delete service":   func() error { return core.Services(ns).Delete(ctx, "dry-run", metav1.DeleteOptions{DryRun: all}) },
		"delete namespace": func() error { return core.Namespaces().Delete(ctx, ns, metav1.DeleteOptions{DryRun: all}) },
		"create a namespace": func() error {
			_, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "dry-run-other"}}, metav1.CreateOptions{DryRun: all})
			return err
		},
		"finalize": func() error {
			n, err := core.Namespaces().Get(ctx, ns, metav1.GetOptions{})
			if err != nil {
				return err
			}
			n.Spec.Finalizers = nil
			_, err = core.Namespaces().Finalize(ctx, n, metav1.UpdateOptions{DryRun: all})
			return err
		},
		"bind": func() error {
			return core.Pods(ns).Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "dry-run"}, Target: corev1.ObjectReference{Name: "n"}}, metav1.CreateOptions{DryRun: all})
		},
		"evict": func() error {
			return core.Pods(ns).EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "dry-run"}, DeleteOptions: &metav1.DeleteOptions{DryRun: all}})
		},
		"delete pods": func() error {
			return core.Pods(ns).DeleteCollection(ctx, metav1.DeleteOptions{DryRun: all}, metav1.ListOptions{})
		},
		"debug": func() error {
			_, err := core.Pods(ns).Patch(ctx, "dry-run", types.StrategicMergePatchType, []byte(`{"spec":{"ephemeralContainers":[{"name":"e","image":"e"}]}}`), metav1.PatchOptions{DryRun: all}, "ephemeralcontainers")
			return err
		},
		"status": func() error {
			_, err := core.Pods(ns).Patch(ctx, "dry-run", types.StrategicMergePatchType, []byte(`{"status":{"phase":"Running"}}`), metav1.PatchOptions{DryRun: all}, "status")
			return err
		},
		"scale": func() error {
			_, err := apps.Deployments(ns).UpdateScale(ctx, "dry-run", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "dry-run", Namespace: ns}, Spec: autoscalingv1.ScaleSpec{Replicas: 9}}, metav1.UpdateOptions{DryRun: all})
			return err
		},
		"approve": func() error {
			c := csr.DeepCopy()
			c.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"}}
			_, err := shared.client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, "dry-run", c, metav1.UpdateOptions{DryRun: all})
			return err
		},
		"apply": func() error {
			body := fmt.Sprintf(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"dry-run-applied","namespace":%q},"spec":{"ports":[{"port":80}]}}`, ns)
			_, err := core.Services(ns).Patch(ctx, "dry-run-applied", types.ApplyPatchType, []byte(body), metav1.PatchOptions{DryRun: all, FieldManager: "m"})
			return err
		},
	} {
		if err := do(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if after := stored(t, "dry-run"); !maps.Equal(before, after) {
			t.Errorf("%s changed the store (-before +after):\n%s", name, cmp.Diff(before, after))
			before = after
		}
	}
}

// kubectl get deployment web --subresource=scale shows these columns.
func TestScaleHasColumns(t *testing.T) {
	ns := namespace(t, "scale-table")
	rc := &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.ReplicationControllerSpec{
		Selector: map[string]string{"a": "b"}, Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: pod("a", nil).Spec}}}
	if _, err := shared.client.CoreV1().ReplicationControllers(ns).Create(t.Context(), rc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	body, err := shared.client.CoreV1().RESTClient().Get().Namespace(ns).Resource("replicationcontrollers").Name("a").SubResource("scale").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(t.Context())
	var table metav1.Table
	if err == nil {
		err = json.Unmarshal(body, &table)
	}
	if err != nil {
		t.Fatal(err)
	}
	var columns []string
	for _, c := range table.ColumnDefinitions {
		columns = append(columns, c.Name)
	}
	if got := strings.Join(columns, " "); got != "Name Desired Available Age" {
		t.Errorf("columns of a Scale: %s", got)
	}
}

func TestApplyOnScale(t *testing.T) {
	ns := namespace(t, "apply-scale")
	ctx := t.Context()
	deployments := shared.client.AppsV1().Deployments(ns)
	body := fmt.Sprintf(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d","namespace":%q},"spec":{"replicas":1,"selector":{"matchLabels":{"a":"b"}},
		"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`, ns)
	apply := func(manager, body string) error {
		_, err := deployments.Patch(ctx, "d", types.ApplyPatchType, []byte(body), metav1.PatchOptions{FieldManager: manager})
		return err
	}
	if err := apply("owner", body); err != nil {
		t.Fatal(err)
	}
	scale := autoscalingv1apply.Scale().WithName("d").WithNamespace(ns).WithSpec(autoscalingv1apply.ScaleSpec().WithReplicas(4))
	if _, err := deployments.ApplyScale(ctx, "d", scale, metav1.ApplyOptions{FieldManager: "scaler"}); !apierrors.IsConflict(err) {
		t.Fatalf("scale of replicas that another owns: %v, want a conflict", err)
	}
	got, err := deployments.ApplyScale(ctx, "d", scale, metav1.ApplyOptions{FieldManager: "scaler", Force: true})
	if err != nil || got.Spec.Replicas != 4 {
		t.Fatalf("forced scale: %v, %v", got, err)
	}
	// The owner gives replicas up: they are the scaler's, and stay.
	if err := apply("owner", strings.Replace(body, `"replicas":1,`, "", 1)); err != nil {
		t.Fatal(err)
	}
	d, err := deployments.Get(ctx, "d", metav1.GetOptions{})
	if err != nil || *d.Spec.Replicas != 4 {
		t.Fatalf("%v, %v, want 4 replicas", d, err)
	}
	var owners []string
	for _, m := range d.ManagedFields {
		var set map[string]any
		if err := json.Unmarshal(m.FieldsV1.Raw, &set); err != nil {
			t.Fatal(err)
		}
		if spec, _ := set["f:spec"].(map[string]any); spec["f:replicas"] != nil {
			owners = append(owners, m.Manager+"/"+m.Subresource+"/"+string(m.Operation)+"/"+m.APIVersion)
		}
	}
	if want := []string{"scaler/scale/Apply/apps/v1"}; !cmp.Equal(want, owners) {
		t.Errorf("owners of replicas = %v, want %v", owners, want)
	}
}

// A field manager does not come to own what a request cannot change: status outside of its subresource, and the rest in it.
func TestApplyResetsFields(t *testing.T) {
	ns := namespace(t, "apply-reset")
	ctx := t.Context()
	pods := shared.client.CoreV1().Pods(ns)
	if _, err := pods.Create(ctx, pod("p", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	apply := func(body, manager string, sub ...string) *corev1.Pod {
		t.Helper()
		got, err := pods.Patch(ctx, "p", types.ApplyPatchType, []byte(body), metav1.PatchOptions{FieldManager: manager}, sub...)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	fieldsOf := func(p *corev1.Pod, manager string) string {
		for _, m := range p.ManagedFields {
			if m.Manager == manager {
				return string(m.FieldsV1.Raw)
			}
		}
		return ""
	}
	got := apply(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"x":"y"}},"status":{"message":"no"}}`, "main")
	if f := fieldsOf(got, "main"); strings.Contains(f, "f:status") || !strings.Contains(f, "f:labels") || got.Status.Message != "" {
		t.Errorf("owned by an apply of the pod: %s", f)
	}
	got = apply(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"nodeName":"n"},"status":{"message":"yes"}}`, "status", "status")
	if f := fieldsOf(got, "status"); strings.Contains(f, "f:spec") || !strings.Contains(f, "f:message") || got.Status.Message != "yes" || got.Spec.NodeName != "" {
		t.Errorf("owned by an apply of the status: %s", f)
	}
}

func TestEvictionPreconditions(t *testing.T) {
	ns := namespace(t, "evict-other")
	ctx := t.Context()
	pods := shared.client.CoreV1().Pods(ns)
	p := pod("p", map[string]string{"a": "b"})
	p.Spec.NodeName = "n1"
	if _, err := pods.Create(ctx, p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Patch(ctx, "p", types.MergePatchType, []byte(`{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	budgets := shared.client.PolicyV1().PodDisruptionBudgets(ns)
	if _, err := budgets.Create(ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b"},
		Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: p.Labels}, MaxUnavailable: &intstr.IntOrString{IntVal: 1}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := budgets.Patch(ctx, "b", types.MergePatchType, []byte(`{"status":{"observedGeneration":1,"disruptionsAllowed":1}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	other := types.UID("other")
	err := pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p"}, DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &other}}})
	if !apierrors.IsConflict(err) {
		t.Errorf("eviction of another pod: %v, want a conflict", err)
	}
	if b, err := budgets.Get(ctx, "b", metav1.GetOptions{}); err != nil || b.Status.DisruptionsAllowed != 1 {
		t.Errorf("budget after it: %v, %v, want it untouched", b.Status, err)
	}
	err = shared.client.CoreV1().RESTClient().Post().Namespace(ns).Resource("pods").Name("p").SubResource("eviction").Param("dryRun", "All").
		Body(&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p"}, DeleteOptions: &metav1.DeleteOptions{DryRun: []string{"Other"}}}).Do(ctx).Error()
	if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), "Non-matching dry-run options in request and content: [All] and [Other]") {
		t.Errorf("eviction with two wishes for a dry run: %v", err)
	}
	if err := pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p"}}); err != nil {
		t.Fatal(err)
	}
	err = shared.client.CoreV1().RESTClient().Post().Namespace(ns).Resource("pods").Name("missing").SubResource("eviction").
		Body(&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "missing"}}).Do(context.WithoutCancel(ctx)).Error()
	if !apierrors.IsNotFound(err) {
		t.Errorf("eviction of a pod that is not there: %v", err)
	}
}
