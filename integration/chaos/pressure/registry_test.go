package pressure

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	user     = "user"
	password = "secret word"
)

// images is a registry in this process that listens on the node's own loopback, where no runtime wants TLS. What lies
// below private/ is for the user alone.
type images struct {
	address string
	store   http.Handler
	mu      sync.Mutex
	// manifests counts how often each was asked for; gate holds back whoever asks for a layer, until it is closed.
	manifests map[string]int
	down      bool
	layers    int // being asked for now
	most      int // of these at once
	gate      chan struct{}
}

func serveImages(t *testing.T) *images {
	t.Helper()
	r := &images{store: registry.New(registry.Logger(log.New(io.Discard, "", 0))), manifests: map[string]int{}, gate: make(chan struct{})}
	close(r.gate)
	l := listenOn(t, cluster.Nodes[0])
	r.address = l.Addr().String()
	server := &http.Server{Handler: r.handler()}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return r
}

func (r *images) handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		u, p, _ := req.BasicAuth()
		private := strings.HasPrefix(req.URL.Path, "/v2/private/")
		r.mu.Lock()
		down, gate := r.down, r.gate
		if strings.Contains(req.URL.Path, "/manifests/") {
			r.manifests[req.URL.Path]++
		}
		r.mu.Unlock()
		switch {
		case down:
			http.Error(w, "out of order", http.StatusServiceUnavailable)
			return
		case private && (u != user || p != password):
			w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			return
		case req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/"):
			r.count(1)
			defer r.count(-1)
			<-gate
		}
		r.store.ServeHTTP(w, req)
	})
}

func (r *images) count(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.layers += n
	r.most = max(r.most, r.layers)
}

// asked is how often manifests below a path were asked for.
func (r *images) asked(path string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p, times := range r.manifests {
		if strings.Contains(p, path) {
			n += times
		}
	}
	return n
}

// push stores the test image under a name of its own, with another digest than all others.
func (r *images) push(t *testing.T, path string) string {
	t.Helper()
	img, err := testImage(path)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(r.address+"/"+path, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, remote.WithAuth(&authn.Basic{Username: user, Password: password}), remote.WithTransport(direct{r.store})); err != nil {
		t.Fatal(err)
	}
	return r.address + "/" + path
}

// direct asks a handler without any network.
type direct struct{ http.Handler }

func (d direct) RoundTrip(req *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	served := req.Clone(req.Context())
	if served.Body == nil { // a server always has one
		served.Body = http.NoBody
	}
	d.ServeHTTP(rec, served)
	res := rec.Result()
	res.Request = req
	return res, nil
}

// testImage is the test program, with a layer more that makes it another image than all others.
func testImage(what string) (v1.Image, error) {
	program, err := os.ReadFile(filepath.Join(cluster.Bin, "testimage"))
	if err != nil {
		return nil, err
	}
	img, err := mutate.Config(empty.Image, v1.Config{Entrypoint: []string{"/testimage"}})
	if err != nil {
		return nil, err
	}
	for name, content := range map[string][]byte{"testimage": program, "is": []byte(what)} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		head := &tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}
		if err := errors.Join(w.WriteHeader(head), second(w.Write(content)), w.Close()); err != nil {
			return nil, err
		}
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
		if err != nil {
			return nil, err
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			return nil, err
		}
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg.OS, cfg.Architecture = "linux", runtime.GOARCH
	return mutate.ConfigFile(img, cfg)
}

func second[T any](_ T, err error) error { return err }

// secret is an image pull secret for the registry.
func (r *images) secret(t *testing.T, ns, name, word string) {
	t.Helper()
	text, err := json.Marshal(map[string]any{"auths": map[string]any{r.address: map[string]string{"username": user, "password": word}}})
	if err != nil {
		t.Fatal(err)
	}
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: text}}
	if _, err := cluster.Client.CoreV1().Secrets(ns).Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// inside runs f on a thread that is in a host's network namespace. The thread ends with it.
func inside(t *testing.T, host string, f func() error) {
	t.Helper()
	want := strings.TrimSpace(sh(t, "readlink /proc/self/ns/net"))
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		done <- func() error {
			ns, err := namespaceCalled(want)
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter network of %s: %w", host, err)
			}
			return f()
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// namespaceCalled finds a network namespace by what /proc calls it.
func namespaceCalled(link string) (*os.File, error) {
	all, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	for _, path := range all {
		if have, err := os.Readlink(path); err == nil && have == link {
			return os.Open(path)
		}
	}
	return nil, fmt.Errorf("no process is in namespace %s", link)
}

func listenOn(t *testing.T, host string) (l net.Listener) {
	t.Helper()
	inside(t, host, func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	return l
}
