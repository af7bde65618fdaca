package resourcequota

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	library "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
)

func list(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

func TestStatus(t *testing.T) {
	for _, tc := range []struct {
		name                      string
		spec, hard, used, counted corev1.ResourceList
		want                      corev1.ResourceList
		differs                   bool
	}{
		{"new", list("pods", "5"), nil, nil, list("pods", "0"), list("pods", "0"), true},
		{"as counted", list("pods", "5"), list("pods", "5"), list("pods", "2"), list("pods", "2"), list("pods", "2"), false},
		{"given back", list("pods", "5"), list("pods", "5"), list("pods", "2"), list("pods", "1"), list("pods", "1"), true},
		{"limit changed", list("pods", "6"), list("pods", "5"), list("pods", "2"), list("pods", "2"), list("pods", "2"), true},
		{"not limited any more", list("pods", "5"), list("pods", "5", "cpu", "1"), list("pods", "2", "cpu", "1"), list("pods", "2"), list("pods", "2"), true},
		{"not counted keeps its number", list("pods", "5", "count/x.y", "1"), list("pods", "5", "count/x.y", "1"), list("pods", "2", "count/x.y", "1"),
			list("pods", "2"), list("pods", "2", "count/x.y", "1"), false},
	} {
		q := &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{Hard: tc.spec}, Status: corev1.ResourceQuotaStatus{Hard: tc.hard, Used: tc.used}}
		status, differs := Status(q, tc.counted)
		if differs != tc.differs || !library.Equals(status.Used, tc.want) || !library.Equals(status.Hard, tc.spec) {
			t.Errorf("%s: %v, %t", tc.name, status, differs)
		}
	}
}

func TestCounted(t *testing.T) {
	got := fmt.Sprint(Counted(list("pods", "1", "count/pods", "1", "count/events", "1", "secrets", "1", "count/secrets", "1",
		"count/widgets.example.com", "1", "gpu.deviceclass.resource.k8s.io/devices", "1", "requests.cpu", "1")))
	if want := "[resourceclaims.resource.k8s.io secrets widgets.example.com]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A kind that is defined after its quota is counted as soon as it is served, not at the next full count.
func TestCountsWhatComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: list("count/widgets.example.com", "1")}}
		client := fake.NewClientset(q)
		shared := informers.NewSharedInformerFactory(client, 0)
		scheme := metadatafake.NewTestScheme()
		if err := metav1.AddMetaToScheme(scheme); err != nil {
			t.Fatal(err)
		}
		c, err := New(Clients{Act: client, Watch: client, Metadata: metadatafake.NewSimpleMetadataClient(scheme)}, shared, time.Hour, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		shared.Start(ctx.Done())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = c.Run(ctx) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		client.Lock() // as every discovery does before it reads
		client.Fake.Resources = []*metav1.APIResourceList{{GroupVersion: "example.com/v1", APIResources: []metav1.APIResource{
			{Name: "widgets", Namespaced: true, Kind: "Widget", Verbs: metav1.Verbs{"create", "list", "watch", "delete"}},
		}}}
		client.Unlock()
		time.Sleep(2 * rediscover)
		live, err := client.CoreV1().ResourceQuotas("shop").Get(ctx, "q", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, counted := live.Status.Used["count/widgets.example.com"]; !counted {
			t.Errorf("status %+v", live.Status)
		}
		stop()
		<-ended
		shared.Shutdown()
	})
}

// A quota is counted when it comes, and again when a pod goes.
func TestCountsAndGivesBack(t *testing.T) {
	pod := func(name string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	}
	client := fake.NewClientset(pod("a"), pod("b"))
	shared := informers.NewSharedInformerFactory(client, 0)
	meta := metadatafake.NewSimpleMetadataClient(metadatafake.NewTestScheme())
	c, err := New(Clients{Act: client, Watch: client, Metadata: meta}, shared, time.Hour, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	shared.Start(t.Context().Done())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = c.Run(t.Context()) }()
	t.Cleanup(func() { <-ended })

	quotas := client.CoreV1().ResourceQuotas("shop")
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: list("pods", "3")}}
	if _, err := quotas.Create(t.Context(), q, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	used := func(want string) {
		t.Helper()
		var last corev1.ResourceList
		for range 200 {
			if live, err := quotas.Get(t.Context(), "q", metav1.GetOptions{}); err == nil {
				last = live.Status.Used
				if n, ok := last[corev1.ResourcePods]; ok && n.String() == want {
					return
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Fatalf("used %v, want %s pods", last, want)
	}
	used("2")
	if err := client.CoreV1().Pods("shop").Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	used("1")
}
