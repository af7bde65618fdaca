package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// through serves a REST whose target is the given server, as the API server would below prefix.
func through(t *testing.T, prefix string, behind *httptest.Server) *httptest.Server {
	t.Helper()
	r := &REST{
		options: func() runtime.Object { return &corev1.PodProxyOptions{} },
		path:    func(o runtime.Object) string { return o.(*corev1.PodProxyOptions).Path },
		find: func(context.Context, string) (target, error) {
			u, err := url.Parse(behind.URL)
			return target{u, transport()}, err
		},
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		options := &corev1.PodProxyOptions{Path: strings.TrimPrefix(req.URL.Path, prefix)}
		h, err := r.Connect(req.Context(), "x", options, responder{t})
		if err != nil {
			t.Error(err)
			return
		}
		h.ServeHTTP(w, req)
	}))
	t.Cleanup(front.Close)
	return front
}

type responder struct{ t *testing.T }

func (r responder) Object(int, runtime.Object) { r.t.Error("an object for an answer") }
func (r responder) Error(err error)            { r.t.Error(err) }

func TestRequestsPassThrough(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.RawQuery, body)
	})
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/echo?again", http.StatusFound) })
	mux.HandleFunc("/page/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, `<a href="/echo">x</a>`)
	})
	for name, behind := range map[string]*httptest.Server{"http": httptest.NewServer(mux), "https": httptest.NewTLSServer(mux)} {
		t.Run(name, func(t *testing.T) {
			defer behind.Close()
			const prefix = "/api/v1/namespaces/n/pods/x/proxy"
			front := through(t, prefix, behind)
			client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
				req, err := http.NewRequest(method, front.URL+prefix+"/echo?a=b", strings.NewReader("body"))
				if err != nil {
					t.Fatal(err)
				}
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				got, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if want := method + " a=b body"; string(got) != want {
					t.Errorf("%s: %q, want %q", method, got, want)
				}
			}
			resp, err := client.Get(front.URL + prefix + "/moved")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if l := resp.Header.Get("Location"); resp.StatusCode != http.StatusFound || !strings.HasSuffix(l, prefix+"/echo?again") {
				t.Errorf("redirect: %d to %q, want it to stay behind the proxy", resp.StatusCode, l)
			}
			if resp, err = client.Get(front.URL + prefix + "/page/"); err != nil {
				t.Fatal(err)
			}
			page, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if !strings.Contains(string(page), prefix+"/echo") {
				t.Errorf("page %q, want its links to stay behind the proxy", page)
			}
		})
	}
}

func TestUpgradesPassThrough(t *testing.T) {
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		_ = rw.Flush()
		line, _ := rw.ReadString('\n')
		fmt.Fprintf(rw, "you said %s", line)
		_ = rw.Flush()
	}))
	defer behind.Close()
	front := through(t, "/p", behind)
	conn, err := net.DialTimeout("tcp", front.Listener.Addr().String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(conn, "GET /p/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: something\r\n\r\n")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v", resp, err)
	}
	fmt.Fprint(conn, "hello\n")
	if line, err := r.ReadString('\n'); err != nil || line != "you said hello\n" {
		t.Errorf("after the upgrade: %q, %v", line, err)
	}
}

func TestServicePort(t *testing.T) {
	svc := &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "metrics", Port: 9090}}}}
	for wanted, want := range map[string]string{"http": "http", "9090": "metrics", "": "!", "81": "!", "x": "!"} {
		got, err := servicePort(svc, wanted)
		if err != nil {
			got = "!"
		}
		if got != want {
			t.Errorf("port %q: %q, want %q", wanted, got, want)
		}
	}
	svc.Spec.Ports = svc.Spec.Ports[:1]
	if got, err := servicePort(svc, ""); err != nil || got != "http" {
		t.Errorf("the only port: %q, %v", got, err)
	}
}

func TestOnlyReadyEndpoints(t *testing.T) {
	yes, no, name, port := true, false, "http", int32(8080)
	other, otherPort := "metrics", int32(1)
	slices := []discoveryv1.EndpointSlice{{
		Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}, {Name: &other, Port: &otherPort}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.0.0.1"}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}},
			{Addresses: []string{"10.0.0.2"}, Conditions: discoveryv1.EndpointConditions{Ready: &no}},
			{Addresses: []string{"fd00::3"}},
		},
	}}
	var got []string
	for _, e := range endpoints(slices, "http") {
		got = append(got, e.String())
	}
	if text := strings.Join(got, " "); text != "10.0.0.1:8080 [fd00::3]:8080" {
		t.Errorf("endpoints %s", text)
	}
}

func TestAddressesThatAreNotForPods(t *testing.T) {
	for ip, allowed := range map[string]bool{"10.0.0.1": true, "fd00::1": true, "127.0.0.1": false, "::1": false, "169.254.169.254": false, "fe80::1": false, "0.0.0.0": false, "": false} {
		got, err := to("https", ip, "443", transport())
		if (err == nil) != allowed {
			t.Errorf("%q: %v", ip, err)
		}
		if err == nil && got.location.String() != "https://"+net.JoinHostPort(ip, "443") {
			t.Errorf("%q: %s", ip, got.location)
		}
	}
}
