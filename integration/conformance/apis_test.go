package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/orlop-io/orlop/integration/clustertest"
)

func apiTests() map[string]test {
	const m = "[sig-api-machinery] "
	return map[string]test{
		m + "AggregatedDiscovery should support aggregated discovery interface":                                                                       quickly(aggregatedInterface),
		m + "AggregatedDiscovery should support raw aggregated discovery endpoint Accept headers":                                                     quickly(aggregatedRaw),
		m + "Discovery should locate the groupVersion and a resource within each APIGroup":                                                            quickly(groupsResolve),
		m + "Discovery should validate PreferredVersion for each APIGroup":                                                                            quickly(groupsResolve),
		m + "AdmissionWebhook [Privileged:ClusterAdmin] should include webhook resources in discovery documents":                                      quickly(webhookDiscovery),
		m + "CustomResourceDefinition resources [Privileged:ClusterAdmin] should include custom resource definition resources in discovery documents": quickly(crdDiscovery),
		m + "FieldValidation should detect unknown and duplicate fields of a typed object":                                                            quickly(strictTyped),
		m + "FieldValidation should detect unknown metadata fields of a typed object":                                                                 quickly(strictMetadata),
		m + "Namespaces should apply a finalizer to a Namespace":                                                                                      quickly(namespaceFinalizer),
		m + "Namespaces should apply an update to a Namespace":                                                                                        quickly(namespaceUpdate),
		m + "Namespaces should apply changes to a namespace status":                                                                                   quickly(namespaceStatus),
		m + "Namespaces should patch a Namespace":                                                                                                     quickly(namespaceUpdate),
		m + "Namespaces should ensure that all pods are removed when a namespace is deleted":                                                          slowly(namespaceEmpties),
		m + "Namespaces should ensure that all services are removed when a namespace is deleted":                                                      slowly(namespaceEmpties),
		m + "Servers with support for API chunking should return chunks of results for list calls":                                                    slowly(chunks),
		m + "Servers with support for Table transformation should return a 406 for a backend which does not implement metadata":                       quickly(tableRefused),
		m + "server version should find the server version":                                                                                           quickly(serverVersion),
		m + "Watchers should be able to restart watching from the last resource version observed by the previous watch":                               quickly(watchRestarts),
		m + "Watchers should be able to start watching from a specific resource version":                                                              quickly(watchFrom),
		m + "Watchers should observe add, update, and delete watch notifications on configmaps":                                                       quickly(watchSelected),
		m + "Watchers should observe an object deletion if it stops meeting the requirements of the selector":                                         quickly(watchLeaves),
		m + "Watchers should receive events on concurrent watches in same order":                                                                      quickly(watchOrder),
		"[sig-auth] ServiceAccounts should create a serviceAccountToken and ensure a successful TokenReview":                                          quickly(tokenReview),
		"[sig-auth] ServiceAccounts should guarantee kube-root-ca.crt exist in any namespace":                                                         quickly(rootCA),
		"[sig-auth] ServiceAccounts should update a ServiceAccount":                                                                                   quickly(updateAccount),
		"[sig-auth] ServiceAccounts should allow opting out of API token automount":                                                                   quickly(automount),
		"[sig-auth] ServiceAccounts should mount an API token into pods":                                                                              quickly(mountsToken),
		"[sig-auth] ServiceAccounts should mount projected service account token":                                                                     quickly(projectedToken),
		"[sig-auth] SubjectReview should support SubjectReview API operations":                                                                        quickly(subjectReview),
		"[sig-network] API Server should have Endpoints and EndpointSlices pointing to API Server":                                                    quickly(apiEndpoints),
		"[sig-network] API Server should provide secure master service":                                                                               quickly(apiService),
		"[sig-network] Services should find a service from listing all namespaces":                                                                    quickly(apiService),
		"[sig-node] RuntimeClass should reject a Pod requesting a non-existent RuntimeClass":                                                          quickly(runtimeClassMissing),
		"[sig-node] RuntimeClass should reject a Pod requesting a deleted RuntimeClass":                                                               quickly(runtimeClassMissing),
		"[sig-node] RuntimeClass should schedule a Pod requesting a RuntimeClass and initialize its Overhead":                                         quickly(runtimeClass(true)),
		"[sig-node] RuntimeClass should schedule a Pod requesting a RuntimeClass without PodOverhead":                                                 quickly(runtimeClass(false)),
		"[sig-node] Sysctls [LinuxOnly] should reject invalid sysctls":                                                                                quickly(badSysctls),
		"[sig-scheduling] LimitRange should create a LimitRange with defaults and ensure pod has those defaults applied.":                             quickly(limitRange),
		"[sig-scheduling] SchedulerPreemption PriorityClass endpoints verify PriorityClass endpoints can be operated with different HTTP methods":     quickly(priorityClass),
	}
}

func raw(t *testing.T, c *clustertest.Cluster, method, path, accept string, body string) (int, string, string) {
	t.Helper()
	client := must(rest.HTTPClientFor(c.Config))(t)
	req := must(http.NewRequestWithContext(t.Context(), method, c.Config.Host+path, strings.NewReader(body)))(t)
	req.Header.Set("Accept", accept)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp := must(client.Do(req))(t)
	defer resp.Body.Close()
	b := must(io.ReadAll(resp.Body))(t)
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(b)
}

func aggregatedInterface(t *testing.T, c *clustertest.Cluster) {
	_, lists, err := c.Client.Discovery().ServerGroupsAndResources()
	ok(t, err)
	have := map[string]bool{}
	for _, l := range lists {
		for _, r := range l.APIResources {
			have[l.GroupVersion+"/"+r.Name] = true
		}
	}
	for _, want := range []string{"v1/pods", "v1/services", "v1/namespaces", "apps/v1/deployments", "apps/v1/statefulsets", "batch/v1/jobs", "batch/v1/cronjobs",
		"networking.k8s.io/v1/networkpolicies", "policy/v1/poddisruptionbudgets", "rbac.authorization.k8s.io/v1/roles", "storage.k8s.io/v1/storageclasses",
		"autoscaling/v2/horizontalpodautoscalers", "apiextensions.k8s.io/v1/customresourcedefinitions", "apiregistration.k8s.io/v1/apiservices"} {
		if !have[want] {
			t.Errorf("discovery lacks %s", want)
		}
	}
}

func aggregatedRaw(t *testing.T, c *clustertest.Cluster) {
	for path, want := range map[string]string{"/api": `"resource":"pods"`, "/apis": `"resource":"deployments"`} {
		code, kind, body := raw(t, c, "GET", path, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "")
		if code != 200 || !strings.Contains(kind, "g=apidiscovery.k8s.io") || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s, want an APIGroupDiscoveryList with %s", path, code, kind, want)
		}
		if _, kind, _ := raw(t, c, "GET", path, "application/json", ""); strings.Contains(kind, "apidiscovery") {
			t.Errorf("%s without the header answers %s", path, kind)
		}
	}
}

func groupsResolve(t *testing.T, c *clustertest.Cluster) {
	groups := must(c.Client.Discovery().ServerGroups())(t)
	for _, g := range groups.Groups {
		if !slices.Contains(g.Versions, g.PreferredVersion) {
			t.Errorf("group %s prefers %v, which is none of its versions", g.Name, g.PreferredVersion)
		}
		if g.Name == "" || strings.HasSuffix(g.Name, ".example.com") { // those of other rows come and go
			continue
		}
		one := metav1.APIGroup{}
		_, _, body := raw(t, c, "GET", "/apis/"+g.Name, "application/json", "")
		ok(t, json.Unmarshal([]byte(body), &one))
		if one.Name != g.Name || one.PreferredVersion != g.PreferredVersion {
			t.Errorf("/apis/%s says %v", g.Name, one)
		}
		for _, v := range g.Versions {
			if list := must(c.Client.Discovery().ServerResourcesForGroupVersion(v.GroupVersion))(t); list.GroupVersion != v.GroupVersion || len(list.APIResources) == 0 {
				t.Errorf("%s lists %d resources of %s", v.GroupVersion, len(list.APIResources), list.GroupVersion)
			}
		}
	}
}

func webhookDiscovery(t *testing.T, c *clustertest.Cluster) {
	kind{resource: "admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"}.discovered(t, c)
	kind{resource: "admissionregistration.k8s.io/v1/validatingwebhookconfigurations"}.discovered(t, c)
}

func crdDiscovery(t *testing.T, c *clustertest.Cluster) {
	kind{resource: "apiextensions.k8s.io/v1/customresourcedefinitions", status: "{}"}.discovered(t, c)
}

const strictDeployment = `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"%s},"spec":{"replicas":0%s,"selector":{"matchLabels":{"a":"b"}},
"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`

func strict(t *testing.T, c *clustertest.Cluster, metadata, spec string, words ...string) {
	t.Helper()
	path := "/apis/apps/v1/namespaces/default/deployments?fieldValidation=Strict&dryRun=All"
	code, _, body := raw(t, c, "POST", path, "application/json", fmt.Sprintf(strictDeployment, metadata, spec))
	if len(words) == 0 && code != 201 {
		t.Errorf("a valid object is refused: %d %s", code, body)
	}
	for _, w := range words {
		if code != 400 || !strings.Contains(body, w) {
			t.Errorf("%d %s, want 400 with %q", code, body, w)
		}
	}
}

func strictTyped(t *testing.T, c *clustertest.Cluster) {
	strict(t, c, "", "")
	strict(t, c, "", `,"unknown":1,"paused":true,"paused":false`, `unknown field \"spec.unknown\"`, `duplicate field \"spec.paused\"`)
}

func strictMetadata(t *testing.T, c *clustertest.Cluster) {
	strict(t, c, `,"unknownMeta":"x"`, "", `unknown field \"metadata.unknownMeta\"`)
}

func namespaceFinalizer(t *testing.T, c *clustertest.Cluster) {
	api := c.Client.CoreV1().Namespaces()
	ns := must(api.Get(t.Context(), c.Namespace(t), metav1.GetOptions{}))(t)
	for _, f := range [][]corev1.FinalizerName{{"conf.example/f", "kubernetes"}, {"kubernetes"}} {
		ns.Spec.Finalizers = f
		ns = must(api.Finalize(t.Context(), ns, metav1.UpdateOptions{}))(t)
		if !slices.Equal(ns.Spec.Finalizers, f) {
			t.Errorf("finalizers %v, want %v", ns.Spec.Finalizers, f)
		}
	}
}

func namespaceUpdate(t *testing.T, c *clustertest.Cluster) {
	api, name := c.Client.CoreV1().Namespaces(), c.Namespace(t)
	ns := must(api.Patch(t.Context(), name, types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"patched":"yes"}}}`), metav1.PatchOptions{}))(t)
	ns.Labels["updated"] = "yes"
	must(api.Update(t.Context(), ns, metav1.UpdateOptions{}))(t)
	got := must(api.Get(t.Context(), name, metav1.GetOptions{}))(t)
	if got.Labels["patched"] != "yes" || got.Labels["updated"] != "yes" || got.Labels["kubernetes.io/metadata.name"] != name {
		t.Errorf("labels %v", got.Labels)
	}
}

func namespaceStatus(t *testing.T, c *clustertest.Cluster) {
	api, name := c.Client.CoreV1().Namespaces(), c.Namespace(t)
	patch := `{"status":{"conditions":[{"type":"Conf","status":"True","reason":"E2E","message":"patched"}]}}`
	ns := must(api.Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status"))(t)
	if ns.Status.Phase != corev1.NamespaceActive || len(ns.Status.Conditions) != 1 {
		t.Fatalf("status %+v", ns.Status)
	}
	ns.Status.Conditions[0].Message = "updated"
	if ns = must(api.UpdateStatus(t.Context(), ns, metav1.UpdateOptions{}))(t); ns.Status.Conditions[0].Message != "updated" {
		t.Errorf("status %+v", ns.Status)
	}
}

func namespaceEmpties(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	for i := range 3 {
		createPod(t, c, ns, c.Pod(fmt.Sprintf("p%d", i), nil))
	}
	must(c.Client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{}))(t)
	ok(t, c.Client.CoreV1().Namespaces().Delete(t.Context(), ns, metav1.DeleteOptions{}))
	c.Eventually(t, 90*time.Second, "the namespace to go", func(ctx context.Context) error {
		_, err := c.Client.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there (%v)", err)
	})
	must(c.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}))(t)
	pods := must(c.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{}))(t)
	services := must(c.Client.CoreV1().Services(ns).List(t.Context(), metav1.ListOptions{}))(t)
	if len(pods.Items)+len(services.Items) > 0 {
		t.Errorf("%d pods and %d services are left", len(pods.Items), len(services.Items))
	}
}

func chunks(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	api := c.Client.CoreV1().PodTemplates(ns)
	const all = 40
	for i := range all {
		must(api.Create(t.Context(), &corev1.PodTemplate{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("t-%02d", i)}, Template: corev1.PodTemplateSpec{
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}, metav1.CreateOptions{}))(t)
	}
	got, version, token := 0, "", ""
	for {
		l := must(api.List(t.Context(), metav1.ListOptions{Limit: 13, Continue: token}))(t)
		got += len(l.Items)
		if version == "" {
			version = l.ResourceVersion
		} else if l.ResourceVersion != version {
			t.Errorf("resourceVersion went from %s to %s", version, l.ResourceVersion)
		}
		if token = l.Continue; token == "" {
			break
		}
		if l.RemainingItemCount == nil || *l.RemainingItemCount != int64(all-got) {
			t.Errorf("remainingItemCount %v after %d of %d", l.RemainingItemCount, got, all)
		}
	}
	if whole := must(api.List(t.Context(), metav1.ListOptions{}))(t); got != all || len(whole.Items) != all {
		t.Errorf("%d in chunks, %d at once, want %d", got, len(whole.Items), all)
	}
}

func tableRefused(t *testing.T, c *clustertest.Cluster) {
	code, _, body := raw(t, c, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "application/json;as=Table;v=v1;g=meta.k8s.io",
		`{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}}`)
	if code != http.StatusNotAcceptable {
		t.Errorf("%d %s, want 406", code, body)
	}
}

func serverVersion(t *testing.T, c *clustertest.Cluster) {
	v := must(c.Client.Discovery().ServerVersion())(t)
	for _, n := range []string{v.Major, v.Minor} {
		if _, err := strconv.Atoi(n); err != nil {
			t.Errorf("version %s.%s: %v", v.Major, v.Minor, err)
		}
	}
}

// noted is a watch of ConfigMaps, told as words: "ADDED a=1".
func noted(t *testing.T, w watch.Interface, n int) []string {
	t.Helper()
	var out []string
	late := time.After(15 * time.Second)
	for len(out) < n {
		select {
		case e, open := <-w.ResultChan():
			cm, is := e.Object.(*corev1.ConfigMap)
			if !open || !is {
				t.Fatalf("the watch ended after %v: %v", out, e)
			}
			out = append(out, fmt.Sprintf("%s %s=%s", e.Type, cm.Name, cm.Data["n"]))
		case <-late:
			t.Fatalf("the watch told %v, want %d events", out, n)
		}
	}
	return out
}

func quiet(t *testing.T, w watch.Interface) {
	t.Helper()
	select {
	case e := <-w.ResultChan():
		t.Errorf("an event too many: %s %v", e.Type, e.Object)
	case <-time.After(500 * time.Millisecond):
	}
}

func same(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// counter writes ConfigMap name with data n and label l.
func counter(t *testing.T, c *clustertest.Cluster, ns, name, n, label string) *corev1.ConfigMap {
	t.Helper()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"l": label}}, Data: map[string]string{"n": n}}
	if n == "1" {
		return must(c.Client.CoreV1().ConfigMaps(ns).Create(t.Context(), cm, metav1.CreateOptions{}))(t)
	}
	return must(c.Client.CoreV1().ConfigMaps(ns).Update(t.Context(), cm, metav1.UpdateOptions{}))(t)
}

func watched(t *testing.T, c *clustertest.Cluster, ns, label, version string) watch.Interface {
	t.Helper()
	w := must(c.Client.CoreV1().ConfigMaps(ns).Watch(t.Context(), metav1.ListOptions{LabelSelector: "l in (" + label + ")", ResourceVersion: version}))(t)
	t.Cleanup(w.Stop)
	return w
}

func watchFrom(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	counter(t, c, ns, "a", "1", "x")
	first := counter(t, c, ns, "a", "2", "x")
	counter(t, c, ns, "a", "3", "x")
	ok(t, c.Client.CoreV1().ConfigMaps(ns).Delete(t.Context(), "a", metav1.DeleteOptions{}))
	w := watched(t, c, ns, "x", first.ResourceVersion)
	same(t, noted(t, w, 2), "MODIFIED a=3", "DELETED a=3")
	quiet(t, w)
}

func watchRestarts(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	w := watched(t, c, ns, "x", "")
	counter(t, c, ns, "a", "1", "x")
	last := counter(t, c, ns, "a", "2", "x")
	same(t, noted(t, w, 2), "ADDED a=1", "MODIFIED a=2")
	w.Stop()
	counter(t, c, ns, "a", "3", "x")
	ok(t, c.Client.CoreV1().ConfigMaps(ns).Delete(t.Context(), "a", metav1.DeleteOptions{}))
	same(t, noted(t, watched(t, c, ns, "x", last.ResourceVersion), 2), "MODIFIED a=3", "DELETED a=3")
}

func watchSelected(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	a, b, both := watched(t, c, ns, "A", ""), watched(t, c, ns, "B", ""), watched(t, c, ns, "A, B", "")
	counter(t, c, ns, "a", "1", "A")
	counter(t, c, ns, "a", "2", "A")
	ok(t, c.Client.CoreV1().ConfigMaps(ns).Delete(t.Context(), "a", metav1.DeleteOptions{}))
	counter(t, c, ns, "b", "1", "B")
	ok(t, c.Client.CoreV1().ConfigMaps(ns).Delete(t.Context(), "b", metav1.DeleteOptions{}))
	ofA, ofB := []string{"ADDED a=1", "MODIFIED a=2", "DELETED a=2"}, []string{"ADDED b=1", "DELETED b=1"}
	same(t, noted(t, a, 3), ofA...)
	same(t, noted(t, b, 2), ofB...)
	same(t, noted(t, both, 5), append(ofA, ofB...)...)
	quiet(t, a)
}

func watchLeaves(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	w := watched(t, c, ns, "in", "")
	counter(t, c, ns, "a", "1", "in")
	counter(t, c, ns, "a", "2", "out")
	same(t, noted(t, w, 2), "ADDED a=1", "DELETED a=1")
	counter(t, c, ns, "a", "3", "out")
	quiet(t, w)
	counter(t, c, ns, "a", "4", "in")
	same(t, noted(t, w, 1), "ADDED a=4")
}

func watchOrder(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	versions := []string{counter(t, c, ns, "a", "1", "x").ResourceVersion}
	const n = 20
	for i := 2; i < 2+n; i++ {
		versions = append(versions, counter(t, c, ns, "a", fmt.Sprint(i), "x").ResourceVersion)
	}
	whole := noted(t, watched(t, c, ns, "x", versions[0]), n)
	for i := 1; i < n; i++ {
		same(t, noted(t, watched(t, c, ns, "x", versions[i]), n-i), whole[i:]...)
	}
}

func tokenReview(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	tr := must(c.Client.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), "default", &authnv1.TokenRequest{}, metav1.CreateOptions{}))(t)
	review := must(c.Client.AuthenticationV1().TokenReviews().Create(t.Context(), &authnv1.TokenReview{Spec: authnv1.TokenReviewSpec{Token: tr.Status.Token}}, metav1.CreateOptions{}))(t)
	if want := "system:serviceaccount:" + ns + ":default"; !review.Status.Authenticated || review.Status.User.Username != want {
		t.Errorf("review %+v, want %s", review.Status, want)
	}
}

func rootCA(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	api := c.Client.CoreV1().ConfigMaps(ns)
	there := func(what string) {
		c.Eventually(t, 20*time.Second, "kube-root-ca.crt "+what, func(ctx context.Context) error {
			cm, err := api.Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
			if err == nil && !strings.Contains(cm.Data["ca.crt"], "BEGIN CERTIFICATE") {
				err = fmt.Errorf("it holds %v", cm.Data)
			}
			return err
		})
	}
	there("made")
	ok(t, api.Delete(t.Context(), "kube-root-ca.crt", metav1.DeleteOptions{}))
	there("made again")
	must(api.Patch(t.Context(), "kube-root-ca.crt", types.MergePatchType, []byte(`{"data":{"ca.crt":""}}`), metav1.PatchOptions{}))(t)
	there("restored")
}

func updateAccount(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	sa := must(c.Client.CoreV1().ServiceAccounts(ns).Get(t.Context(), "default", metav1.GetOptions{}))(t)
	sa.AutomountServiceAccountToken = ptr(false)
	must(c.Client.CoreV1().ServiceAccounts(ns).Update(t.Context(), sa, metav1.UpdateOptions{}))(t)
	if sa = must(c.Client.CoreV1().ServiceAccounts(ns).Get(t.Context(), "default", metav1.GetOptions{}))(t); sa.AutomountServiceAccountToken == nil || *sa.AutomountServiceAccountToken {
		t.Error("the update was lost")
	}
}

const tokenDir = "/var/run/secrets/kubernetes.io/serviceaccount"

func automount(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	for account, of := range map[string]*bool{"unset": nil, "yes": ptr(true), "no": ptr(false)} {
		must(c.Client.CoreV1().ServiceAccounts(ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}, AutomountServiceAccountToken: of}, metav1.CreateOptions{}))(t)
		for name, pod := range map[string]*bool{"unset": nil, "yes": ptr(true), "no": ptr(false)} {
			p := createPod(t, c, ns, c.Pod(account+"-"+name, nil, func(p *corev1.Pod) {
				p.Spec.ServiceAccountName, p.Spec.AutomountServiceAccountToken = account, pod
			}))
			want := of == nil || *of
			if pod != nil {
				want = *pod
			}
			if got := slices.ContainsFunc(p.Spec.Containers[0].VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenDir }); got != want {
				t.Errorf("account %s, pod %s: mounted %v, want %v", account, name, got, want)
			}
		}
	}
}

func mountsToken(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	c.RunPod(t, ns, c.Pod("one", nil, func(p *corev1.Pod) {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "second", Image: p.Spec.Containers[0].Image})
	}))
	for _, ct := range []string{"c", "second"} {
		read := func(file string) string {
			return must(c.Kubectl("exec", "-n", ns, "one", "-c", ct, "--", "cat", tokenDir+"/"+file))(t)
		}
		if got := read("namespace"); got != ns {
			t.Errorf("namespace %q", got)
		}
		if !strings.Contains(read("ca.crt"), "BEGIN CERTIFICATE") {
			t.Error("no CA")
		}
		config := rest.AnonymousClientConfig(c.Config)
		config.BearerToken = read("token")
		me := must(must(kubernetes.NewForConfig(config))(t).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authnv1.SelfSubjectReview{}, metav1.CreateOptions{}))(t)
		if me.Status.UserInfo.Username != "system:serviceaccount:"+ns+":default" {
			t.Errorf("the token is of %s", me.Status.UserInfo.Username)
		}
	}
}

func projectedToken(t *testing.T, c *clustertest.Cluster) {
	said{pod: sh("cat /v0/token", mounted(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: "conf.example", ExpirationSeconds: ptr[int64](3600)}}}}})),
		want: []string{"eyJ"}}.run(t, c)
}

func subjectReview(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	user := "system:serviceaccount:" + ns + ":conf-" + rand.String(5)
	config := rest.CopyConfig(c.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user}
	_, err := must(kubernetes.NewForConfig(config))(t).CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
	attributes := &authzv1.ResourceAttributes{Namespace: ns, Verb: "list", Resource: "configmaps", Version: "v1"}
	s := must(c.Client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authzv1.SubjectAccessReview{
		Spec: authzv1.SubjectAccessReviewSpec{User: user, ResourceAttributes: attributes}}, metav1.CreateOptions{}))(t)
	l := must(c.Client.AuthorizationV1().LocalSubjectAccessReviews(ns).Create(t.Context(), &authzv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: ns},
		Spec: authzv1.SubjectAccessReviewSpec{User: user, ResourceAttributes: attributes}}, metav1.CreateOptions{}))(t)
	if s.Status.Allowed != (err == nil) || l.Status.Allowed != (err == nil) {
		t.Errorf("reviews say %v and %v, the request %v", s.Status.Allowed, l.Status.Allowed, err)
	}
}

func apiEndpoints(t *testing.T, c *clustertest.Cluster) {
	e := must(c.Client.CoreV1().Endpoints("default").Get(t.Context(), "kubernetes", metav1.GetOptions{}))(t)
	list := must(c.Client.DiscoveryV1().EndpointSlices("default").List(t.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=kubernetes"}))(t)
	var old, sliced []string
	for _, s := range e.Subsets {
		for _, a := range s.Addresses {
			old = append(old, a.IP)
		}
	}
	for _, s := range list.Items {
		for _, a := range s.Endpoints {
			sliced = append(sliced, a.Addresses...)
		}
	}
	if len(old) == 0 || !slices.Equal(old, sliced) {
		t.Errorf("endpoints %v, slices %v", old, sliced)
	}
}

func apiService(t *testing.T, c *clustertest.Cluster) {
	list := must(c.Client.CoreV1().Services("").List(t.Context(), metav1.ListOptions{}))(t)
	i := slices.IndexFunc(list.Items, func(s corev1.Service) bool { return s.Namespace == "default" && s.Name == "kubernetes" })
	if i < 0 || !slices.ContainsFunc(list.Items[i].Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == "https" && p.Port == 443 }) {
		t.Error("no Service default/kubernetes with port https 443")
	}
}

func runtimeClassMissing(t *testing.T, c *clustertest.Cluster) {
	ns, name := c.Namespace(t), "conf-"+rand.String(5)
	api := c.Client.NodeV1().RuntimeClasses()
	must(api.Create(t.Context(), &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Handler: "runc"}, metav1.CreateOptions{}))(t)
	ok(t, api.Delete(t.Context(), name, metav1.DeleteOptions{}))
	c.Eventually(t, 10*time.Second, "the pod to be refused", func(ctx context.Context) error {
		_, err := c.Client.CoreV1().Pods(ns).Create(ctx, c.Pod("p-"+rand.String(5), nil, func(p *corev1.Pod) { p.Spec.RuntimeClassName = &name }), metav1.CreateOptions{})
		if !apierrors.IsForbidden(err) {
			return fmt.Errorf("create: %v, want forbidden", err)
		}
		return nil
	})
}

func runtimeClass(overhead bool) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns, name := c.Namespace(t), "conf-"+rand.String(5)
		rc := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Handler: "runc"}
		if overhead {
			rc.Overhead = &nodev1.Overhead{PodFixed: corev1.ResourceList{"cpu": quantity("10m"), "memory": quantity("1Mi")}}
		}
		must(c.Client.NodeV1().RuntimeClasses().Create(t.Context(), rc, metav1.CreateOptions{}))(t)
		t.Cleanup(func() {
			c.Client.NodeV1().RuntimeClasses().Delete(context.Background(), name, metav1.DeleteOptions{})
		})
		p := createPod(t, c, ns, c.Pod("one", nil, func(p *corev1.Pod) { p.Spec.RuntimeClassName = &name }))
		if overhead != (p.Spec.Overhead.Cpu().MilliValue() == 10) || overhead != (len(p.Spec.Overhead) == 2) {
			t.Errorf("overhead %v", p.Spec.Overhead)
		}
		c.WaitPod(t, ns, "one", "scheduled", func(p *corev1.Pod) bool { return p.Spec.NodeName != "" })
	}
}

func badSysctls(t *testing.T, c *clustertest.Cluster) {
	_, err := c.Client.CoreV1().Pods("default").Create(t.Context(), c.Pod("bad", nil, func(p *corev1.Pod) {
		p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "foo-", Value: "bar"}, {Name: "kernel.shmmax", Value: "1"}, {Name: "safe-and-unsafe", Value: "1"}, {Name: "bar..", Value: "42"}}}
	}), metav1.CreateOptions{})
	refused(t, err, `Invalid value: "foo-"`)
	refused(t, err, `Invalid value: "bar.."`)
	if strings.Contains(err.Error(), "kernel.shmmax") {
		t.Errorf("a valid name is refused: %v", err)
	}
}

func limitRange(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	lr := &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "l"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer,
		Min: corev1.ResourceList{"cpu": quantity("50m")}, Max: corev1.ResourceList{"cpu": quantity("500m")},
		Default: corev1.ResourceList{"cpu": quantity("400m")}, DefaultRequest: corev1.ResourceList{"cpu": quantity("100m")}}}}}
	lr = must(c.Client.CoreV1().LimitRanges(ns).Create(t.Context(), lr, metav1.CreateOptions{}))(t)
	pod := func(cpu string) (*corev1.Pod, error) {
		return c.Client.CoreV1().Pods(ns).Create(t.Context(), c.Pod("p-"+rand.String(5), nil, first(func(ct *corev1.Container) {
			if cpu != "" {
				ct.Resources.Requests = corev1.ResourceList{"cpu": quantity(cpu)}
				ct.Resources.Limits = ct.Resources.Requests
			}
		})), metav1.CreateOptions{})
	}
	var p *corev1.Pod
	c.Eventually(t, 10*time.Second, "the defaults", func(context.Context) error {
		var err error
		if p, err = pod(""); err == nil && p.Spec.Containers[0].Resources.Requests.Cpu().String() != "100m" {
			err = fmt.Errorf("resources %+v", p.Spec.Containers[0].Resources)
		}
		return err
	})
	if got := p.Spec.Containers[0].Resources.Limits.Cpu().String(); got != "400m" {
		t.Errorf("limit %s", got)
	}
	_, err := pod("10m")
	refused(t, err, "minimum cpu usage")
	_, err = pod("600m")
	refused(t, err, "maximum cpu usage")
	lr.Spec.Limits[0].Min = corev1.ResourceList{"cpu": quantity("5m")}
	must(c.Client.CoreV1().LimitRanges(ns).Update(t.Context(), lr, metav1.UpdateOptions{}))(t)
	c.Eventually(t, 10*time.Second, "the update", func(context.Context) error { _, err := pod("10m"); return err })
	ok(t, c.Client.CoreV1().LimitRanges(ns).Delete(t.Context(), "l", metav1.DeleteOptions{}))
	c.Eventually(t, 10*time.Second, "the deletion", func(context.Context) error { _, err := pod("600m"); return err })
}

func priorityClass(t *testing.T, c *clustertest.Cluster) {
	api, name := c.Client.SchedulingV1().PriorityClasses(), "conf-"+rand.String(5)
	pc := must(api.Create(t.Context(), &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: 7}, metav1.CreateOptions{}))(t)
	pc.Value = 8
	_, err := api.Update(t.Context(), pc, metav1.UpdateOptions{})
	refused(t, err, "may not be changed")
	_, err = api.Patch(t.Context(), name, types.JSONPatchType, []byte(`[{"op":"replace","path":"/value","value":9}]`), metav1.PatchOptions{})
	refused(t, err, "may not be changed")
	pc.Value, pc.Description = 7, "updated"
	if got := must(api.Update(t.Context(), pc, metav1.UpdateOptions{}))(t); got.Description != "updated" {
		t.Error("the update was lost")
	}
	if l := must(api.List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + name}))(t); len(l.Items) != 1 {
		t.Errorf("%d in the list", len(l.Items))
	}
	ok(t, api.Delete(t.Context(), name, metav1.DeleteOptions{}))
}
