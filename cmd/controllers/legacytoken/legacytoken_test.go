package legacytoken

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

const day = 24 * time.Hour

var now = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

func ago(d time.Duration) string { return now.Add(-d).Format(time.DateOnly) }

func token(name string, age time.Duration, marks map[string]string) *corev1.Secret {
	return &corev1.Secret{Type: corev1.SecretTypeServiceAccountToken, ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, UID: types.UID(name),
		CreationTimestamp: metav1.NewTime(now.Add(-age)), Labels: marks,
		Annotations: map[string]string{corev1.ServiceAccountNameKey: "a", corev1.ServiceAccountUIDKey: "account"}}}
}

func TestDecide(t *testing.T) {
	for _, tc := range []struct {
		name    string
		secret  *corev1.Secret
		tracked time.Duration
		want    Step
	}{
		{"never used", token("s", 300*day, nil), 200 * day, Invalidate},
		{"uses are noted for too short a time", token("s", 300*day, nil), 10 * day, Keep},
		{"young", token("s", 10*day, nil), 200 * day, Keep},
		{"used lately", token("s", 300*day, map[string]string{lastUsed: ago(5 * day)}), 200 * day, Keep},
		{"used long ago", token("s", 300*day, map[string]string{lastUsed: ago(150 * day)}), 200 * day, Invalidate},
		{"who knows when", token("s", 300*day, map[string]string{lastUsed: "yesterday"}), 200 * day, Keep},
		{"invalid lately", token("s", 300*day, map[string]string{invalidSince: ago(5 * day)}), 200 * day, Keep},
		{"invalid for long", token("s", 300*day, map[string]string{invalidSince: ago(150 * day)}), 200 * day, Delete},
		{"invalid for long, and used again", token("s", 300*day, map[string]string{invalidSince: ago(150 * day), lastUsed: ago(day)}), 200 * day, Keep},
	} {
		if got := Decide(tc.secret, now.Add(-tc.tracked), now, 100*day); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestClean(t *testing.T) {
	old := map[string]string{invalidSince: ago(150 * day)}
	client := fake.NewClientset(token("unused", 300*day, nil), token("invalid", 300*day, old), token("mounted", 300*day, old), token("person's", 300*day, old),
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: tracking}, Data: map[string]string{"since": ago(200 * day)}})
	shared := informers.NewSharedInformerFactory(client, 0)
	c := New(client, client, 100*day, shared, slog.New(slog.DiscardHandler))
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "a", UID: "account"}, Secrets: []corev1.ObjectReference{{Name: "unused"}, {Name: "invalid"}, {Name: "mounted"}}}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "mounted"}}}}}}
	if err := shared.Core().V1().ServiceAccounts().Informer().GetStore().Add(account); err != nil {
		t.Fatal(err)
	}
	if err := shared.Core().V1().Pods().Informer().GetStore().Add(pod); err != nil {
		t.Fatal(err)
	}
	if err := c.clean(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	secrets := client.CoreV1().Secrets("n")
	if s, err := secrets.Get(t.Context(), "unused", metav1.GetOptions{}); err != nil || s.Labels[invalidSince] != ago(0) {
		t.Errorf("unused: %v (%v)", s.Labels, err)
	}
	for _, name := range []string{"invalid", "mounted", "person's"} {
		_, err := secrets.Get(t.Context(), name, metav1.GetOptions{})
		if gone := apierrors.IsNotFound(err); gone != slices.Contains([]string{"invalid"}, name) {
			t.Errorf("%s: gone is %t", name, gone)
		}
	}
}
