package conformance

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/dynamic"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// budgetTests are the rows of quotas and disruption budgets, and of what goes before what else.
func budgetTests() map[string]test {
	rows := under("[sig-api-machinery] ResourceQuota should ", map[string]test{
		"create a ResourceQuota and ensure its status is promptly calculated.":     quickly(quotaPrompt),
		"create a ResourceQuota and capture the life of a configMap.":              quickly(quotaCounts("v1/configmaps", "kind: ConfigMap\ndata: {a: b}", "configmaps", "count/configmaps")),
		"create a ResourceQuota and capture the life of a secret.":                 quickly(quotaCounts("v1/secrets", "kind: Secret\nstringData: {a: b}", "secrets", "count/secrets")),
		"create a ResourceQuota and capture the life of a replica set.":            quickly(quotaCounts("apps/v1/replicasets", "kind: ReplicaSet\n"+workload, "count/replicasets.apps")),
		"create a ResourceQuota and capture the life of a replication controller.": quickly(quotaCounts("v1/replicationcontrollers", "kind: ReplicationController\nspec: {replicas: 0, selector: {app: $X}, "+podTemplate+"}", "replicationcontrollers", "count/replicationcontrollers")),
		"create a ResourceQuota and capture the life of a service.":                quickly(quotaServices),
		"create a ResourceQuota and capture the life of a pod.":                    quickly(quotaPod),
		"verify ResourceQuota with terminating scopes.":                            quickly(quotaScopes("Terminating", "NotTerminating", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr[int64](3600) }, nil)),
		"verify ResourceQuota with best effort scope.":                             quickly(quotaScopes("BestEffort", "NotBestEffort", nil, quotaAsks("100m", "64Mi"))),
		"apply changes to a resourcequota status":                                  quickly(quotaStatus),
	})
	const machinery, apps = "[sig-api-machinery] ", "[sig-apps] "
	rows[machinery+"Garbage collector should not delete dependents that have both valid owner and owner that's waiting for dependents to be deleted"] = test{serial: true, run: twoOwners}
	rows[machinery+"OrderedNamespaceDeletion namespace deletion should delete pod first"] = quickly(podsFirst)
	rows[apps+"DisruptionController should block an eviction until the PDB is updated to allow it"] = quickly(evictionBlocked)
	rows[apps+"DisruptionController should observe PodDisruptionBudget status updated"] = quickly(budgetObserved)
	rows[apps+"DisruptionController should update/patch PodDisruptionBudget status"] = quickly(budgetStatus)
	rows[apps+"ReplicationController should surface a failure condition on a common issue like exceeded quota"] = quickly(quotaFailsController)
	return rows
}

func listOf(pairs ...string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		list[corev1.ResourceName(pairs[i])] = quantity(pairs[i+1])
	}
	return list
}

func quotaAsks(cpu, memory string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = listOf("cpu", cpu, "memory", memory)
	}
}

// quotaOf makes a quota and waits until it is counted.
func quotaOf(t *testing.T, c *clustertest.Cluster, ns, name string, hard corev1.ResourceList, scopes ...corev1.ResourceQuotaScope) {
	t.Helper()
	_, err := c.Client.CoreV1().ResourceQuotas(ns).Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ResourceQuotaSpec{Hard: hard, Scopes: scopes},
	}, metav1.CreateOptions{})
	ok(t, err)
	used(t, c, ns, name, func(q *corev1.ResourceQuota) bool {
		return len(q.Status.Used) == len(hard) && maps.EqualFunc(q.Status.Hard, hard, quantityEqual)
	})
}

func quantityEqual(a, b resource.Quantity) bool { return a.Cmp(b) == 0 }

func used(t *testing.T, c *clustertest.Cluster, ns, name string, match func(*corev1.ResourceQuota) bool) {
	t.Helper()
	c.Eventually(t, 60*time.Second, "quota "+name, func(ctx context.Context) error {
		q, err := c.Client.CoreV1().ResourceQuotas(ns).Get(ctx, name, metav1.GetOptions{})
		if err == nil && !match(q) {
			err = fmt.Errorf("hard %v, used %v", q.Status.Hard, q.Status.Used)
		}
		return err
	})
}

// uses waits until the quota's usage has these amounts.
func uses(t *testing.T, c *clustertest.Cluster, ns, name string, pairs ...string) {
	t.Helper()
	used(t, c, ns, name, func(q *corev1.ResourceQuota) bool {
		for name, want := range listOf(pairs...) {
			if got, there := q.Status.Used[name]; !there || got.Cmp(want) != 0 {
				return false
			}
		}
		return true
	})
}

func quotaPrompt(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	quotaOf(t, c, ns, "q", listOf("pods", "5", "services", "10", "services.nodeports", "1", "services.loadbalancers", "1", "replicationcontrollers", "10",
		"resourcequotas", "1", "cpu", "1", "memory", "500Mi", "persistentvolumeclaims", "10", "requests.storage", "10Gi", "configmaps", "10", "secrets", "10",
		"gold.storageclass.storage.k8s.io/persistentvolumeclaims", "10", "gold.storageclass.storage.k8s.io/requests.storage", "10Gi",
		"count/replicasets.apps", "5", "requests.ephemeral-storage", "50Gi", "requests.conf.example/dongle", "3"))
	uses(t, c, ns, "q", "pods", "0", "resourcequotas", "1", "requests.storage", "0", "count/replicasets.apps", "0", "requests.conf.example/dongle", "0")
}

// quotaCounts fills a quota of one kind, wants one more refused, and the first given back.
func quotaCounts(resource, object string, names ...string) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns := c.Namespace(t)
		api := must(dynamic.NewForConfig(c.Config))(t).Resource(gvr(resource)).Namespace(ns)
		if resource == "v1/configmaps" { // the cluster's CA comes into every namespace; it must not come late
			c.Eventually(t, 20*time.Second, "kube-root-ca.crt", func(ctx context.Context) error {
				_, err := api.Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
				return err
			})
		}
		before := len(must(api.List(t.Context(), metav1.ListOptions{}))(t).Items)
		now := func(n int) (pairs []string) {
			for _, name := range names {
				pairs = append(pairs, name, fmt.Sprint(n))
			}
			return pairs
		}
		quotaOf(t, c, ns, "q", listOf(now(before+1)...))
		uses(t, c, ns, "q", now(before)...)
		k := kind{resource: resource, object: object}
		one := must(api.Create(t.Context(), k.make(t, ns, "quota", 1), metav1.CreateOptions{}))(t)
		uses(t, c, ns, "q", now(before+1)...)
		_, err := api.Create(t.Context(), k.make(t, ns, "quota", 2), metav1.CreateOptions{})
		refused(t, err, "exceeded quota: q, requested: ")
		ok(t, api.Delete(t.Context(), one.GetName(), metav1.DeleteOptions{}))
		uses(t, c, ns, "q", now(before)...)
	}
}

func quotaServices(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	quotaOf(t, c, ns, "q", listOf("services", "10", "services.nodeports", "1", "services.loadbalancers", "1"))
	make := func(name string, of corev1.ServiceType) error {
		_, err := c.Client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: of, Ports: []corev1.ServicePort{{Port: 80}}},
		}, metav1.CreateOptions{})
		return err
	}
	ok(t, make("internal", corev1.ServiceTypeClusterIP))
	ok(t, make("node", corev1.ServiceTypeNodePort))
	uses(t, c, ns, "q", "services", "2", "services.nodeports", "1", "services.loadbalancers", "0")
	refused(t, make("balanced", corev1.ServiceTypeLoadBalancer), "exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=1, limited: services.nodeports=1")
	for _, name := range []string{"internal", "node"} {
		ok(t, c.Client.CoreV1().Services(ns).Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	uses(t, c, ns, "q", "services", "0", "services.nodeports", "0")
}

func quotaPod(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	quotaOf(t, c, ns, "q", listOf("pods", "5", "cpu", "1", "memory", "500Mi", "requests.ephemeral-storage", "50Gi", "requests.conf.example/dongle", "3"))
	pod := func(name, cpu, memory, dongles string) *corev1.Pod {
		return c.Pod(name, nil, func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests = listOf("cpu", cpu, "memory", memory, "ephemeral-storage", "10Gi", "conf.example/dongle", dongles)
			p.Spec.Containers[0].Resources.Limits = listOf("conf.example/dongle", dongles)
		})
	}
	first := createPod(t, c, ns, pod("first", "500m", "252Mi", "2"))
	all := []string{"pods", "1", "cpu", "500m", "memory", "252Mi", "requests.ephemeral-storage", "10Gi", "requests.conf.example/dongle", "2"}
	uses(t, c, ns, "q", all...)
	pods := c.Client.CoreV1().Pods(ns)
	_, err := pods.Create(t.Context(), pod("cpu", "600m", "10Mi", "0"), metav1.CreateOptions{})
	refused(t, err, "exceeded quota: q, requested: cpu=600m, used: cpu=500m, limited: cpu=1")
	_, err = pods.Create(t.Context(), pod("dongle", "100m", "10Mi", "2"), metav1.CreateOptions{})
	refused(t, err, "exceeded quota: q, requested: requests.conf.example/dongle=2, used: requests.conf.example/dongle=2, limited: requests.conf.example/dongle=3")
	_, err = pods.Create(t.Context(), c.Pod("silent", nil), metav1.CreateOptions{})
	refused(t, err, "failed quota: q: must specify cpu for: c; memory for: c")
	c.Eventually(t, 10*time.Second, "the update to be judged", func(ctx context.Context) error {
		first = must(pods.Get(ctx, "first", metav1.GetOptions{}))(t)
		first.Spec.Containers[0].Resources.Requests["cpu"] = quantity("100m")
		if _, err = pods.Update(ctx, first, metav1.UpdateOptions{}); apierrors.IsConflict(err) {
			return err // its status is being written
		}
		return nil
	})
	refused(t, err, "pod updates may not change fields")
	uses(t, c, ns, "q", all...)
	ok(t, pods.Delete(t.Context(), "first", metav1.DeleteOptions{GracePeriodSeconds: ptr[int64](0)}))
	uses(t, c, ns, "q", "pods", "0", "cpu", "0", "memory", "0", "requests.conf.example/dongle", "0")
}

// quotaScopes makes a pod of each scope and wants each counted by its quota only.
func quotaScopes(yes, no corev1.ResourceQuotaScope, asYes, asNo func(*corev1.Pod)) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns := c.Namespace(t)
		quotaOf(t, c, ns, "yes", listOf("pods", "5"), yes)
		quotaOf(t, c, ns, "no", listOf("pods", "5"), no)
		for name, as := range map[string]func(*corev1.Pod){"yes": asYes, "no": asNo} {
			other := map[string]string{"yes": "no", "no": "yes"}[name]
			pod := c.Pod("p-"+name, nil, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"no": "node"} })
			if as != nil {
				as(pod)
			}
			createPod(t, c, ns, pod)
			uses(t, c, ns, name, "pods", "1")
			uses(t, c, ns, other, "pods", "0")
			ok(t, c.Client.CoreV1().Pods(ns).Delete(t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr[int64](0)}))
			uses(t, c, ns, name, "pods", "0")
		}
	}
}

func quotaStatus(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	hard := listOf("cpu", "500m", "memory", "500Mi")
	quotaOf(t, c, ns, "q", hard)
	quotas := c.Client.CoreV1().ResourceQuotas(ns)
	follows := func() {
		t.Helper()
		used(t, c, ns, "q", func(q *corev1.ResourceQuota) bool {
			return maps.EqualFunc(q.Status.Hard, hard, quantityEqual) && maps.EqualFunc(q.Spec.Hard, hard, quantityEqual)
		})
	}
	patched := must(quotas.Patch(t.Context(), "q", types.MergePatchType, []byte(`{"metadata":{"annotations":{"a":"b"}},"spec":{"hard":{"cpu":"2"}},"status":{"hard":{"cpu":"1","memory":"1Gi"}}}`),
		metav1.PatchOptions{}, "status"))(t)
	if cpu := patched.Status.Hard["cpu"]; cpu.String() != "1" || !maps.EqualFunc(patched.Spec.Hard, hard, quantityEqual) {
		t.Errorf("after the patch of /status: spec %v, status %v", patched.Spec.Hard, patched.Status.Hard)
	}
	follows()
	var err error
	for range 5 {
		q := must(quotas.Get(t.Context(), "q", metav1.GetOptions{}))(t)
		q.Status.Hard = listOf("cpu", "3", "memory", "1Gi")
		if q, err = quotas.UpdateStatus(t.Context(), q, metav1.UpdateOptions{}); err == nil {
			if cpu := q.Status.Hard["cpu"]; cpu.String() != "3" {
				t.Errorf("after the update of /status: %v", q.Status.Hard)
			}
			break
		}
	}
	ok(t, err)
	follows()
}

func quotaFailsController(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	quotaOf(t, c, ns, "q", listOf("pods", "2"))
	api := set(t, c, "v1/replicationcontrollers", "ReplicationController", ns, "s", 3)
	failing := func(want bool) {
		t.Helper()
		c.Eventually(t, 60*time.Second, fmt.Sprintf("ReplicaFailure %t", want), func(ctx context.Context) error {
			rc, err := c.Client.CoreV1().ReplicationControllers(ns).Get(ctx, "s", metav1.GetOptions{})
			if err != nil {
				return err
			}
			failed := false
			for _, cond := range rc.Status.Conditions {
				failed = failed || cond.Type == corev1.ReplicationControllerReplicaFailure && cond.Status == corev1.ConditionTrue && strings.Contains(cond.Message, "exceeded quota: q")
			}
			if failed != want {
				return fmt.Errorf("conditions %+v", rc.Status.Conditions)
			}
			return nil
		})
	}
	failing(true)
	must(api.Patch(t.Context(), "s", types.MergePatchType, []byte(`{"spec":{"replicas":2}}`), metav1.PatchOptions{}))(t)
	failing(false)
}

// protected are n pods of app=guarded and a budget that wants so many available.
func protected(t *testing.T, c *clustertest.Cluster, ns string, n int, available int32) {
	t.Helper()
	for i := range n {
		createPod(t, c, ns, c.Pod(fmt.Sprintf("p%d", i), nil, func(p *corev1.Pod) { p.Labels["app"] = "guarded" }))
	}
	waitLiving(t, c, ns, "guarded", n, nil)
	least := intstr.FromInt32(available)
	_, err := c.Client.PolicyV1().PodDisruptionBudgets(ns).Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "b"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &least, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "guarded"}}},
	}, metav1.CreateOptions{})
	ok(t, err)
}

// allows waits until the budget, as it is now, allows n disruptions.
func allows(t *testing.T, c *clustertest.Cluster, ns string, n int32) {
	t.Helper()
	c.Eventually(t, 60*time.Second, fmt.Sprintf("%d disruptions allowed", n), func(ctx context.Context) error {
		b, err := c.Client.PolicyV1().PodDisruptionBudgets(ns).Get(ctx, "b", metav1.GetOptions{})
		if err == nil && (b.Status.ObservedGeneration != b.Generation || b.Status.DisruptionsAllowed != n) {
			err = fmt.Errorf("generation %d, status %+v", b.Generation, b.Status)
		}
		return err
	})
}

func evict(c *clustertest.Cluster, ns, name string) error {
	return c.Client.CoreV1().Pods(ns).EvictV1(context.Background(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}})
}

func evictionBlocked(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	protected(t, c, ns, 3, 3)
	allows(t, c, ns, 0)
	blocked := func(name string) {
		t.Helper()
		if err := evict(c, ns, name); !apierrors.IsTooManyRequests(err) {
			t.Fatalf("eviction beyond the budget: %v", err)
		}
	}
	blocked("p0")
	must(c.Client.PolicyV1().PodDisruptionBudgets(ns).Patch(t.Context(), "b", types.MergePatchType, []byte(`{"spec":{"minAvailable":2}}`), metav1.PatchOptions{}))(t)
	allows(t, c, ns, 1)
	ok(t, evict(c, ns, "p0"))
	waitLiving(t, c, ns, "guarded", 2, nil)
	allows(t, c, ns, 0)
	blocked("p1")
	ok(t, c.Client.PolicyV1().PodDisruptionBudgets(ns).Delete(t.Context(), "b", metav1.DeleteOptions{}))
	ok(t, evict(c, ns, "p1"))
	waitLiving(t, c, ns, "guarded", 1, nil)
}

func budgetObserved(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	protected(t, c, ns, 3, 1)
	allows(t, c, ns, 2)
	b := must(c.Client.PolicyV1().PodDisruptionBudgets(ns).Get(t.Context(), "b", metav1.GetOptions{}))(t)
	if s := b.Status; s.CurrentHealthy != 3 || s.DesiredHealthy != 1 || s.ExpectedPods != 3 || len(s.Conditions) != 1 || s.Conditions[0].Reason != policyv1.SufficientPodsReason {
		t.Errorf("status %+v", s)
	}
}

func budgetStatus(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	protected(t, c, ns, 1, 1)
	allows(t, c, ns, 0)
	budgets := c.Client.PolicyV1().PodDisruptionBudgets(ns)
	var err error
	for range 5 {
		b := must(budgets.Get(t.Context(), "b", metav1.GetOptions{}))(t)
		b.Status.DisruptedPods = map[string]metav1.Time{"p0": metav1.Now()}
		if b, err = budgets.UpdateStatus(t.Context(), b, metav1.UpdateOptions{}); err == nil {
			if len(b.Status.DisruptedPods) != 1 {
				t.Errorf("after the update of /status: %+v", b.Status)
			}
			break
		}
	}
	ok(t, err)
	b := must(budgets.Patch(t.Context(), "b", types.MergePatchType, []byte(`{"status":{"disruptedPods":null}}`), metav1.PatchOptions{}, "status"))(t)
	if len(b.Status.DisruptedPods) != 0 {
		t.Errorf("after the patch of /status: %+v", b.Status)
	}
	allows(t, c, ns, 0)
}

// twoOwners gives half of one controller's pods to another too, and deletes the first with
// its dependents: the shared half must stay, with the other owner alone.
func twoOwners(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	first := set(t, c, "v1/replicationcontrollers", "ReplicationController", ns, "first", 4)
	set(t, c, "v1/replicationcontrollers", "ReplicationController", ns, "second", 0)
	pods := waitLiving(t, c, ns, "first", 4, nil)
	second := must(c.Client.CoreV1().ReplicationControllers(ns).Get(t.Context(), "second", metav1.GetOptions{}))(t)
	shared := map[string]bool{}
	for _, p := range pods[:2] {
		patch := fmt.Sprintf(`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ReplicationController","name":"second","uid":%q}]}}`, second.UID)
		must(c.Client.CoreV1().Pods(ns).Patch(t.Context(), p.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}))(t)
		shared[p.Name] = true
	}
	ok(t, first.Delete(t.Context(), "first", metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationForeground)}))
	c.Eventually(t, 90*time.Second, "the first owner to go", func(ctx context.Context) error {
		_, err := first.Get(ctx, "first", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there (%v)", err)
	})
	time.Sleep(5 * time.Second) // what goes by mistake goes soon
	for _, p := range waitLiving(t, c, ns, "first", 2, nil) {
		if !shared[p.Name] || len(p.OwnerReferences) != 1 || p.OwnerReferences[0].UID != second.UID {
			t.Errorf("%s stays with owners %+v", p.Name, p.OwnerReferences)
		}
	}
}

// podsFirst holds a pod by a finalizer and wants all else in its namespace to outlive it.
func podsFirst(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	createPod(t, c, ns, c.Pod("held", nil, func(p *corev1.Pod) { p.Finalizers = []string{"conf.example/hold"} }))
	configMap(t, c, ns, "kept", map[string]string{"a": "b"})
	ok(t, c.Client.CoreV1().Namespaces().Delete(t.Context(), ns, metav1.DeleteOptions{}))
	c.WaitPod(t, ns, "held", "being deleted", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	c.Eventually(t, 60*time.Second, "the namespace to say what remains", func(ctx context.Context) error {
		o, err := c.Client.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, cond := range o.Status.Conditions {
			if cond.Type == corev1.NamespaceContentRemaining && cond.Status == corev1.ConditionTrue && strings.Contains(cond.Message, "pods. has 1 resource instances") {
				return nil
			}
		}
		return fmt.Errorf("conditions %+v", o.Status.Conditions)
	})
	time.Sleep(3 * time.Second)
	if o := must(c.Client.CoreV1().ConfigMaps(ns).Get(t.Context(), "kept", metav1.GetOptions{}))(t); o.DeletionTimestamp != nil {
		t.Error("the ConfigMap goes before the pod")
	}
	must(c.Client.CoreV1().Pods(ns).Patch(t.Context(), "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}))(t)
	c.Eventually(t, 90*time.Second, "the namespace to go", func(ctx context.Context) error {
		_, err := c.Client.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there (%v)", err)
	})
}
