package identity

import (
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Answers are not compressed: of a watch, each event would be, alone.
func TestAnswersAreNotCompressed(t *testing.T) {
	accepts := make(chan []string, 1)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		accepts <- r.Header.Values("Accept-Encoding")
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"kind":"PodList","apiVersion":"v1","items":[]}`))
	}))
	defer srv.Close()
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	file := filepath.Join(t.TempDir(), "kubeconfig")
	access := clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"c": {Server: srv.URL, CertificateAuthorityData: authority}}, AuthInfos: map[string]*clientcmdapi.AuthInfo{"u": {Token: "t"}},
		Contexts: map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}}, CurrentContext: "x",
	}
	if err := clientcmd.WriteToFile(access, file); err != nil {
		t.Fatal(err)
	}
	c, err := Connect(t.Context(), Config{Node: "n", Kubeconfig: file}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	client, err := c.Client(-1, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := <-accepts; len(got) > 0 {
		t.Errorf("takes %q", got)
	}
}

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
