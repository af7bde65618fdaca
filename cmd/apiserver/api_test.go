package apiserver

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
)

// namespace makes a namespace with the service account that pods need.
func namespace(t *testing.T, name string) string {
	t.Helper()
	if _, err := shared.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := shared.client.CoreV1().ServiceAccounts(name).Create(t.Context(), sa, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return name
}

func pod(name string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "image"}}}}
}

// inStore returns the keys under a prefix.
func inStore(t *testing.T, prefix string) []string {
	t.Helper()
	r, err := shared.etcd.Server.KV().Range(t.Context(), []byte(prefix), []byte(prefix+"\xff"), rangeAll())
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, kv := range r.KVs {
		keys = append(keys, string(kv.Key))
	}
	return keys
}

func TestKeysAndEncodingAreUpstreams(t *testing.T) {
	ns := namespace(t, "keys")
	ctx := t.Context()
	if _, err := shared.client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "keys"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := shared.client.CoreV1().Pods(ns).Create(ctx, pod("p", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"/registry/minions/keys", "/registry/pods/keys/p", "/registry/services/specs/default/kubernetes", "/registry/ranges/servicenodeports"} {
		if got := inStore(t, key); len(got) != 1 || got[0] != key {
			t.Errorf("keys under %s = %v, want it alone", key, got)
		}
	}
	r, err := shared.etcd.Server.KV().Range(ctx, []byte("/registry/pods/keys/p"), nil, rangeAll())
	if err != nil || len(r.KVs) != 1 || !strings.HasPrefix(string(r.KVs[0].Value), "k8s\x00") {
		t.Errorf("stored pod does not begin with the mark of protobuf: %v, %v", r, err)
	}
}

func TestErrors(t *testing.T) {
	ns := namespace(t, "errors")
	ctx := t.Context()
	cm, err := shared.client.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	changed := cm.DeepCopy()
	changed.Data = map[string]string{"a": "b"}
	if _, err := shared.client.CoreV1().ConfigMaps(ns).Update(ctx, changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	wrongToken := shared.anonymousConfig()
	wrongToken.BearerToken = "wrong"
	withToken, err := kubernetes.NewForConfig(wrongToken)
	if err != nil {
		t.Fatal(err)
	}
	nobody, err := kubernetes.NewForConfig(shared.anonymousConfig())
	if err != nil {
		t.Fatal(err)
	}
	post := func(body string, params map[string]string) error {
		req := shared.client.CoreV1().RESTClient().Post().Namespace(ns).Resource("configmaps").SetHeader("Content-Type", "application/json").Body([]byte(body))
		for k, v := range params {
			req = req.Param(k, v)
		}
		return req.Do(ctx).Error()
	}
	for _, tt := range []struct {
		name string
		err  func() error
		want string
	}{
		{"stale version", func() error {
			_, err := shared.client.CoreV1().ConfigMaps(ns).Update(ctx, cm, metav1.UpdateOptions{})
			return err
		}, `Operation cannot be fulfilled on configmaps "c": the object has been modified; please apply your changes to the latest version and try again`},
		{"wrong token", func() error { _, err := withToken.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{}); return err }, "Unauthorized"},
		{"no credential", func() error { _, err := nobody.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{}); return err },
			`pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" in the namespace "errors"`},
		{"forbidden verb", func() error {
			return shared.as(t, "alice").CoreV1().Secrets(ns).Delete(ctx, "s", metav1.DeleteOptions{})
		}, `secrets "s" is forbidden: User "alice" cannot delete resource "secrets" in API group "" in the namespace "errors"`},
		{"unknown field, strict", func() error {
			return post(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"dat":{}}`, map[string]string{"fieldValidation": "Strict"})
		}, `ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "dat"`},
		{"no JSON", func() error { return post(`kind`, nil) }, "couldn't get version/kind; json parse error"},
		{"another kind", func() error { return post(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"}}`, nil) },
			`Pod in version "v1" cannot be handled as a ConfigMap`},
		{"bad name", func() error { return post(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"X"}}`, nil) },
			`ConfigMap "X" is invalid: metadata.name: Invalid value: "X": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`},
		{"bad field selector", func() error {
			_, err := shared.client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{FieldSelector: "spec.x=y"})
			return err
		}, `field label not supported: spec.x`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.err()
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestPodLife(t *testing.T) {
	ns := namespace(t, "pods")
	ctx := t.Context()
	pods := shared.client.CoreV1().Pods(ns)
	created, err := pods.Create(ctx, pod("p", nil), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(corev1.PodStatus{Phase: corev1.PodPending, QOSClass: corev1.PodQOSBestEffort}, created.Status); diff != "" {
		t.Errorf("status of a new pod (-want +got):\n%s", diff)
	}
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}
	if err := pods.Bind(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := pods.Bind(ctx, binding, metav1.CreateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("second binding: %v, want a conflict", err)
	}
	list, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n1,status.phase=Pending"})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("pods of the node: %v, %v, want one", list, err)
	}
	if c := list.Items[0].Status.Conditions; len(c) != 1 || c[0].Type != corev1.PodScheduled || c[0].Status != corev1.ConditionTrue {
		t.Errorf("conditions after binding = %v", c)
	}
	if err := pods.Delete(ctx, "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := pods.Get(ctx, "p", metav1.GetOptions{})
	if err != nil || got.DeletionGracePeriodSeconds == nil || *got.DeletionGracePeriodSeconds != 30 {
		t.Fatalf("pod after delete: %v, %v, want it terminating in 30 s", got, err)
	}
	now := int64(0)
	if err := pods.Delete(ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(ctx, "p", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("pod after the kubelet's delete: %v, want not found", err)
	}
}

func TestUnscheduledPodIsDeletedAtOnce(t *testing.T) {
	pods := shared.client.CoreV1().Pods(namespace(t, "unscheduled"))
	if _, err := pods.Create(t.Context(), pod("p", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := pods.Delete(t.Context(), "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(t.Context(), "p", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("got %v, want not found", err)
	}
}

func TestEvictionAsksTheBudget(t *testing.T) {
	ns := namespace(t, "eviction")
	ctx := t.Context()
	pods, budgets := shared.client.CoreV1().Pods(ns), shared.client.PolicyV1().PodDisruptionBudgets(ns)
	p := pod("p", map[string]string{"a": "b"})
	p.Spec.NodeName = "n1"
	if _, err := pods.Create(ctx, p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	running := `{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`
	if _, err := pods.Patch(ctx, "p", types.MergePatchType, []byte(running), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	one := intstr.FromInt32(1)
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b"},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: p.Labels}}}
	if _, err := budgets.Create(ctx, budget, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	evict := func() error {
		eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: ns}}
		// The typed client would heed the server's wish to be asked again in 10 s, ten times.
		return shared.client.CoreV1().RESTClient().Post().Namespace(ns).Resource("pods").Name("p").SubResource("eviction").
			Body(eviction).MaxRetries(0).Do(ctx).Error()
	}
	for _, status := range []string{"", `{"status":{"observedGeneration":1,"currentHealthy":1,"desiredHealthy":1,"expectedPods":1,"disruptionsAllowed":0}}`} {
		if status != "" {
			if _, err := budgets.Patch(ctx, "b", types.MergePatchType, []byte(status), metav1.PatchOptions{}, "status"); err != nil {
				t.Fatal(err)
			}
		}
		if err := evict(); !apierrors.IsTooManyRequests(err) {
			t.Errorf("with budget status %q: %v, want too many requests", status, err)
		}
	}
	if _, err := budgets.Patch(ctx, "b", types.MergePatchType, []byte(`{"status":{"disruptionsAllowed":1}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	if err := evict(); err != nil {
		t.Fatal(err)
	}
	got, err := budgets.Get(ctx, "b", metav1.GetOptions{})
	if err != nil || got.Status.DisruptionsAllowed != 0 || len(got.Status.DisruptedPods) != 1 {
		t.Errorf("budget after eviction: %v, %v", got, err)
	}
}

func TestServiceAddresses(t *testing.T) {
	ns := namespace(t, "services")
	ctx := t.Context()
	services := shared.client.CoreV1().Services(ns)
	port := []corev1.ServicePort{{Port: 80}}
	// Many at once: no two may get the same address or port.
	var all sync.WaitGroup
	made := make([]*corev1.Service, 20)
	for i := range made {
		all.Go(func() {
			svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("s%d", i)}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: port}}
			var err error
			if made[i], err = services.Create(ctx, svc, metav1.CreateOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	ips, ports := map[string]bool{}, map[int32]bool{}
	for _, s := range made {
		ip, err := netip.ParseAddr(s.Spec.ClusterIP)
		if err != nil || !netip.MustParsePrefix("10.96.0.0/12").Contains(ip) || ips[s.Spec.ClusterIP] {
			t.Errorf("cluster IP %q is outside of the range or given twice (%v)", s.Spec.ClusterIP, err)
		}
		if p := s.Spec.Ports[0].NodePort; p < 30000 || p > 32767 || ports[p] {
			t.Errorf("node port %d is outside of the range or given twice", p)
		}
		ips[s.Spec.ClusterIP], ports[s.Spec.Ports[0].NodePort] = true, true
	}
	// What one has, nobody else gets; what it had, anybody may.
	first := made[0]
	again := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "again"}, Spec: corev1.ServiceSpec{ClusterIP: first.Spec.ClusterIP, Ports: port}}
	if _, err := services.Create(ctx, again, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "provided IP is already allocated") {
		t.Errorf("taken address: %v", err)
	}
	if err := services.Delete(ctx, first.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	again.Spec.Type, again.Spec.Ports = corev1.ServiceTypeNodePort, []corev1.ServicePort{{Port: 80, NodePort: first.Spec.Ports[0].NodePort}}
	if _, err := services.Create(ctx, again, metav1.CreateOptions{}); err != nil {
		t.Errorf("freed address and port: %v", err)
	}
	external := made[1].DeepCopy()
	external.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"}
	got, err := services.Update(ctx, external, metav1.UpdateOptions{})
	if err != nil || got.Spec.ClusterIP != "" || len(inStore(t, "/registry/ipaddresses/"+made[1].Spec.ClusterIP)) != 0 {
		t.Errorf("after change to ExternalName: %v, %v, want no address and no claim", got, err)
	}
}

func TestNamespaceDeletionWaitsForFinalize(t *testing.T) {
	ns := namespace(t, "doomed")
	ctx := t.Context()
	spaces := shared.client.CoreV1().Namespaces()
	if err := spaces.Delete(ctx, ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := spaces.Get(ctx, ns, metav1.GetOptions{})
	if err != nil || got.Status.Phase != corev1.NamespaceTerminating {
		t.Fatalf("after delete: %v, %v, want it terminating", got, err)
	}
	_, err = shared.client.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "late"}}, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("create in a terminating namespace: %v, want forbidden", err)
	}
	got.Spec.Finalizers = nil
	if _, err := spaces.Finalize(ctx, got, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := spaces.Get(ctx, ns, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after finalize: %v, want not found", err)
	}
}

func TestScaleStatusAndApply(t *testing.T) {
	ns := namespace(t, "scale")
	ctx := t.Context()
	labels := map[string]string{"a": "b"}
	deployments := shared.client.AppsV1().Deployments(ns)
	d, err := deployments.Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod("", nil).Spec},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	scaled, err := deployments.UpdateScale(ctx, "d", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: ns}, Spec: autoscalingv1.ScaleSpec{Replicas: 3}}, metav1.UpdateOptions{})
	if err != nil || scaled.Spec.Replicas != 3 || scaled.Status.Selector != "a=b" {
		t.Fatalf("scale = %v, %v", scaled, err)
	}
	d.Status.Replicas = 7
	d.ResourceVersion = ""
	if d, err = deployments.Update(ctx, d, metav1.UpdateOptions{}); err != nil || d.Status.Replicas != 0 || d.Generation != 3 {
		t.Errorf("update: replicas in status %d, generation %d, %v; want 0 and 3: status is no business of an update", d.Status.Replicas, d.Generation, err)
	}
	d.Status.Replicas, d.Spec.Paused = 7, true
	if d, err = deployments.UpdateStatus(ctx, d, metav1.UpdateOptions{}); err != nil || d.Status.Replicas != 7 || d.Spec.Paused || d.Generation != 3 {
		t.Errorf("update of status: %v, %v; want only the status changed", d, err)
	}
	cm := corev1apply.ConfigMap("c", ns).WithData(map[string]string{"k": "1"})
	maps := shared.client.CoreV1().ConfigMaps(ns)
	if _, err := maps.Apply(ctx, cm, metav1.ApplyOptions{FieldManager: "one"}); err != nil {
		t.Fatal(err)
	}
	cm.WithData(map[string]string{"k": "2"})
	if _, err := maps.Apply(ctx, cm, metav1.ApplyOptions{FieldManager: "two"}); !apierrors.IsConflict(err) {
		t.Errorf("apply of a field that another owns: %v, want a conflict", err)
	}
}

func TestEventsAreSharedByBothAPIs(t *testing.T) {
	ns := namespace(t, "events")
	ctx := t.Context()
	if _, err := shared.client.EventsV1().Events(ns).Create(ctx, &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e"}, EventTime: metav1.NowMicro(), ReportingController: "test", ReportingInstance: "test-1",
		Action: "Testing", Reason: "Tested", Type: "Normal", Note: "seen", Regarding: corev1.ObjectReference{Kind: "Pod", Name: "p", Namespace: ns},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	list, err := shared.client.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=p,reason=Tested"})
	if err != nil || len(list.Items) != 1 || list.Items[0].Message != "seen" {
		t.Errorf("core events = %v, %v, want the one", list, err)
	}
}

// A webhook that cannot be reached must stop what it is there to judge: a default that is missing would let it through.
func TestDeadWebhookFailsClosed(t *testing.T) {
	ns := namespace(t, "webhook")
	ctx := t.Context()
	hooks := shared.client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	target := "https://127.0.0.1:1/x"
	none := admissionregistrationv1.SideEffectClassNone
	_, err := hooks.Create(ctx, &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "dead"},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "dead.example.com", ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: &target},
			SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
			Rules: []admissionregistrationv1.RuleWithOperations{{Operations: []admissionregistrationv1.OperationType{"CREATE"},
				Rule: admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"podtemplates"}}}},
		}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer hooks.Delete(context.WithoutCancel(ctx), "dead", metav1.DeleteOptions{})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		template := &corev1.PodTemplate{ObjectMeta: metav1.ObjectMeta{GenerateName: "t"}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: pod("", nil).Spec}}
		_, err := shared.client.CoreV1().PodTemplates(ns).Create(ctx, template, metav1.CreateOptions{})
		if err != nil && strings.Contains(err.Error(), `failed calling webhook "dead.example.com"`) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("create with a dead webhook: %v, want its refusal", err)
		}
	}
}

func TestSigningRequestTellsWhoAsked(t *testing.T) {
	ctx := t.Context()
	csrs := shared.client.CertificatesV1().CertificateSigningRequests()
	csr, err := csrs.Create(ctx, &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "c"},
		Spec: certificatesv1.CertificateSigningRequestSpec{Request: request(t), SignerName: "example.com/signer", Username: "somebody-else",
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if csr.Spec.Username != "kubernetes-admin" {
		t.Errorf("username = %q, want that of the client", csr.Spec.Username)
	}
	approved := certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"}
	csr.Status.Conditions = append(csr.Status.Conditions, approved)
	if got, err := csrs.UpdateStatus(ctx, csr, metav1.UpdateOptions{}); err != nil || len(got.Status.Conditions) != 0 {
		t.Errorf("approval by status: %v, %v, want it ignored", got, err)
	}
	csr.ResourceVersion = ""
	if got, err := csrs.UpdateApproval(ctx, "c", csr, metav1.UpdateOptions{}); err != nil || len(got.Status.Conditions) != 1 {
		t.Errorf("approval: %v, %v, want one condition", got, err)
	}
	// What a signer said stays said, and no request is for nobody in particular.
	patch := func(to, body string) error {
		_, err := csrs.Patch(ctx, "c", types.MergePatchType, []byte(body), metav1.PatchOptions{}, to)
		return err
	}
	if err := patch("status", `{"status":{"conditions":[{"type":"Failed","status":"True"}]}}`); err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{`{"status":{"conditions":[]}}`, `{"status":{"conditions":null}}`} {
		if err := patch("status", body); err == nil || !strings.Contains(err.Error(), `status.conditions: Forbidden: updates may not remove a condition of type "Failed"`) {
			t.Errorf("without what failed: %v", err)
		}
	}
	odd := `{"status":{"conditions":[{"type":"Approved","status":"True"},{"type":"Failed","status":"True"},{"type":"Other","status":"Maybe"}]}}`
	if err := patch("approval", odd); err == nil || !strings.Contains(err.Error(), `status.conditions[2].status: Unsupported value: "Maybe"`) {
		t.Errorf("approval with an odd condition: %v", err)
	}
	csr.Name, csr.Spec.SignerName = "legacy", "kubernetes.io/legacy-unknown"
	if _, err := csrs.Create(ctx, csr, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "the legacy signerName is not allowed via this API version") {
		t.Errorf("a request for the legacy signer: %v", err)
	}
}

// The API server, not the client, must reach the kubelet, show it its certificate, and speak the kubelet's words.
func TestLogsComeFromTheKubelet(t *testing.T) {
	ns := namespace(t, "logs")
	ctx := t.Context()
	asked := make(chan string, 1)
	kubelet := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.String()
		fmt.Fprint(w, "hello\n")
	}))
	defer kubelet.Close()
	addr := kubelet.Listener.Addr().(*net.TCPAddr)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "logs"}, Status: corev1.NodeStatus{
		Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: addr.IP.String()}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(addr.Port)}},
	}}
	if _, err := shared.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p := pod("p", nil)
	p.Spec.NodeName = "logs"
	if _, err := shared.client.CoreV1().Pods(ns).Create(ctx, p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	lines := int64(3)
	got, err := shared.client.CoreV1().Pods(ns).GetLogs("p", &corev1.PodLogOptions{TailLines: &lines, Timestamps: true}).DoRaw(ctx)
	if err != nil || string(got) != "hello\n" {
		t.Fatalf("logs = %q, %v", got, err)
	}
	if want, got := "/containerLogs/logs/p/c?tailLines=3&timestamps=true", <-asked; got != want {
		t.Errorf("kubelet was asked for %s, want %s", got, want)
	}
	_, err = shared.client.CoreV1().Pods(ns).GetLogs("p", &corev1.PodLogOptions{Container: "x"}).DoRaw(ctx)
	if !apierrors.IsBadRequest(err) {
		t.Errorf("logs of a container that is not there: %v", err)
	}
}

func TestStringDataIsStoredAsData(t *testing.T) {
	ns := namespace(t, "strings")
	secrets := shared.client.CoreV1().Secrets(ns)
	s, err := secrets.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"a": "b"}}, metav1.CreateOptions{})
	if err != nil || string(s.Data["a"]) != "b" || s.StringData != nil {
		t.Fatalf("created: %v, %v", s, err)
	}
	s, err = secrets.Patch(t.Context(), "s", types.MergePatchType, []byte(`{"stringData":{"a":"c"}}`), metav1.PatchOptions{})
	if err != nil || string(s.Data["a"]) != "c" || s.StringData != nil {
		t.Errorf("patched: %v, %v", s, err)
	}
}
