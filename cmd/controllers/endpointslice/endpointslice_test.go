package endpointslice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
)

func service(name string, change ...func(*corev1.Service)) *corev1.Service {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, UID: types.UID("of-" + name)}}
	svc.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.9", ClusterIPs: []string{"10.96.0.9"}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
		Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080), Protocol: corev1.ProtocolTCP}}}
	for _, f := range change {
		f(svc)
	}
	return svc
}

func pod(name, app, ip string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, UID: types.UID(name), Labels: map[string]string{"app": app}}, Spec: corev1.PodSpec{NodeName: "node"}}
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	return p
}

// cluster is an API, and what it takes to run a Controller over it.
type cluster struct {
	*fake.Clientset
	events *record.FakeRecorder
	made   int
}

func newCluster(objs ...runtime.Object) *cluster {
	w := &cluster{Clientset: fake.NewClientset(append(objs, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}})...), events: record.NewFakeRecorder(1000)}
	w.PrependReactor("*", "endpointslices", func(a clienttesting.Action) (bool, runtime.Object, error) {
		switch a := a.(type) {
		case clienttesting.CreateActionImpl: // which names and numbers things as the server does
			s := a.Object.(*discoveryv1.EndpointSlice)
			w.made++
			s.Name, s.UID, s.Generation = fmt.Sprintf("%s%d", s.GenerateName, w.made), types.UID(fmt.Sprint("s", w.made)), 1
		case clienttesting.UpdateActionImpl:
			a.Object.(*discoveryv1.EndpointSlice).Generation++
		}
		return false, nil, nil
	})
	w.PrependReactor("update", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		w.made++
		a.(clienttesting.UpdateActionImpl).Object.(*corev1.Pod).ResourceVersion = fmt.Sprint(w.made)
		return false, nil, nil
	})
	return w
}

// run runs a Controller until stop is called.
func (w *cluster) run(t *testing.T) (stop func()) {
	t.Helper()
	return w.runAfter(t, func(*Controller) {})
}

// runAfter is run, with something done before.
func (w *cluster) runAfter(t *testing.T, first func(*Controller)) (stop func()) {
	t.Helper()
	shared := informers.NewSharedInformerFactory(w, 0)
	c, err := New(w, shared, w.events, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	first(c)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	shared.Start(ctx.Done())
	synctest.Wait() // what comes between the list and the watch is lost to a fake
	go func() { ended <- c.Run(ctx) }()
	time.Sleep(time.Second)
	return func() { cancel(); <-ended; shared.Shutdown() }
}

func (w *cluster) slices(t *testing.T) []discoveryv1.EndpointSlice {
	t.Helper()
	list, err := w.DiscoveryV1().EndpointSlices("n").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// told says which addresses each Service that there is has, by the slices that are this controller's and stay.
func (w *cluster) told(t *testing.T) string {
	t.Helper()
	all := map[string][]string{}
	for _, s := range w.slices(t) {
		if s.Labels[discoveryv1.LabelManagedBy] != managedBy || s.DeletionTimestamp != nil {
			continue
		}
		name := s.Labels[discoveryv1.LabelServiceName]
		if _, err := w.CoreV1().Services("n").Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			continue
		}
		for _, end := range s.Endpoints {
			text := end.Addresses[0]
			if !ptr.Deref(end.Conditions.Ready, false) {
				text = "(" + text + ")"
			}
			all[name] = append(all[name], text)
		}
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		slices.Sort(all[name])
		parts = append(parts, name+" "+strings.Join(all[name], " "))
	}
	return strings.Join(parts, ", ")
}

// write changes, adds or removes something, and gives the Controller a while.
func write[T any](t *testing.T, do func(context.Context) (T, error)) {
	t.Helper()
	if _, err := do(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Minute) // of virtual time: a fake may lose an event, and the Controller asks after its patience
}

func (w *cluster) expect(t *testing.T, when, want string) {
	t.Helper()
	if got := w.told(t); got != want {
		t.Errorf("%s: %q, want %q", when, got, want)
	}
}

// Slices say what becomes of pods and Services.
func TestFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCluster(service("web"), service("db"), pod("a", "web", "10.0.0.1"), pod("x", "none", "10.0.0.9"))
		defer w.run(t)()
		pods, services := w.CoreV1().Pods("n"), w.CoreV1().Services("n")
		w.expect(t, "at first", "web 10.0.0.1")
		if s := w.slices(t)[0]; !metav1.IsControlledBy(&s, service("web")) && !metav1.IsControlledBy(&s, service("db")) {
			t.Errorf("owners %v", s.OwnerReferences)
		}
		write(t, func(ctx context.Context) (*corev1.Pod, error) {
			return pods.Create(ctx, pod("b", "web", "10.0.0.2"), metav1.CreateOptions{})
		})
		w.expect(t, "another pod", "web 10.0.0.1 10.0.0.2")
		write(t, func(ctx context.Context) (*corev1.Pod, error) {
			sick := pod("a", "web", "10.0.0.1")
			sick.Status.Conditions[0].Status = corev1.ConditionFalse
			return pods.Update(ctx, sick, metav1.UpdateOptions{})
		})
		w.expect(t, "one is not ready", "web (10.0.0.1) 10.0.0.2")
		write(t, func(ctx context.Context) (*corev1.Pod, error) {
			return pods.Update(ctx, pod("b", "db", "10.0.0.2"), metav1.UpdateOptions{})
		})
		w.expect(t, "one has other labels", "db 10.0.0.2, web (10.0.0.1)")
		write(t, func(ctx context.Context) (*corev1.Service, error) {
			return services.Update(ctx, service("web", func(svc *corev1.Service) { svc.Spec.PublishNotReadyAddresses = true }), metav1.UpdateOptions{})
		})
		w.expect(t, "all are wanted", "db 10.0.0.2, web 10.0.0.1")
		write(t, func(ctx context.Context) (any, error) { return nil, pods.Delete(ctx, "a", metav1.DeleteOptions{}) })
		w.expect(t, "it went", "db 10.0.0.2")
	})
}

// Services that somebody else looks after get nothing.
func TestLeavesOthersAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCluster(service("out", func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeExternalName }), service("own", func(svc *corev1.Service) { svc.Spec.Selector = nil }),
			pod("a", "out", "10.0.0.1"), pod("b", "own", "10.0.0.2"),
			&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "by-hand", Labels: map[string]string{discoveryv1.LabelServiceName: "own"}}})
		defer w.run(t)()
		if all := w.slices(t); len(all) != 1 || all[0].Name != "by-hand" {
			t.Errorf("%v", all)
		}
	})
}

// Whatever somebody does to a slice, its Service gets back what it had, though the program began anew meanwhile.
func TestMendsSlices(t *testing.T) {
	relabel := func(label, value string) func(*testing.T, *cluster, *discoveryv1.EndpointSlice) {
		return func(t *testing.T, w *cluster, s *discoveryv1.EndpointSlice) {
			s.Labels[label] = value
			write(t, func(ctx context.Context) (any, error) {
				return w.DiscoveryV1().EndpointSlices("n").Update(ctx, s, metav1.UpdateOptions{})
			})
		}
	}
	for name, harm := range map[string]func(*testing.T, *cluster, *discoveryv1.EndpointSlice){
		"deleted": func(t *testing.T, w *cluster, s *discoveryv1.EndpointSlice) {
			write(t, func(ctx context.Context) (any, error) {
				return nil, w.DiscoveryV1().EndpointSlices("n").Delete(ctx, s.Name, metav1.DeleteOptions{})
			})
		},
		"emptied": func(t *testing.T, w *cluster, s *discoveryv1.EndpointSlice) {
			s.Endpoints = nil
			write(t, func(ctx context.Context) (any, error) {
				return w.DiscoveryV1().EndpointSlices("n").Update(ctx, s, metav1.UpdateOptions{})
			})
		},
		"given to another controller": relabel(discoveryv1.LabelManagedBy, "me"),
		"given to another Service":    relabel(discoveryv1.LabelServiceName, "other"),
		// A finalizer keeps it.
		"being deleted": func(t *testing.T, w *cluster, s *discoveryv1.EndpointSlice) {
			s.DeletionTimestamp, s.Finalizers = ptr.To(metav1.Now()), []string{"example.com/hold"}
			write(t, func(ctx context.Context) (any, error) {
				return w.DiscoveryV1().EndpointSlices("n").Update(ctx, s, metav1.UpdateOptions{})
			})
		},
	} {
		for _, anew := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, anew %t", name, anew), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newCluster(service("web"), pod("a", "web", "10.0.0.1"))
					stop := w.run(t)
					if anew {
						stop()
						stop = w.run(t)
					}
					defer func() { stop() }()
					first := w.slices(t)[0]
					w.expect(t, "before", "web 10.0.0.1")
					harm(t, w, first.DeepCopy())
					w.expect(t, "after", "web 10.0.0.1")
					write(t, func(ctx context.Context) (*corev1.Pod, error) {
						return w.CoreV1().Pods("n").Create(ctx, pod("b", "web", "10.0.0.2"), metav1.CreateOptions{})
					})
					w.expect(t, "after another pod came", "web 10.0.0.1 10.0.0.2")
				})
			})
		}
	}
}

// A slice that came and went between two watches is never shown by the cache, and not waited for for ever.
func TestASliceThatIsNeverSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCluster(service("web"), pod("a", "web", "10.0.0.1"))
		defer w.runAfter(t, func(c *Controller) {
			c.tracker.Update(&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "web-x", UID: "x", Generation: 1,
				Labels: map[string]string{discoveryv1.LabelServiceName: "web", discoveryv1.LabelManagedBy: managedBy}}})
		})()
		w.expect(t, "it may still show up", "")
		time.Sleep(time.Minute)
		w.expect(t, "it did not", "web 10.0.0.1")
		write(t, func(ctx context.Context) (*corev1.Pod, error) {
			return w.CoreV1().Pods("n").Create(ctx, pod("b", "web", "10.0.0.2"), metav1.CreateOptions{})
		})
		w.expect(t, "and another pod came", "web 10.0.0.1 10.0.0.2")
		if n := len(w.slices(t)); n != 1 {
			t.Errorf("%d slices", n)
		}
	})
}

// What cannot be written is tried again, and the Service says why.
func TestTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCluster(service("web"), pod("a", "web", "10.0.0.1"))
		refusals := 3
		w.PrependReactor("create", "endpointslices", func(clienttesting.Action) (bool, runtime.Object, error) {
			refusals--
			return refusals >= 0, nil, errors.New("no")
		})
		defer w.run(t)()
		w.expect(t, "in the end", "web 10.0.0.1")
		if n := len(w.events.Events); n != 3 {
			t.Fatalf("%d events", n)
		}
		const want = "Warning FailedToUpdateEndpointSlices Error updating Endpoint Slices for Service n/web: "
		if got := <-w.events.Events; !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "no") {
			t.Errorf("%s", got)
		}
	})
}
