package identity

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// What one client asks for does not make another wait.
func TestClientsAreBoundedApart(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"kind":"PodList","apiVersion":"v1","items":[]}`))
	}))
	defer srv.Close()
	c := &Connection{&rest.Config{Host: srv.URL}, srv.Client()}
	busy, err := c.Client(0.001, 1)
	if err != nil {
		t.Fatal(err)
	}
	quiet, err := c.Client(0.001, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := busy.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	waits := make(chan error, 1)
	go func() {
		_, err := busy.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
		waits <- err
	}()
	if _, err := quiet.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-waits:
		t.Errorf("a client beyond its bound was not held back: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
}
