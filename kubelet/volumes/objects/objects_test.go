package objects

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
)

func configMap(value string) *v1.ConfigMap {
	return &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cm"}, Data: map[string]string{"k": value}}
}

// However many pods use an object, the API server is asked for it once, and watched once.
func TestOneWatchForMany(t *testing.T) {
	client := fake.NewClientset(configMap("1"))
	o := New(Config{Client: client, Changed: func(Key) {}, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	var pods sync.WaitGroup
	for range 50 {
		pods.Go(func() {
			if _, err := o.ConfigMap(ctx, "ns", "cm"); err != nil {
				t.Error(err)
			}
		})
	}
	pods.Wait()
	asked := map[string]int{}
	for _, a := range client.Actions() {
		asked[a.GetVerb()]++
	}
	if asked["watch"] > 1 || asked["list"]+asked["get"] > 1 {
		t.Errorf("for 50 pods it asked %v", asked)
	}
	cancel()
	<-done
}

func TestWatchedObject(t *testing.T) {
	client := fake.NewClientset()
	changed := make(chan Key, 10)
	o := New(Config{Client: client, Changed: func(k Key) { changed <- k }, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	_, err := o.ConfigMap(ctx, "ns", "cm")
	if err == nil || err.Error() != `configmap "cm" not found` {
		t.Fatalf("want it not found, got %v", err)
	}
	if _, err := client.CoreV1().ConfigMaps("ns").Create(ctx, configMap("1"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1", "2"} {
		if want == "2" {
			if _, err := client.CoreV1().ConfigMaps("ns").Update(ctx, configMap("2"), metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case k := <-changed:
			if k != (Key{ConfigMap, "ns", "cm"}) {
				t.Errorf("want the ConfigMap, got %v", k)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("nobody told of the change")
		}
		got, err := o.ConfigMap(ctx, "ns", "cm")
		if err != nil || got.Data["k"] != want {
			t.Errorf("want %s, got %v, %v", want, got, err)
		}
	}
	o.dropIdle(time.Now().Add(time.Hour))
	if len(o.entries) != 0 {
		t.Errorf("want nothing watched, got %d", len(o.entries))
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Where no pod is left the node has no right to look, so it must not go on asking; it does not hurry, for another may follow.
func TestLeftNamespace(t *testing.T) {
	other := configMap("1")
	other.Namespace = "other"
	needed := func(ns string) bool { return ns == "other" }
	o := New(Config{Client: fake.NewClientset(configMap("1"), other), Needed: needed, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	for _, ns := range []string{"ns", "other"} {
		if _, err := o.ConfigMap(ctx, ns, "cm"); err != nil {
			t.Fatal(err)
		}
	}
	gone := o.entries[Key{ConfigMap, "ns", "cm"}]
	o.dropIdle(time.Now().Add(leftFor / 2))
	if len(o.entries) != 2 {
		t.Error("it is let go at once")
	}
	o.dropIdle(time.Now().Add(2 * leftFor))
	if len(o.entries) != 1 || !gone.dropped || o.entries[Key{ConfigMap, "other", "cm"}] == nil {
		t.Errorf("%d are watched, that of the namespace without pods: %v", len(o.entries), !gone.dropped)
	}
	if _, err := o.ConfigMap(ctx, "ns", "cm"); err != nil { // a pod has come again
		t.Error(err)
	}
	cancel()
	<-done
}

func TestWithoutServer(t *testing.T) {
	o := New(Config{Log: slog.New(slog.DiscardHandler)})
	if _, err := o.Secret(t.Context(), "ns", "s"); !errors.Is(err, ErrNoServer) {
		t.Errorf("want ErrNoServer, got %v", err)
	}
}

func TestNobodyRuns(t *testing.T) {
	o := New(Config{Client: fake.NewClientset(), Wait: time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	if _, err := o.Secret(t.Context(), "ns", "s"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("want to wait no longer than told, got %v", err)
	}
}

func TestAllOfAKind(t *testing.T) {
	client := fake.NewClientset(&v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "sa", UID: "sau"}})
	changed := make(chan Key, 10)
	o := New(Config{Client: client, Node: "n", NodeUID: func() types.UID { return "nu" }, Changed: func(k Key) { changed <- k }, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go o.Run(ctx)
	if len(client.Actions()) != 0 {
		t.Error("it watches what nobody asked for")
	}
	if all, err := o.TrustBundles(ctx); err != nil || len(all) != 0 {
		t.Fatalf("%v, %v", all, err)
	}
	bundle := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "b"}}
	if _, err := client.CertificatesV1().ClusterTrustBundles().Create(ctx, bundle, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if k := <-changed; k != (Key{Kind: TrustBundle, Name: "b"}) {
		t.Errorf("told of %v", k)
	}
	if all, err := o.TrustBundles(ctx); err != nil || len(all) != 1 || all[0].Name != "b" {
		t.Errorf("%v, %v", all, err)
	}
}

func TestCertificateRequestIsWaitedFor(t *testing.T) {
	client := fake.NewClientset(&v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "sa", UID: "sau"}})
	o := New(Config{Client: client, Node: "n", NodeUID: func() types.UID { return "nu" }, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go o.Run(ctx)
	req, err := o.RequestCertificate(ctx, &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "r"},
		Spec: certificatesv1.PodCertificateRequestSpec{ServiceAccountName: "sa"}})
	if err != nil || req.Spec.ServiceAccountUID != "sau" || req.Spec.NodeUID != "nu" || req.Spec.NodeName != "n" {
		t.Fatalf("%+v, %v", req, err)
	}
	short, stop := context.WithTimeout(ctx, 50*time.Millisecond)
	defer stop()
	if _, err := o.CertificateRequest(short, "ns", "r"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("before it was answered: %v", err)
	}
	req = req.DeepCopy()
	req.Status.Conditions = []metav1.Condition{{Type: "Issued"}}
	if _, err := client.CertificatesV1().PodCertificateRequests("ns").UpdateStatus(ctx, req, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := o.CertificateRequest(ctx, "ns", "r"); err != nil || got.Status.Conditions[0].Type != "Issued" {
		t.Errorf("%+v, %v", got, err)
	}
	go func() {
		if err := client.CertificatesV1().PodCertificateRequests("ns").Delete(ctx, "r", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}()
	for wait := time.After(10 * time.Second); ; {
		short, stop := context.WithTimeout(ctx, 50*time.Millisecond)
		_, err := o.CertificateRequest(short, "ns", "r")
		stop()
		if apierrors.IsNotFound(err) {
			return
		}
		select {
		case <-wait:
			t.Fatalf("of a request that is gone: %v", err)
		default:
		}
	}
}
