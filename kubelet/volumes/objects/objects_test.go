package objects

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func configMap(value string) *v1.ConfigMap {
	return &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cm"}, Data: map[string]string{"k": value}}
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
