package bootstraptoken

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/cluster-bootstrap/token/jws"
)

func token(id string, mutate ...func(*corev1.Secret)) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-" + id}, Type: corev1.SecretTypeBootstrapToken}
	s.Data = map[string][]byte{"token-id": []byte(id), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-signing": []byte("true")}
	for _, m := range mutate {
		m(s)
	}
	return s
}

func TestSigned(t *testing.T) {
	expired := func(s *corev1.Secret) { s.Data["expiration"] = []byte("2001-01-01T00:00:00Z") }
	notForSigning := func(s *corev1.Secret) { delete(s.Data, "usage-bootstrap-signing") }
	misnamed := func(s *corev1.Secret) { s.Name = "bootstrap-token-zzzzzz" }
	data := map[string]string{"kubeconfig": "k", "jws-kubeconfig-gone00": "old", "other": "kept"}
	got, err := Signed(data, []*corev1.Secret{token("abcdef"), token("expird", expired), token("nosign", notForSigning), token("misnam", misnamed)}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got["other"] != "kept" {
		t.Errorf("got %v", got)
	}
	if !jws.DetachedTokenIsValid(got["jws-kubeconfig-abcdef"], "k", "abcdef", "0123456789abcdef") {
		t.Errorf("signature %q does not hold", got["jws-kubeconfig-abcdef"])
	}
}

// Tokens end when they expire, and no other Secret does. One that was given longer since the cache saw it stays: the deletion
// is of what was seen.
func TestCleaner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		until := func(end time.Time) func(*corev1.Secret) {
			return func(s *corev1.Secret) {
				s.Data["expiration"] = []byte(end.UTC().Format(time.RFC3339))
				s.UID, s.ResourceVersion = types.UID("u-"+s.Name), "7"
			}
		}
		elsewhere := token("elsewh", until(time.Now().Add(time.Minute)))
		elsewhere.Namespace = "shop"
		opaque := token("opaque", until(time.Now().Add(time.Minute)), func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque })
		client := fake.NewClientset(token("minute", until(time.Now().Add(time.Minute))), token("hour00", until(time.Now().Add(time.Hour))), token("always"), elsewhere, opaque,
			token("unread", func(s *corev1.Secret) { s.Data["expiration"] = []byte("soon") }))
		shared := informers.NewSharedInformerFactory(client, 0)
		c, err := NewCleaner(client, shared.Core().V1().Secrets(), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		shared.Start(ctx.Done())
		synctest.Wait() // what comes between the list and the watch is lost to a fake
		go func() { ended <- c.Run(ctx) }()
		defer func() { stop(); <-ended; shared.Shutdown() }()
		gone := func() string {
			names := ""
			for _, a := range client.Actions() {
				d, ok := a.(clienttesting.DeleteActionImpl)
				if !ok {
					continue
				}
				names += strings.TrimPrefix(d.Name, "bootstrap-token-") + " "
				if p := d.DeleteOptions.Preconditions; d.Name == "bootstrap-token-minute" && (p == nil || p.UID == nil || *p.UID != "u-bootstrap-token-minute" || p.ResourceVersion == nil || *p.ResourceVersion != "7") {
					t.Errorf("%s was deleted whatever it is by now: %+v", d.Name, p)
				}
			}
			return names
		}
		for _, tc := range []struct {
			after time.Duration
			want  string
		}{{time.Second, "unread "}, {58 * time.Second, "unread "}, {3 * time.Second, "unread minute "}, {time.Hour, "unread minute hour00 "}} {
			time.Sleep(tc.after)
			if got := gone(); got != tc.want {
				t.Errorf("%v later: deleted %q, want %q", tc.after, got, tc.want)
			}
		}
	})
}
