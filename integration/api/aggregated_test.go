package api

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/orlop-io/orlop/integration/bareserver"
)

const apiServices = "/apis/apiregistration.k8s.io/v1/apiservices"

// aggregate registers an API behind a Service of type ExternalName: there are no cluster IPs to reach here.
func aggregate(t *testing.T, group, version string, port int) {
	t.Helper()
	ns := namespace(t, "aggregated")
	service := fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {name: %s}, spec: {type: ExternalName, externalName: localhost, ports: [{port: %d}]}}", strings.Split(group, ".")[0], port)
	if a := send(t, "POST", "/api/v1/namespaces/"+ns+"/services", toJSON(t, service)); a.code != 201 {
		t.Fatalf("%s", a)
	}
	name := version + "." + group
	registration := fmt.Sprintf("{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: %s}, spec: {group: %s, version: %s, groupPriorityMinimum: 2000, versionPriority: 20, insecureSkipTLSVerify: true, service: {name: %s, namespace: %s, port: %d}}}",
		name, group, version, strings.Split(group, ".")[0], ns, port)
	if a := send(t, "POST", apiServices, toJSON(t, registration)); a.code != 201 {
		t.Fatalf("%s", a)
	}
	t.Cleanup(func() {
		_, _ = request(context.Background(), "DELETE", apiServices+"/"+name, "", asJSON, nil)
		_, _ = request(context.Background(), "DELETE", "/api/v1/namespaces/"+ns+"/services/"+strings.Split(group, ".")[0], "", asJSON, nil)
	})
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// A real server of somebody else's, k8s.io/sample-apiserver, behind ours.
func TestAggregatedServer(t *testing.T) {
	port := freePort(t)
	sample := exec.Command(filepath.Join(bin, "sample-apiserver"), "--kubeconfig="+server.Kubeconfig, "--authentication-kubeconfig="+server.Kubeconfig, "--authorization-kubeconfig="+server.Kubeconfig,
		"--etcd-servers="+server.Etcd(), fmt.Sprintf("--secure-port=%d", port), "--bind-address=127.0.0.1", "--cert-dir="+t.TempDir())
	sample.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out := &strings.Builder{}
	sample.Stdout, sample.Stderr = out, out
	ok(t, sample.Start())
	defer func() {
		_ = sample.Process.Kill()
		_ = sample.Wait()
		if t.Failed() {
			t.Logf("%.5000s", out)
		}
	}()
	aggregate(t, "wardle.example.com", "v1alpha1", port)
	flunders := "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders"
	eventually(t, 40*time.Second, "flunders", func() error {
		if a := send(t, "GET", flunders, nil); a.code != 200 {
			return fmt.Errorf("%s", a)
		}
		return nil
	})
	for _, s := range []step{
		{"create", "POST", "", "", "{apiVersion: wardle.example.com/v1alpha1, kind: Flunder, metadata: {name: f}}", 201, `"name":"f"`, ""},
		{"patch", "PATCH", "/f", merge, "{metadata: {labels: {a: b}}}", 200, `"a":"b"`, ""},
		{"apply", "PATCH", "/f?fieldManager=m", "application/apply-patch+yaml", "{apiVersion: wardle.example.com/v1alpha1, kind: Flunder, metadata: {name: f, labels: {c: d}}}", 200, `"c":"d"`, ""},
		{"who asks is who asked us", "GET", "", "", "", 200, `"items":[{`, ""},
		{"delete", "DELETE", "/f", "", "", 200, "", ""},
	} {
		s.do(t, flunders)
	}
	for path, want := range map[string]string{"/openapi/v2": "wardle", "/openapi/v3": "apis/wardle.example.com/v1alpha1", "/apis": "wardle.example.com"} {
		eventually(t, 60*time.Second, "the group in "+path, func() error {
			if a := send(t, "GET", path, nil); !strings.Contains(string(a.body), want) {
				return fmt.Errorf("%d", a.code)
			}
			return nil
		})
	}
}

// A dead one is told dead, and holds up nothing else: neither discovery, nor a start, nor, but for its very end, the
// deletion of a namespace.
func TestDeadAggregatedServer(t *testing.T) {
	// It accepts connections and never answers: worse than one that refuses them.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	defer l.Close()
	s, err := bareserver.Start(t.Context(), bareserver.Config{Program: filepath.Join(bin, "orlop-server"), Dir: t.TempDir()})
	ok(t, err)
	defer func() { ok(t, s.Stop()) }()
	shared, sharedClient := server, client
	server = s
	client, err = rest.HTTPClientFor(s.Config)
	ok(t, err)
	defer func() { server, client = shared, sharedClient }()
	aggregate(t, "dead.example.com", "v1", l.Addr().(*net.TCPAddr).Port)
	eventually(t, 30*time.Second, "its APIService to say so", func() error {
		if a := send(t, "GET", apiServices+"/v1.dead.example.com", nil); !strings.Contains(string(a.body), "FailedDiscoveryCheck") {
			return fmt.Errorf("%s", a)
		}
		return nil
	})
	t.Run("holds up nothing", holdsUpNothing)
	t.Run("a namespace beside it", namespaceBesideDead)
}

func holdsUpNothing(t *testing.T) {
	// Milliseconds on a quiet machine; a dead server's timeout would be 5 seconds and more.
	quick := func(what string, within time.Duration, do func()) {
		t.Helper()
		began := time.Now()
		do()
		if took := time.Since(began); took > within {
			t.Errorf("%s took %s", what, took)
		}
	}
	everything := func() {
		for _, path := range []string{"/apis", "/openapi/v3", "/openapi/v2", "/readyz", "/api/v1/namespaces"} {
			quick(path, 4*time.Second, func() {
				if a := send(t, "GET", path, nil); a.code != 200 {
					t.Errorf("%s: %s", path, a)
				}
			})
		}
		if a := send(t, "GET", "/apis/dead.example.com/v1", nil); a.code != 503 {
			t.Errorf("the dead one itself: %s", a)
		}
	}
	everything()
	quick("a restart", 30*time.Second, func() {
		ok(t, server.StopAPI())
		ok(t, server.StartAPI(t.Context()))
	})
	everything()
}

// namespaceBesideDead wants a namespace emptied of all that can be reached; it waits for the dead one alone, says so, and
// ends with it.
func namespaceBesideDead(t *testing.T) {
	ok(t, server.Run("kube-controller-manager", "--secure-port=0"))
	ns := "/api/v1/namespaces/" + namespace(t, "emptied")
	step{"", "POST", "", "", "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}", 201, "", ""}.do(t, ns+"/configmaps")
	step{"", "DELETE", "", "", "", 200, "", ""}.do(t, ns)
	eventually(t, 40*time.Second, "its contents to go", func() error {
		if a := send(t, "GET", ns+"/configmaps/c", nil); a.code != 404 {
			return fmt.Errorf("%s", a)
		}
		return nil
	})
	eventually(t, 40*time.Second, "it to say what it waits for", func() error {
		if a := send(t, "GET", ns, nil); a.code != 404 && !strings.Contains(string(a.body), `"reason":"DiscoveryFailed"`) {
			return fmt.Errorf("%s", a)
		}
		return nil
	})
	step{"", "DELETE", "", "", "", 200, "", ""}.do(t, apiServices+"/v1.dead.example.com")
	eventually(t, 60*time.Second, "its end", func() error {
		if a := send(t, "GET", ns, nil); a.code != 404 {
			return fmt.Errorf("%s", a)
		}
		return nil
	})
}
