package server

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	api "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/orlop-io/orlop/cri"
)

// engine is a container runtime that has one running container.
type engine struct {
	log       string
	streaming string
	exec      *runtimeapi.ExecRequest
}

func (e *engine) Container(_ context.Context, id string) (*runtimeapi.ContainerStatus, error) {
	if id != "run1" && id != "dead1" {
		return nil, fmt.Errorf("look at %s: %w", id, cri.ErrNotFound)
	}
	return &runtimeapi.ContainerStatus{Id: id, LogPath: e.log + "/" + id + ".log", State: runtimeapi.ContainerState_CONTAINER_EXITED}, nil
}

func (e *engine) Containers(context.Context) ([]*runtimeapi.Container, error) { return nil, nil }

func (e *engine) Sandboxes(context.Context) ([]*runtimeapi.PodSandbox, error) {
	labels := map[string]string{"io.kubernetes.pod.namespace": "ns", "io.kubernetes.pod.name": "p"}
	return []*runtimeapi.PodSandbox{{Id: "old", Labels: labels, CreatedAt: 1}, {Id: "new", Labels: labels, CreatedAt: 2}, {Id: "dead", Labels: labels, CreatedAt: 3, State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY}}, nil
}

func (e *engine) ExecSync(context.Context, string, []string, time.Duration) (*runtimeapi.ExecSyncResponse, error) {
	return &runtimeapi.ExecSyncResponse{Stdout: []byte("ran")}, nil
}

func (e *engine) ExecURL(_ context.Context, req *runtimeapi.ExecRequest) (string, error) {
	e.exec = req
	return e.streaming + "/exec/token", nil
}

func (e *engine) AttachURL(context.Context, *runtimeapi.AttachRequest) (string, error) {
	return "", errors.New("not in this test")
}

func (e *engine) PortForwardURL(_ context.Context, req *runtimeapi.PortForwardRequest) (string, error) {
	return e.streaming + "/portforward/" + req.PodSandboxId, nil
}

func (e *engine) SandboxStats(context.Context) ([]*runtimeapi.PodSandboxStats, error) {
	of := func(attempt uint32, cpu uint64) *runtimeapi.PodSandboxStats {
		use := &runtimeapi.CpuUsage{Timestamp: 1e18, UsageCoreNanoSeconds: &runtimeapi.UInt64Value{Value: cpu}}
		return &runtimeapi.PodSandboxStats{
			Attributes: &runtimeapi.PodSandboxAttributes{Metadata: &runtimeapi.PodSandboxMetadata{Namespace: "ns", Name: "p", Uid: "u", Attempt: attempt}},
			Linux: &runtimeapi.LinuxPodSandboxStats{Cpu: use, Containers: []*runtimeapi.ContainerStats{
				{Attributes: &runtimeapi.ContainerAttributes{Metadata: &runtimeapi.ContainerMetadata{Name: "c"}}, Cpu: use}}},
		}
	}
	return []*runtimeapi.PodSandboxStats{of(1, 3e9), of(0, 1e9)}, nil
}

func (e *engine) ImageFs(context.Context) ([]*runtimeapi.FilesystemUsage, error) { return nil, nil }

func aPod() *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "c"}, {Name: "pulling"}}},
		Status: v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{
			{Name: "c", ContainerID: "containerd://run1", State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.NewTime(time.Unix(7, 0))}},
				LastTerminationState: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ContainerID: "containerd://dead1"}}},
			{Name: "pulling", State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "ContainerCreating"}}},
		}},
	}
}

func newServer(t *testing.T, e *engine, auth AuthConfig) *Server {
	t.Helper()
	s, err := New(Config{
		Address: "127.0.0.1:0", NodeName: "n1", Runtime: e, Auth: auth, RootDir: t.TempDir(), LogDir: e.log,
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("not in this test") },
		Pods:        func() []*v1.Pod { return []*v1.Pod{aPod()} },
		Health:      func() error { return nil },
		Storage: func(context.Context) map[types.UID]Storage {
			return map[types.UID]Storage{"u": {At: time.Unix(1000, 0), Local: Amount{Bytes: 5000, Inodes: 2}, Logs: map[string]Amount{"c": {Bytes: 300, Inodes: 1}},
				Volumes: []stats.VolumeStats{{Name: "data", PVCRef: &stats.PVCReference{Name: "claim", Namespace: "ns"}}}}}
		},
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAnswers(t *testing.T) {
	e := &engine{log: t.TempDir()}
	for id, text := range map[string]string{"run1": logLine(1, "stdout F now"), "dead1": logLine(1, "stdout F before")} {
		if err := os.WriteFile(filepath.Join(e.log, id+".log"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(e.log, "out")); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(newServer(t, e, AuthConfig{}).routes())
	defer srv.Close()
	for _, tt := range []struct {
		method, path string
		code         int
		want         string // within the answer
	}{
		{"GET", "/healthz", 200, "ok"},
		{"GET", "/pods", 200, `"kind":"PodList"`},
		{"GET", "/containerLogs/ns/p/c", 200, "now\n"},
		{"GET", "/containerLogs/ns/p/c?follow=true", 200, "now\n"},
		{"GET", "/containerLogs/ns/p/c?previous=true", 200, "before\n"},
		{"GET", "/containerLogs/ns/p/c?tailLines=x", 422, "invalid tailLines"},
		{"GET", "/containerLogs/ns/q/c", 404, `pod "q" does not exist`},
		{"GET", "/containerLogs/ns/p/d", 404, `container "d" not found in pod "p"`},
		{"GET", "/containerLogs/ns/p/pulling", 400, `container "pulling" in pod "p" is waiting to start: ContainerCreating`},
		{"GET", "/containerLogs/ns/p/pulling?previous=true", 400, `previous terminated container "pulling" in pod "p" not found`},
		{"POST", "/run/ns/p/c?cmd=ls", 200, "ran"},
		{"POST", "/exec/ns/p/c?command=ls", 400, "at least 1 of stdin, stdout, stderr"},
		{"POST", "/exec/ns/p/pulling?command=ls&output=1", 404, "container not found"},
		{"POST", "/portForward/ns/p?port=0", 400, "invalid port"},
		{"GET", "/logs/run1.log", 200, "now"},
		{"GET", "/logs/out", 500, ""},
		{"GET", "/metrics/resource", 200, `pod_cpu_usage_seconds_total{namespace="ns",pod="p"} 3 1000000000000`},
		{"GET", "/metrics/resource", 200, `container_start_time_seconds{container="c",namespace="ns",pod="p"} 7`},
		{"GET", "/metrics/resource", 200, `resource_scrape_error 0`},
		{"GET", "/stats/summary", 200, `"usageCoreNanoSeconds":3000000000`},
		{"GET", "/stats/summary", 200, `"volume":[{"time":null,"name":"data","pvcRef":{"name":"claim","namespace":"ns"}}]`},
		{"GET", "/stats/summary", 200, `"ephemeral-storage":{"time":"1970-01-01T00:16:40Z","availableBytes":`},
		{"GET", "/stats/summary", 200, `"usedBytes":5300,`},
		{"GET", "/stats/summary", 200, `"inodesUsed":3}`},
		{"GET", "/stats/summary", 200, `"usedBytes":300,`},
		{"GET", "/metrics/cadvisor", 404, ""},
	} {
		req, err := http.NewRequest(tt.method, srv.URL+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if err := res.Body.Close(); err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != tt.code || !strings.Contains(string(body), tt.want) || strings.Contains(string(body), "root:") {
			t.Errorf("%s %s: want %d with %q, got %d: %s", tt.method, tt.path, tt.code, tt.want, res.StatusCode, body)
		}
	}
}

// TestStream goes through to a streaming server that talks a protocol of its own after the upgrade.
func TestStream(t *testing.T) {
	e := &engine{log: t.TempDir()}
	streaming := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		rw.Flush()
		line, err := rw.ReadString('\n')
		if err != nil {
			return
		}
		fmt.Fprintf(rw, "%s heard %s", r.URL.Path, line)
		rw.Flush()
	}))
	defer streaming.Close()
	e.streaming = streaming.URL
	srv := httptest.NewServer(newServer(t, e, AuthConfig{}).routes())
	defer srv.Close()
	for path, want := range map[string]string{
		"/exec/ns/p/c?command=a&command=b%20c&input=1&output=1&error=1&tty=1": "/exec/token heard hello\n",
		"/portForward/ns/p": "/portforward/new heard hello\n",
	} {
		u, err := url.Parse(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", u.Host)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n", path)
		in := bufio.NewReader(conn)
		res, err := http.ReadResponse(in, nil)
		if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%s: want the protocol switched, got %+v, %v", path, res, err)
		}
		fmt.Fprintf(conn, "hello\n")
		if got, err := in.ReadString('\n'); got != want {
			t.Errorf("%s: want %q, got %q, %v", path, want, got, err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	want := &runtimeapi.ExecRequest{ContainerId: "run1", Cmd: []string{"a", "b c"}, Tty: true, Stdin: true, Stdout: true}
	if e.exec.String() != want.String() {
		t.Errorf("want %v, got %v", want, e.exec)
	}
}

func TestRights(t *testing.T) {
	for _, tt := range []struct{ method, path, want string }{
		{"GET", "/pods", "get [pods proxy]"},
		{"GET", "/healthz", "get [healthz proxy]"},
		{"GET", "/stats/summary", "get [stats]"},
		{"GET", "/metrics/resource", "get [metrics]"},
		{"GET", "/logs/", "get [log]"},
		{"GET", "/containerLogs/ns/p/c", "get [proxy]"},
		{"POST", "/exec/ns/p/c", "create [proxy]"},
		{"GET", "/exec/ns/p/c", "create [proxy]"},
		{"GET", "/portForward/ns/p", "create [proxy]"},
		{"GET", "/debug/pprof/", "get [proxy]"},
	} {
		verb, subs := rights(tt.method, tt.path)
		if got := fmt.Sprint(verb, " ", subs); got != tt.want {
			t.Errorf("%s %s: want %s, got %s", tt.method, tt.path, tt.want, got)
		}
	}
}

// reviews is an API server that knows one token and one right.
func reviews(count map[string]int) *fake.Clientset {
	client := fake.NewSimpleClientset()
	client.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, api.Object, error) {
		count["tokens"]++
		r := a.(clienttesting.CreateAction).GetObject().(*authv1.TokenReview).DeepCopy()
		r.Status.Authenticated = r.Spec.Token == "good"
		r.Status.User = authv1.UserInfo{Username: "reader", Groups: []string{"g"}}
		return true, r, nil
	})
	client.PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, api.Object, error) {
		count["rights"]++
		r := a.(clienttesting.CreateAction).GetObject().(*authzv1.SubjectAccessReview).DeepCopy()
		at := r.Spec.ResourceAttributes
		r.Status.Allowed = r.Spec.User == "admin" || at.Subresource == "metrics" && at.Verb == "get" && at.Resource == "nodes" && at.Name == "n1"
		return true, r, nil
	})
	return client
}

func TestWhoMayAsk(t *testing.T) {
	ca, caKey := makeCert(t, "ca", nil, nil)
	other, otherKey := makeCert(t, "other", nil, nil)
	admin, _ := makeCert(t, "admin", ca, caKey)
	forged, _ := makeCert(t, "admin", other, otherKey)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	count := map[string]int{}
	s := newServer(t, &engine{log: t.TempDir()}, AuthConfig{Client: reviews(count), Tokens: true, ClientCAs: func() *x509.CertPool { return pool }})
	h := s.protect(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	for _, tt := range []struct {
		name, path, token string
		cert              *x509.Certificate
		want              int
	}{
		{"nobody", "/metrics", "", nil, 401},
		{"an unknown token", "/metrics", "bad", nil, 401},
		{"a token with the right", "/metrics", "good", nil, 418},
		{"again", "/metrics", "good", nil, 418},
		{"a token without the right", "/exec/ns/p/c", "good", nil, 403},
		{"a certificate", "/exec/ns/p/c", "", admin, 418},
		{"a certificate of another authority", "/exec/ns/p/c", "", forged, 401},
	} {
		req := httptest.NewRequest("GET", tt.path, nil)
		if tt.token != "" {
			req.Header.Set("Authorization", "Bearer "+tt.token)
		}
		if tt.cert != nil {
			req.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{tt.cert}}
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code != tt.want {
			t.Errorf("%s: want %d, got %d: %s", tt.name, tt.want, w.Code, w.Body)
		}
	}
	if diff := cmp.Diff(map[string]int{"tokens": 2, "rights": 3}, count); diff != "" {
		t.Errorf("questions to the API server: -want +got:\n%s", diff)
	}
}

// TestRun serves TLS to those who show a certificate, and health to everyone on the plain port.
func TestRun(t *testing.T) {
	ca, caKey := makeCert(t, "ca", nil, nil)
	admin, adminKey := makeCert(t, "admin", ca, caKey)
	serving := tls.Certificate{Certificate: [][]byte{ca.Raw}, PrivateKey: caKey}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	s := newServer(t, &engine{log: t.TempDir()}, AuthConfig{AllowAll: true, ClientCAs: func() *x509.CertPool { return pool }})
	s.cfg.Address, s.cfg.HealthAddress = freePort(t), freePort(t)
	s.cfg.Certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &serving, nil }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	client := func(certs ...tls.Certificate) *http.Client {
		return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: certs}}}
	}
	for _, tt := range []struct {
		client *http.Client
		url    string
		want   int
	}{
		{client(), "http://" + s.cfg.HealthAddress + "/healthz", 200},
		{client(), "http://" + s.cfg.HealthAddress + "/pods", 404},
		{client(), "https://" + s.cfg.Address + "/healthz", 401},
		{client(tls.Certificate{Certificate: [][]byte{admin.Raw}, PrivateKey: adminKey}), "https://" + s.cfg.Address + "/pods", 200},
	} {
		var res *http.Response
		var err error
		for range 100 {
			if res, err = tt.client.Get(tt.url); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond) // it may not listen yet
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := res.Body.Close(); err != nil || res.StatusCode != tt.want {
			t.Errorf("%s: want %d, got %d, %v", tt.url, tt.want, res.StatusCode, err)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("want Run to end with its context, got %v", err)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestMemoryForgets(t *testing.T) {
	m := newMemory[int, int](2)
	now := time.Now()
	m.keep(1, 1, now.Add(-time.Second))
	m.keep(2, 2, now.Add(time.Minute))
	m.keep(3, 3, now.Add(time.Minute))
	if _, ok := m.recall(1, now); ok {
		t.Error("what is over was recalled")
	}
	for _, k := range []int{2, 3} {
		if v, ok := m.recall(k, now); !ok || v != k {
			t.Errorf("%d was forgotten for one that was over", k)
		}
	}
	if m.keep(4, 4, now.Add(time.Minute)); len(m.kept) > 2 {
		t.Errorf("want at most two, got %d", len(m.kept))
	}
}

func makeCert(t *testing.T, name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if parent == nil {
		parent, parentKey = tmpl, key
		tmpl.IsCA, tmpl.BasicConstraintsValid = true, true
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}
