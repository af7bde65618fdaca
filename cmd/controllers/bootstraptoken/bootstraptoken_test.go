package bootstraptoken

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
