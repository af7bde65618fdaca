package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/orlop-io/orlop/integration/clustertest"
)

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"k": "v"}}
}

func keysInEtcd(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	if _, err := c.Client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("cm"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	keys, err := c.Orlop("etcdctl", "--name", c.Name, "get", "/registry", "--prefix", "--keys-only")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"/registry/configmaps/" + ns + "/cm", "/registry/minions/" + c.Nodes[0], "/registry/services/specs/default/kubernetes", "/registry/pods/kube-system/etcd-" + c.Nodes[0]} {
		if !strings.Contains(keys, key+"\n") {
			t.Errorf("no key %s", key)
		}
	}
}

func oneWriterWins(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	api := c.Client.CoreV1().ConfigMaps(ns)

	cm, err := api.Create(t.Context(), configMap("cm"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	first, second := cm.DeepCopy(), cm.DeepCopy()
	first.Data["k"], second.Data["k"] = "first", "second"
	if _, err := api.Update(t.Context(), first, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = api.Update(t.Context(), second, metav1.UpdateOptions{})
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), "the object has been modified; please apply your changes to the latest version and try again") {
		t.Errorf("the second writer gets %v, want a conflict", err)
	}
}

func restVerbs(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	api := c.Client.CoreV1().ConfigMaps(ns)
	w, err := api.Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	cm, err := api.Create(t.Context(), configMap("cm"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cm.Data["k"] = "new"
	if _, err := api.Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := api.Get(t.Context(), "cm", metav1.GetOptions{}); err != nil || got.Data["k"] != "new" {
		t.Errorf("read after update: %v, %v", got, err)
	}
	if _, err := api.Patch(t.Context(), "cm", types.MergePatchType, []byte(`{"data":{"x":"y"}}`), metav1.PatchOptions{}); err != nil {
		t.Error(err)
	}
	if err := api.Delete(t.Context(), "cm", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := api.Get(t.Context(), "cm", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("read after delete: %v", err)
	}
	want := []watch.EventType{watch.Added, watch.Modified, watch.Modified, watch.Deleted}
	for len(want) > 0 {
		select {
		case e := <-w.ResultChan():
			got, ok := e.Object.(*corev1.ConfigMap)
			if !ok || got.Name != "cm" {
				continue // kube-root-ca.crt comes by itself
			}
			if e.Type != want[0] {
				t.Fatalf("watch: got %s, want %s", e.Type, want[0])
			}
			want = want[1:]
		case <-time.After(10 * time.Second):
			t.Fatalf("watch: still waiting for %v", want)
		}
	}
}

func wrongToken(t *testing.T, c *clustertest.Cluster) {
	cfg := rest.AnonymousClientConfig(c.Config)
	cfg.BearerToken = "not.a.token"
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("got %v, want Unauthorized", err)
	}
}

func forbiddenVerb(t *testing.T, c *clustertest.Cluster) {
	cfg := rest.CopyConfig(c.Config)
	cfg.Impersonate.UserName = "jane"
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	const want = `pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default"`
	if !apierrors.IsForbidden(err) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func admissionChangesAndRefuses(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	pod, err := c.Client.CoreV1().Pods(ns).Create(t.Context(), c.Pod("p", []string{"pause"}), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if pod.Spec.ServiceAccountName != "default" || len(pod.Spec.Volumes) != 1 || !strings.HasPrefix(pod.Spec.Volumes[0].Name, "kube-api-access-") {
		t.Errorf("the pod has no service account or token: %+v", pod.Spec)
	}
	if len(pod.Spec.Tolerations) != 2 {
		t.Errorf("the pod has tolerations %v", pod.Spec.Tolerations)
	}
	_, err = c.Client.CoreV1().ConfigMaps("no-such-namespace").Create(t.Context(), configMap("cm"), metav1.CreateOptions{})
	if !apierrors.IsNotFound(err) || !strings.Contains(err.Error(), `namespaces "no-such-namespace" not found`) {
		t.Errorf("creating in a namespace that does not exist: %v", err)
	}
	bad := c.Pod("q", []string{"pause"}, func(p *corev1.Pod) { p.Spec.PriorityClassName = "nope" })
	if _, err := c.Client.CoreV1().Pods(ns).Create(t.Context(), bad, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("an unknown priority class: %v, want Forbidden", err)
	}
}

func invalidObjects(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	_, err := c.Client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("Not_A_Name"), metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "a lowercase RFC 1123 subdomain must consist of") {
		t.Errorf("a bad name: %v", err)
	}
	post := func(body string) error {
		return c.Client.CoreV1().RESTClient().Post().AbsPath("/api/v1/namespaces/"+ns+"/configmaps").
			SetHeader("Content-Type", "application/json").Body([]byte(body)).Do(t.Context()).Error()
	}
	strict := func(body string) error {
		return c.Client.CoreV1().RESTClient().Post().AbsPath("/api/v1/namespaces/"+ns+"/configmaps").Param("fieldValidation", "Strict").
			SetHeader("Content-Type", "application/json").Body([]byte(body)).Do(t.Context()).Error()
	}
	err = post(`{"kind":"Nonsense","apiVersion":"v1","metadata":{"name":"x"}}`)
	if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), `Nonsense in version "v1" cannot be handled as a ConfigMap`) {
		t.Errorf("an object of another kind: %v", err)
	}
	if _, err := c.KubectlIn([]byte(`{"metadata":{"name":"x"}}`), "create", "-n", ns, "-f", "-"); err == nil || !strings.Contains(err.Error(), "kind not set") {
		t.Errorf("an untyped object: %v", err)
	}
	err = strict(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"y"},"nonsense":1}`)
	if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), `strict decoding error: unknown field "nonsense"`) {
		t.Errorf("an unknown field: %v", err)
	}
}

func watchWholeObjects(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	api := c.Client.CoreV1().ConfigMaps(ns)
	cm, err := api.Create(t.Context(), configMap("cm"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := api.Watch(t.Context(), metav1.ListOptions{ResourceVersion: cm.ResourceVersion, FieldSelector: "metadata.name=cm"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for i := range 5 {
		if _, err := api.Patch(t.Context(), "cm", types.MergePatchType, fmt.Appendf(nil, `{"data":{"n":"%d"}}`, i), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		select {
		case e := <-w.ResultChan():
			got, ok := e.Object.(*corev1.ConfigMap)
			if !ok || got.Data["n"] != fmt.Sprint(i) || got.Data["k"] != "v" {
				t.Errorf("change %d: got %v, want the whole object", i, e.Object)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("change %d is not told", i)
		}
	}
}

// kubectlWatch wants each state of a pod's life to be seen by `kubectl get -w`.
func kubectlWatch(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := c.KubectlCommand(ctx, "get", "pods", "-n", ns, "-w", "-o", "json", "--output-watch-events")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cancel()
	time.Sleep(time.Second) // the watch has to stand before the pod appears
	pod := c.Pod("p", []string{"netexec"}, func(p *corev1.Pod) {
		p.Spec.Containers[0].Args = []string{"sleep", "1"}
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
	})
	if _, err := c.Client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var phases []string
	for dec := json.NewDecoder(out); ; {
		var e struct {
			Type   string
			Object corev1.Pod
		}
		if err := dec.Decode(&e); err != nil {
			t.Fatalf("after %v: %v", phases, err)
		}
		phase := string(e.Object.Status.Phase)
		if len(phases) == 0 || phases[len(phases)-1] != phase {
			phases = append(phases, phase)
		}
		if phase == string(corev1.PodSucceeded) {
			break
		}
	}
	if got := strings.Join(phases, " "); got != "Pending Running Succeeded" {
		t.Errorf("seen: %s", got)
	}
}

func namespaceDeletesContent(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	c.RunPod(t, ns, c.Pod("p", []string{"pause"}))
	if _, err := c.Client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("cm"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Client.CoreV1().Namespaces().Delete(t.Context(), ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually(t, time.Minute, "namespace to go with all that is in it", func(ctx context.Context) error {
		_, err := c.Client.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it is still there"), err)
	})
	keys, err := c.Orlop("etcdctl", "--name", c.Name, "get", "/registry", "--prefix", "--keys-only")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(keys, "/"+ns+"/") {
		t.Error("etcd still holds keys of the namespace")
	}
}

func componentStatuses(t *testing.T, c *clustertest.Cluster) {
	out, err := c.Kubectl("get", "componentstatuses")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"scheduler", "controller-manager", "etcd-0"} {
		healthy := false
		for line := range strings.Lines(out) {
			healthy = healthy || strings.HasPrefix(line, name+" ") && strings.Contains(line, "Healthy")
		}
		if !healthy {
			t.Errorf("%s is not healthy in:\n%s", name, out)
		}
	}
}

func leaderRecord(t *testing.T, c *clustertest.Cluster) {
	for _, name := range []string{"kube-controller-manager", "kube-scheduler"} {
		lease, err := c.Client.CoordinationV1().Leases("kube-system").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Error(err)
			continue
		}
		if s := lease.Spec; s.HolderIdentity == nil || *s.HolderIdentity == "" || s.LeaseDurationSeconds == nil || s.RenewTime == nil || s.LeaseTransitions == nil {
			t.Errorf("the record of %s is not whole: %+v", name, s)
		} else if age := time.Since(s.RenewTime.Time); age > 30*time.Second {
			t.Errorf("the record of %s was renewed %s ago", name, age)
		}
	}
}
