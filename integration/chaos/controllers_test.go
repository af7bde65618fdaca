package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/orlop-io/orlop/integration/bareserver"
)

const manager = "kube-controller-manager"

// takeOver is within what time of its end the next leader works.
const takeOver = 25 * time.Second

func runManager(t *testing.T, s *bareserver.Server) {
	t.Helper()
	must(t, s.Run(manager, "--secure-port=0", "--use-service-account-credentials", "--leader-elect=true", "--kube-api-qps=100", "--kube-api-burst=100"))
}

// holder is who leads, "" while nobody does.
func holder(t *testing.T, s *bareserver.Server) string {
	lease, err := s.Client.CoordinationV1().Leases("kube-system").Get(t.Context(), manager, metav1.GetOptions{})
	if err != nil {
		return ""
	}
	return ptr.Deref(lease.Spec.HolderIdentity, "")
}

// killLeader ends the manager that was started first, which leads, without a word to it.
func killLeader(t *testing.T, s *bareserver.Server) {
	t.Helper()
	pid, err := s.PID(manager)
	must(t, err)
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	must(t, s.Halt(manager))
}

// kubelets stand in for nodes: every pod of a Job succeeds soon, every other one runs, what is deleted goes at once.
// They note every pod that was ever there.
type kubelets struct {
	s    *bareserver.Server
	ns   string
	mu   sync.Mutex
	seen map[types.UID]string // pod to its controller's kind and name
	gone map[types.UID]bool
}

func runKubelets(t *testing.T, s *bareserver.Server, ns string) *kubelets {
	k := &kubelets{s: s, ns: ns, seen: map[types.UID]string{}, gone: map[types.UID]bool{}}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			k.follow(ctx)
			time.Sleep(200 * time.Millisecond)
		}
	})
	t.Cleanup(func() { stop(); wg.Wait() })
	return k
}

func (k *kubelets) follow(ctx context.Context) {
	pods := k.s.Client.CoreV1().Pods(k.ns)
	list, err := pods.List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	k.missing(list.Items)
	for i := range list.Items {
		k.handle(ctx, &list.Items[i])
	}
	w, err := pods.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		pod, ok := e.Object.(*corev1.Pod)
		if !ok {
			return
		}
		if e.Type == watch.Deleted {
			k.note(pod, true)
			continue
		}
		k.handle(ctx, pod)
	}
}

// missing notes that what is not among pods any more went while nobody watched.
func (k *kubelets) missing(pods []corev1.Pod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	there := map[types.UID]bool{}
	for i := range pods {
		there[pods[i].UID] = true
	}
	for uid := range k.seen {
		k.gone[uid] = k.gone[uid] || !there[uid]
	}
}

func (k *kubelets) note(pod *corev1.Pod, gone bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if owner := metav1.GetControllerOf(pod); owner != nil {
		k.seen[pod.UID] = owner.Kind + "/" + owner.Name
	}
	k.gone[pod.UID] = k.gone[pod.UID] || gone
}

func (k *kubelets) handle(ctx context.Context, pod *corev1.Pod) {
	k.note(pod, false)
	pods := k.s.Client.CoreV1().Pods(k.ns)
	if pod.DeletionTimestamp != nil {
		_ = pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0)), Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
		return
	}
	if pod.Status.Phase != corev1.PodPending {
		return
	}
	phase, ready := corev1.PodRunning, corev1.ConditionTrue
	if owner := metav1.GetControllerOf(pod); owner != nil && owner.Kind == "Job" {
		phase, ready = corev1.PodSucceeded, corev1.ConditionFalse
	}
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q},"status":{"phase":%q,"podIP":"10.0.0.1","conditions":[{"type":"Ready","status":%q,"lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`, pod.UID, phase, ready)
	_, _ = pods.Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status") // the next event or list tries again
}

// made counts the pods that each controller ever made, alive those that were not seen to go.
func (k *kubelets) made() map[string]int { return k.count(func(types.UID) bool { return true }) }
func (k *kubelets) alive() map[string]int {
	return k.count(func(u types.UID) bool { return !k.gone[u] })
}

func (k *kubelets) count(which func(types.UID) bool) map[string]int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := map[string]int{}
	for uid, owner := range k.seen {
		if which(uid) {
			n[owner]++
		}
	}
	return n
}

func template(name string, restart corev1.RestartPolicy) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{RestartPolicy: restart, AutomountServiceAccountToken: ptr.To(false), Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
}

func selector(name string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
}

func replicaSet(name string, n int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.ReplicaSetSpec{Replicas: &n, Selector: selector(name), Template: template(name, corev1.RestartPolicyAlways)}}
}

// workloads make a number of pods each, and the kubelets' count of them.
func workloads(t *testing.T, s *bareserver.Server, ns string) map[string]int {
	t.Helper()
	ctx, o := t.Context(), metav1.CreateOptions{}
	_, err := s.Client.AppsV1().ReplicaSets(ns).Create(ctx, replicaSet("set", 400), o)
	must(t, err)
	_, err = s.Client.CoreV1().ReplicationControllers(ns).Create(ctx, &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "rc"},
		Spec: corev1.ReplicationControllerSpec{Replicas: ptr.To(int32(60)), Template: ptr.To(template("rc", corev1.RestartPolicyAlways))}}, o)
	must(t, err)
	_, err = s.Client.AppsV1().StatefulSets(ns).Create(ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "state"},
		Spec: appsv1.StatefulSetSpec{Replicas: ptr.To(int32(40)), Selector: selector("state"), Template: template("state", corev1.RestartPolicyAlways)}}, o)
	must(t, err)
	for name, mode := range map[string]batchv1.CompletionMode{"job": batchv1.NonIndexedCompletion, "indexed": batchv1.IndexedCompletion} {
		_, err = s.Client.BatchV1().Jobs(ns).Create(ctx, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: batchv1.JobSpec{Completions: ptr.To(int32(120)), Parallelism: ptr.To(int32(30)), CompletionMode: &mode, Template: template(name, corev1.RestartPolicyNever)}}, o)
		must(t, err)
	}
	return map[string]int{"ReplicaSet/set": 400, "ReplicationController/rc": 60, "StatefulSet/state": 40, "Job/job": 120, "Job/indexed": 120}
}

func newNamespace(t *testing.T, s *bareserver.Server, name string) string {
	t.Helper()
	_, err := s.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(t, err)
	wait(t, 30*time.Second, "a service account", func() error {
		_, err := s.Client.CoreV1().ServiceAccounts(name).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return name
}

// TestLeaderKilled kills the leader while it makes pods, and its successor while it removes some: the next one works in
// time, every pod is made once, and none is forgotten.
func TestLeaderKilled(t *testing.T) {
	s := start(t)
	runManager(t, s)
	wait(t, 30*time.Second, "somebody to lead", func() error {
		if holder(t, s) == "" {
			return errors.New("nobody does")
		}
		return nil
	})
	runManager(t, s)
	ns := newNamespace(t, s, "leader")
	k := runKubelets(t, s, ns)
	want := workloads(t, s, ns)
	wait(t, 30*time.Second, "the work to be half done", func() error {
		if n := k.made()["ReplicaSet/set"]; n < 100 {
			return fmt.Errorf("%d of 400 pods", n)
		}
		return nil
	})
	successor(t, s, ns, "first")
	want["ReplicaSet/first"] = 1
	settled(t, s, k, ns, want)
	if made := k.made(); !maps.Equal(made, want) {
		t.Errorf("pods that were ever made: %v, want %v", made, want)
	}

	runManager(t, s)
	set, err := s.Client.AppsV1().ReplicaSets(ns).Get(t.Context(), "set", metav1.GetOptions{})
	must(t, err)
	set.Spec.Replicas = ptr.To(int32(50))
	_, err = s.Client.AppsV1().ReplicaSets(ns).Update(t.Context(), set, metav1.UpdateOptions{})
	must(t, err)
	wait(t, 30*time.Second, "the removal to begin", func() error {
		if n := k.alive()["ReplicaSet/set"]; n > 390 {
			return fmt.Errorf("%d of 400 pods are alive", n)
		}
		return nil
	})
	successor(t, s, ns, "second")
	alive := maps.Clone(want)
	alive["ReplicaSet/set"], alive["ReplicaSet/second"] = 50, 1
	settled(t, s, k, ns, alive)
	want["ReplicaSet/second"] = 1
	if made := k.made(); !maps.Equal(made, want) {
		t.Errorf("pods that were ever made: %v, want %v", made, want)
	}
}

// successor kills the leader and wants a new ReplicaSet to have its pod in time.
func successor(t *testing.T, s *bareserver.Server, ns, name string) {
	t.Helper()
	before := holder(t, s)
	killLeader(t, s)
	killed := time.Now()
	_, err := s.Client.AppsV1().ReplicaSets(ns).Create(t.Context(), replicaSet(name, 1), metav1.CreateOptions{})
	must(t, err)
	wait(t, time.Minute, "a new leader to work", func() error {
		set, err := s.Client.AppsV1().ReplicaSets(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err == nil && set.Status.Replicas != 1 {
			err = fmt.Errorf("%s leads, after %s", holder(t, s), before)
		}
		return err
	})
	if took := time.Since(killed); took > takeOver {
		t.Errorf("the next leader worked after %s, wanted within %s", took, takeOver)
	} else {
		t.Logf("the next leader worked after %.1f s", took.Seconds())
	}
}

// settled waits until the living pods are those wanted, the Jobs complete, and both stay so.
func settled(t *testing.T, s *bareserver.Server, k *kubelets, ns string, want map[string]int) {
	t.Helper()
	check := func() error {
		if alive := k.alive(); !maps.Equal(alive, want) {
			return fmt.Errorf("alive are %v, want %v", alive, want)
		}
		for _, name := range []string{"job", "indexed"} {
			job, err := s.Client.BatchV1().Jobs(ns).Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if job.Status.Succeeded != 120 || job.Status.CompletionTime == nil {
				return fmt.Errorf("job %s: %+v", name, job.Status)
			}
		}
		return nil
	}
	wait(t, 90*time.Second, "the work to be done", check)
	time.Sleep(5 * time.Second)
	must(t, check())
}

// supervise runs the manager again whenever it ends, as a kubelet would, until the test ends.
func supervise(t *testing.T, s *bareserver.Server) {
	runManager(t, s)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var runs atomic.Int32
	wg.Go(func() {
		for ctx.Err() == nil {
			time.Sleep(500 * time.Millisecond)
			pid, err := s.PID(manager)
			if err == nil && syscall.Kill(pid, 0) == nil {
				continue
			}
			_ = s.Halt(manager) // it ended otherwise than by request: that is what this is for
			if ctx.Err() == nil {
				runs.Add(1)
				runManager(t, s)
			}
		}
	})
	t.Cleanup(func() {
		stop()
		wg.Wait()
		t.Logf("the controller manager was started again %d times", runs.Load())
	})
}

// TestAPIServerAway takes the API server for a minute, in the middle of everything: all controllers converge after it,
// on what was asked before.
func TestAPIServerAway(t *testing.T) {
	s := start(t)
	supervise(t, s)
	ns, doomed := newNamespace(t, s, "away"), newNamespace(t, s, "doomed")
	ctx := t.Context()
	for i := range 100 {
		_, err := s.Client.CoreV1().ConfigMaps(doomed).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("m", i), Finalizers: []string{}}}, metav1.CreateOptions{})
		must(t, err)
	}
	owner, err := s.Client.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{})
	must(t, err)
	for i := range 50 {
		_, err := s.Client.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("owned", i),
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}}}}, metav1.CreateOptions{})
		must(t, err)
	}
	_, err = s.Client.CoreV1().Services(ns).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "state"},
		Spec: corev1.ServiceSpec{ClusterIP: "None", Selector: map[string]string{"app": "state"}, Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
	must(t, err)
	k := runKubelets(t, s, ns)
	want := workloads(t, s, ns)
	wait(t, 30*time.Second, "the work to begin", func() error {
		if n := k.made()["ReplicaSet/set"]; n < 50 {
			return fmt.Errorf("%d of 400 pods", n)
		}
		return nil
	})
	must(t, s.Client.CoreV1().ConfigMaps(ns).Delete(ctx, "owner", metav1.DeleteOptions{}))
	must(t, s.Client.CoreV1().Namespaces().Delete(ctx, doomed, metav1.DeleteOptions{}))
	_, api := s.PIDs()
	must(t, syscall.Kill(api, syscall.SIGKILL))
	_ = s.StopAPI()
	time.Sleep(outage)
	must(t, s.StartAPI(ctx))
	back := time.Now()
	settled(t, s, k, ns, want)
	wait(t, 30*time.Second, "the garbage, the namespace and the endpoints to be as they should", func() error {
		left, err := s.Client.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if owned := slices.DeleteFunc(left.Items, func(m corev1.ConfigMap) bool { return len(m.OwnerReferences) == 0 }); len(owned) > 0 {
			return fmt.Errorf("%d of 50 objects without an owner are left", len(owned))
		}
		if _, err := s.Client.CoreV1().Namespaces().Get(ctx, doomed, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the namespace: %v", err)
		}
		state, err := s.Client.AppsV1().StatefulSets(ns).Get(ctx, "state", metav1.GetOptions{})
		if err == nil && state.Status.ReadyReplicas != 40 {
			err = fmt.Errorf("StatefulSet %+v", state.Status)
		}
		return err
	})
	t.Logf("all was well %.1f s after the API server was back", time.Since(back).Seconds())
}
