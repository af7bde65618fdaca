package controlplane

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// The day is that of the first server, whatever the others find, unless nobody can read it.
func TestTokensAreTrackedSinceTheFirstDay(t *testing.T) {
	today := time.Date(2026, 3, 1, 23, 30, 0, 0, time.FixedZone("", -3600)) // which is tomorrow in UTC
	for was, want := range map[string]string{"": "2026-03-02", "2025-12-24": "2025-12-24", "since ever": "2026-03-02"} {
		client := fake.NewClientset()
		maps := client.CoreV1().ConfigMaps("kube-system")
		if was != "" {
			if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: trackingName}, Data: map[string]string{trackedSince: was}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := EnsureTokenTracking(t.Context(), client, today); err != nil {
				t.Fatal(err)
			}
			today = today.Add(time.Hour)
		}
		today = today.Add(-2 * time.Hour)
		if got, err := maps.Get(t.Context(), trackingName, metav1.GetOptions{}); err != nil || got.Data[trackedSince] != want {
			t.Errorf("was %q: %v (%v), want %s", was, got.Data, err, want)
		}
	}
}
