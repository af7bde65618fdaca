package endpoints

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
)

func pod(ip string, ready bool, port int32) *corev1.Pod {
	p := &corev1.Pod{}
	p.Status.PodIP, p.Status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
	p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: port, Protocol: corev1.ProtocolTCP}}}}
	if ready {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	return p
}

func TestSubsets(t *testing.T) {
	svc := &corev1.Service{}
	svc.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("web"), Protocol: corev1.ProtocolTCP}}
	leaving := pod("10.0.0.9", true, 80)
	now := metav1.Now()
	leaving.DeletionTimestamp = &now
	pods := []*corev1.Pod{pod("10.0.0.2", true, 80), pod("10.0.0.1", true, 80), pod("10.0.0.3", false, 80), pod("10.0.0.4", true, 81), pod("", true, 80), leaving}
	got := Subsets(svc, pods)
	if len(got) != 2 {
		t.Fatalf("two port numbers, but %d subsets: %+v", len(got), got)
	}
	first := got[0]
	if len(first.Addresses) != 2 || first.Addresses[0].IP != "10.0.0.1" || len(first.NotReadyAddresses) != 1 || first.Ports[0].Port != 80 {
		t.Errorf("first subset: %+v", first)
	}
	if got[1].Addresses[0].IP != "10.0.0.4" || got[1].Ports[0].Port != 81 {
		t.Errorf("second subset: %+v", got[1])
	}
	svc.Spec.PublishNotReadyAddresses = true
	if got := Subsets(svc, pods); len(got[0].NotReadyAddresses) != 0 || len(got[0].Addresses) != 4 {
		t.Errorf("publishing those not ready: %+v", got[0])
	}
}

func TestFit(t *testing.T) {
	subset := func(ready, notReady int) corev1.EndpointSubset {
		return corev1.EndpointSubset{Addresses: make([]corev1.EndpointAddress, ready), NotReadyAddresses: make([]corev1.EndpointAddress, notReady)}
	}
	for _, tc := range []struct {
		in, want  string
		truncated bool
	}{
		{"", "", false},
		{"600+200 100+100", "600+200 100+100", false},
		{"600+300 100+200", "600+180 100+120", true},
		{"999+0 1+1", "999+0 1+0", true},
		{"1000+0 0+5", "1000+0", true},
		{"1500+10 500+10", "750+0 250+0", true},
		{"2+0 2+0 2999+5", "1+0 1+0 998+0", true},
		{"0+2000", "0+1000", true},
	} {
		var in []corev1.EndpointSubset
		for _, one := range strings.Fields(tc.in) {
			var ready, notReady int
			if _, err := fmt.Sscanf(one, "%d+%d", &ready, &notReady); err != nil {
				t.Fatal(err)
			}
			in = append(in, subset(ready, notReady))
		}
		out, truncated := Fit(in)
		var got []string
		for _, s := range out {
			got = append(got, fmt.Sprintf("%d+%d", len(s.Addresses), len(s.NotReadyAddresses)))
		}
		if strings.Join(got, " ") != tc.want || truncated != tc.truncated {
			t.Errorf("%s: %v, %t; want %s", tc.in, got, truncated, tc.want)
		}
	}
}

// An object that cannot have all its addresses says so, and no more when it can.
func TestSaysThatItIsTruncated(t *testing.T) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}}
	client := fake.NewClientset()
	shared := informers.NewSharedInformerFactory(client, 0) // never started: the test is what the cache shows
	c, err := New(client, shared, &record.FakeRecorder{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int]string{capacity: "", capacity + 1: "truncated"} {
		for range 2 { // from the other, too
			for _, n := range []int{2*capacity + 1 - n, n} {
				if err := c.write(t.Context(), svc, []corev1.EndpointSubset{{Addresses: make([]corev1.EndpointAddress, n)}}, time.Time{}); err != nil {
					t.Fatal(err)
				}
				live, err := client.CoreV1().Endpoints("ns").Get(t.Context(), "web", metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if err := shared.Core().V1().Endpoints().Informer().GetIndexer().Add(live); err != nil {
					t.Fatal(err)
				}
			}
		}
		live, err := client.CoreV1().Endpoints("ns").Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil || len(live.Subsets[0].Addresses) != capacity || live.Annotations[corev1.EndpointsOverCapacity] != want {
			t.Errorf("%d addresses: %d, %v, %v", n, len(live.Subsets[0].Addresses), live.Annotations, err)
		}
	}
}

// Whoever measures how long a change takes to reach a proxy is told when it was made: when the Service came, and when a pod
// became ready.
func TestTellsWhenItWasChanged(t *testing.T) {
	made, ready := time.Unix(1000, 0).UTC(), time.Unix(2000, 0).UTC()
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", CreationTimestamp: metav1.NewTime(made)}}
	svc.Spec.Selector, svc.Spec.Ports = map[string]string{"app": "web"}, []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}
	client := fake.NewClientset()
	shared := informers.NewSharedInformerFactory(client, 0) // never started: the test is what the cache shows
	c, err := New(client, shared, &record.FakeRecorder{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	sync := func(want time.Time) {
		t.Helper()
		if err := c.sync(t.Context(), "ns/web"); err != nil {
			t.Fatal(err)
		}
		live, err := client.CoreV1().Endpoints("ns").Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil || live.Annotations[corev1.EndpointsLastChangeTriggerTime] != want.Format(time.RFC3339Nano) {
			t.Fatalf("%v, %v; want %v", live.Annotations, err, want)
		}
		if err := shared.Core().V1().Endpoints().Informer().GetIndexer().Add(live); err != nil {
			t.Fatal(err)
		}
	}
	if err := shared.Core().V1().Services().Informer().GetIndexer().Add(svc); err != nil {
		t.Fatal(err)
	}
	sync(made)
	p := pod("10.0.0.1", true, 80)
	p.Namespace, p.Name, p.Labels = "ns", "p", svc.Spec.Selector
	p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(ready)
	if err := shared.Core().V1().Pods().Informer().GetIndexer().Add(p); err != nil {
		t.Fatal(err)
	}
	sync(ready)
}
