package accounts

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"
)

// server is the API: it gives out tokens "t1", "t2" ... and answers who bears one.
type server struct {
	*fake.Clientset
	given   int
	asked   []int64
	refused map[string]bool
	heard   []string
}

func newServer(objs ...runtime.Object) *server {
	s := &server{Clientset: fake.NewClientset(objs...), refused: map[string]bool{}}
	s.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "token" {
			return false, nil, nil
		}
		name := a.(clienttesting.CreateActionImpl).Name
		if _, err := s.Tracker().Get(corev1.SchemeGroupVersion.WithResource("serviceaccounts"), a.GetNamespace(), name); err != nil {
			return true, nil, err
		}
		request := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenRequest).DeepCopy()
		s.given++
		s.asked = append(s.asked, *request.Spec.ExpirationSeconds)
		request.Status = authenticationv1.TokenRequestStatus{Token: fmt.Sprint("t", s.given),
			ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Duration(*request.Spec.ExpirationSeconds) * time.Second))}
		return true, request, nil
	})
	return s
}

func (s *server) RoundTrip(req *http.Request) (*http.Response, error) {
	bearer := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
	s.heard = append(s.heard, bearer)
	status := http.StatusOK
	if s.refused[bearer] {
		status = http.StatusUnauthorized
	}
	return &http.Response{StatusCode: status, Body: http.NoBody, Request: req}, nil
}

// as returns a way to s that acts as the account "worker".
func (s *server) as(t *testing.T) func() (int, error) {
	cfg := Config(&rest.Config{Host: "https://api", BearerToken: "root's"}, s, "worker")
	transport, err := rest.HTTPWrappersForConfig(cfg, s)
	if err != nil {
		t.Fatal(err)
	}
	return func() (int, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://api/version", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := transport.RoundTrip(req)
		if req.Header.Get("Authorization") != "" {
			t.Error("the caller's request was changed")
		}
		if err != nil {
			return 0, err
		}
		return res.StatusCode, res.Body.Close()
	}
}

// One token serves until four fifths of its hour are over; one that is refused is not used again.
func TestTokensAreRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		call := s.as(t)
		calls := func(want int) {
			t.Helper()
			if got, err := call(); got != want || err != nil {
				t.Errorf("%d %v, want %d", got, err, want)
			}
		}
		calls(200)
		calls(200)
		time.Sleep(48*time.Minute - time.Second)
		calls(200)
		time.Sleep(time.Second)
		calls(200)
		s.refused["t2"] = true
		calls(401)
		calls(200)
		if got := strings.Join(s.heard, " "); got != "t1 t1 t1 t2 t2 t3" {
			t.Errorf("heard %s", got)
		}
		if fmt.Sprint(s.asked) != "[3600 3600 3600]" {
			t.Errorf("asked for tokens of %v seconds", s.asked)
		}
	})
}

// An account that is missing, or was deleted, is made.
func TestAMissingAccountIsMade(t *testing.T) {
	s := newServer()
	call := s.as(t)
	accounts := s.CoreV1().ServiceAccounts(metav1.NamespaceSystem)
	for i, last := range []string{"t1", "t2"} {
		if _, err := call(); err != nil {
			t.Fatal(err)
		}
		if got := s.heard[len(s.heard)-1]; got != last {
			t.Errorf("round %d: heard %s", i, got)
		}
		if err := accounts.Delete(t.Context(), "worker", metav1.DeleteOptions{}); err != nil {
			t.Errorf("round %d: %v", i, err)
		}
		s.refused[last] = true // as the API server does
		if got, err := call(); got != http.StatusUnauthorized || err != nil {
			t.Errorf("round %d: %d %v", i, got, err)
		}
	}
}

// A refusal of an older token says nothing of the present one.
func TestALateRefusalKeepsTheToken(t *testing.T) {
	s := &source{token: "new", renewAt: time.Now().Add(time.Hour)}
	s.drop("old")
	if got, err := s.get(t.Context()); got != "new" || err != nil {
		t.Errorf("%q %v", got, err)
	}
}

// Without a token nothing is sent, the error says whose is missing, and the request is let go.
func TestNoToken(t *testing.T) {
	for name, tc := range map[string]struct {
		resource string
		err      error
	}{
		"no token":   {"token", apierrors.NewForbidden(corev1.Resource("serviceaccounts"), "worker", errors.New("no"))},
		"no account": {"", apierrors.NewInternalError(errors.New("etcdserver: request timed out"))},
	} {
		s := newServer()
		s.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
			return a.GetSubresource() == tc.resource, nil, tc.err
		})
		transport, err := rest.HTTPWrappersForConfig(Config(&rest.Config{}, s, "worker"), s)
		if err != nil {
			t.Fatal(err)
		}
		body := &closing{Reader: strings.NewReader("{}")}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://api/x", body)
		if err != nil {
			t.Fatal(err)
		}
		_, err = transport.RoundTrip(req)
		if err == nil || !strings.Contains(err.Error(), "service account worker") || !errors.Is(err, tc.err) || len(s.heard) > 0 || !body.closed {
			t.Errorf("%s: %v, sent %v, closed %t", name, err, s.heard, body.closed)
		}
	}
}

type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error { c.closed = true; return nil }

// Nothing of the base's identity goes along, and the logs of the API server tell who it is.
func TestConfigIsTheAccountsOwn(t *testing.T) {
	base := &rest.Config{Host: "https://api", BearerToken: "root's", UserAgent: "manager", QPS: 7, Burst: 9,
		TLSClientConfig: rest.TLSClientConfig{CAFile: "ca", CertFile: "crt", KeyFile: "key"}}
	cfg := Config(base, newServer(), "worker")
	if cfg.BearerToken != "" || cfg.CertFile != "" || cfg.KeyFile != "" || cfg.CAFile != "ca" || cfg.Host != base.Host || cfg.QPS != 7 || cfg.Burst != 9 {
		t.Errorf("%+v", cfg)
	}
	if want := rest.DefaultKubernetesUserAgent() + "/system:serviceaccount:kube-system:worker"; cfg.UserAgent != want || base.UserAgent != "manager" {
		t.Errorf("%s, of %s, want %s", cfg.UserAgent, base.UserAgent, want)
	}
}
