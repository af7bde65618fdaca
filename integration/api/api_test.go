// Package api tests the built API server from outside, without a cluster: every
// kind that it serves is filled at random and taken through every encoding and
// every way of writing, no body however broken may upset it, custom resources
// and aggregated APIs do what they promise.
//
// It needs no root. Random tests print their seed; -seed repeats one, -rounds
// asks for more: more random objects of every kind, and from 2 on all the broken
// bodies for each resource instead of some.
package api

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/orlop-io/orlop/integration/bareserver"
)

var (
	seedFlag   = flag.Int64("seed", 0, "seed of the random tests; 0 takes one from the clock")
	roundsFlag = flag.Int("rounds", 1, "how often random tests go over every kind")
	onlyFlag   = flag.String("kind", "", "random tests take this resource alone, as in apps/v1/deployments")
)

var (
	server *bareserver.Server
	client *http.Client
	bin    string
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	bin = os.Getenv("ORLOP_BIN") // another build than the checkout's
	if bin == "" {
		bin = "../../bin"
	}
	program, err := filepath.Abs(filepath.Join(bin, "orlop-server"))
	if err == nil {
		bin = filepath.Dir(program)
		_, err = os.Stat(program)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%v: build first (make build)\n", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "orlop-api-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	server, err = bareserver.Start(context.Background(), bareserver.Config{Program: program, Dir: dir})
	if err == nil {
		client, err = rest.HTTPClientFor(server.Config)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := errorsAfter(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// errorsAfter stops the server and reads in its log what no answer tells.
func errorsAfter() error {
	if err := server.Stop(); err != nil {
		return err
	}
	log, err := server.Log("kube-apiserver")
	if err != nil {
		return err
	}
	for _, word := range []string{"Observed a panic", "panic serving", "goroutine ", "DATA RACE"} {
		if at := strings.Index(log, word); at >= 0 {
			return fmt.Errorf("the server's log speaks of %q:\n%s", word, log[max(0, at-1000):min(len(log), at+5000)])
		}
	}
	return nil
}

// answer is what the server replied.
type answer struct {
	code        int
	contentType string
	body        []byte
}

func (a answer) String() string { return fmt.Sprintf("%d %.2000s", a.code, a.body) }

// request sends a body of a content type and wants an answer of another.
func request(ctx context.Context, method, path, contentType, accept string, body []byte) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, server.Config.Host+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Accept", accept)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header.Get("Content-Type"), got}, err
}

const (
	asJSON     = "application/json"
	asYAML     = "application/yaml"
	asProtobuf = "application/vnd.kubernetes.protobuf"
)

// send is request in JSON, and fails the test if there is no answer at all.
func send(t *testing.T, method, path string, body []byte) answer {
	t.Helper()
	contentType := ""
	if body != nil {
		contentType = asJSON
	}
	a, err := request(t.Context(), method, path, contentType, asJSON, body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// namespace makes a namespace with the service account that pods need: there are no controllers.
func namespace(t *testing.T, name string) string {
	t.Helper()
	_, err := server.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err == nil {
		_, err = server.Client.CoreV1().ServiceAccounts(name).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	return name
}

// eventually tries until there is no error.
func eventually(t *testing.T, within time.Duration, what string, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(5 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s: %v", within, what, err)
		}
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
