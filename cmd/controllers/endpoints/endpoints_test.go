package endpoints

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
)

func byHand(name string, annotations map[string]string) *corev1.Endpoints {
	return &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, Annotations: annotations}, Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "10.0.0.9"}}}}}
}

func without(name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
}

// there lists the Endpoints by name.
func there(t *testing.T, client *fake.Clientset) string {
	t.Helper()
	list, err := client.CoreV1().Endpoints("n").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list.Items {
		names = append(names, e.Name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// Endpoints end with their Service, though it went while no controller ran. Those of somebody's lock, or that are made before
// their Service is, stay.
func TestEndpointsEndWithTheirService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(byHand("left", nil), byHand("served", nil), without("served"), byHand("lock", map[string]string{"control-plane.alpha.kubernetes.io/leader": "{}"}))
		shared := informers.NewSharedInformerFactory(client, 0)
		c, err := New(client, shared, &record.FakeRecorder{}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		shared.Start(ctx.Done())
		synctest.Wait() // what comes between the list and the watch is lost to a fake
		go func() { ended <- c.Run(ctx) }()
		defer func() { stop(); <-ended; shared.Shutdown() }()
		time.Sleep(time.Second)
		if got := there(t, client); got != "lock served" {
			t.Errorf("after the start: %s", got)
		}
		if _, err := client.CoreV1().Endpoints("n").Create(ctx, byHand("early", nil), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := client.CoreV1().Services("n").Delete(ctx, "served", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if got := there(t, client); got != "early lock" {
			t.Errorf("after the Service's end: %s", got)
		}
	})
}

// A cache that is late shows no Service where there is one again.
func TestALateCacheDeletesNoEndpoints(t *testing.T) {
	client := fake.NewClientset(byHand("served", nil), without("served"))
	c, err := New(client, informers.NewSharedInformerFactory(client, 0), &record.FakeRecorder{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.sync(t.Context(), "n/served"); err != nil || there(t, client) != "served" {
		t.Errorf("%q, %v", there(t, client), err)
	}
}
