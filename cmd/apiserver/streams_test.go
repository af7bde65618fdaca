package apiserver

import (
	"bytes"
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
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	clientspdy "k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// echo is a kubelet that answers exec with what it reads, over SPDY as kubelets do.
func echo(w http.ResponseWriter, r *http.Request) {
	streams := map[string]httpstream.Stream{}
	ready := make(chan struct{})
	want := 1 // the error stream is always there
	for _, name := range []string{"input", "output", "error"} {
		if r.URL.Query().Get(name) == "1" {
			want++
		}
	}
	if _, err := httpstream.Handshake(r, w, []string{"v4.channel.k8s.io"}); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	incoming := make(chan httpstream.Stream, 4)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
		incoming <- s
		return nil
	})
	if conn == nil {
		return
	}
	defer conn.Close()
	go func() {
		defer close(ready)
		for range want {
			s := <-incoming
			streams[s.Headers().Get(corev1.StreamType)] = s
		}
	}()
	select {
	case <-ready:
	case <-time.After(5 * time.Second):
		return
	}
	_, _ = io.Copy(streams[corev1.StreamTypeStdout], streams[corev1.StreamTypeStdin])
	fmt.Fprint(streams[corev1.StreamTypeError], `{"metadata":{},"status":"Success"}`)
	for _, s := range streams {
		_ = s.Close()
	}
	// The client closes the connection when it has read all.
	<-conn.CloseChan()
}

// onKubelet makes a node whose kubelet is the handler, and a pod p on it.
func onKubelet(t *testing.T, name string, h http.HandlerFunc) (ns string) {
	t.Helper()
	ns = namespace(t, name)
	kubelet := httptest.NewTLSServer(h)
	t.Cleanup(kubelet.CloseClientConnections)
	addr := kubelet.Listener.Addr().(*net.TCPAddr)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: addr.IP.String()}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(addr.Port)}},
	}}
	if _, err := shared.client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p := pod("p", nil)
	p.Spec.NodeName = name
	if _, err := shared.client.CoreV1().Pods(ns).Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return ns
}

func TestExecAndAttachOverBothProtocols(t *testing.T) {
	ns := onKubelet(t, "exec", echo)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	under := func(sub string) *rest.Request {
		return shared.client.CoreV1().RESTClient().Post().Namespace(ns).Resource("pods").Name("p").SubResource(sub)
	}
	exec := under("exec").VersionedParams(&corev1.PodExecOptions{Stdin: true, Stdout: true, Command: []string{"cat"}}, scheme.ParameterCodec).URL()
	attach := under("attach").VersionedParams(&corev1.PodAttachOptions{Stdin: true, Stdout: true}, scheme.ParameterCodec).URL()
	for sub, url := range map[string]*url.URL{"exec": exec, "attach": attach} {
		for name, make := range map[string]func() (remotecommand.Executor, error){
			"SPDY": func() (remotecommand.Executor, error) {
				return remotecommand.NewSPDYExecutor(shared.admin, "POST", url)
			},
			"websocket": func() (remotecommand.Executor, error) {
				return remotecommand.NewWebSocketExecutor(shared.admin, "GET", url.String())
			},
		} {
			t.Run(sub+" over "+name, func(t *testing.T) {
				e, err := make()
				if err != nil {
					t.Fatal(err)
				}
				var out bytes.Buffer
				err = e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: bytes.NewBufferString("hello"), Stdout: &out})
				if err != nil || out.String() != "hello" {
					t.Errorf("echo = %q, %v", out.String(), err)
				}
			})
		}
	}
	err := under("exec").VersionedParams(&corev1.PodExecOptions{Command: []string{"cat"}}, scheme.ParameterCodec).Do(ctx).Error()
	if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), "you must specify at least 1 of stdin, stdout, stderr") {
		t.Errorf("exec without streams: %v", err)
	}
}

// forward is a kubelet whose pods send back what they get, on every port.
func forward(w http.ResponseWriter, r *http.Request) {
	if _, err := httpstream.Handshake(r, w, []string{"portforward.k8s.io"}); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	incoming := make(chan httpstream.Stream, 8)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
		incoming <- s
		return nil
	})
	if conn == nil {
		return
	}
	defer conn.Close()
	for {
		select {
		case s := <-incoming:
			if s.Headers().Get(corev1.StreamType) == corev1.StreamTypeData {
				go func() {
					fmt.Fprintf(s, "port %s: ", s.Headers().Get(corev1.PortHeader))
					_, _ = io.Copy(s, s)
					_ = s.Close()
				}()
			} else {
				_ = s.Close() // no error
			}
		case <-conn.CloseChan():
			return
		}
	}
}

func TestPortForwardOverBothProtocols(t *testing.T) {
	ns := onKubelet(t, "forward", forward)
	to := shared.client.CoreV1().RESTClient().Post().Namespace(ns).Resource("pods").Name("p").SubResource("portforward").URL()
	for name, dial := range map[string]func() (httpstream.Dialer, error){
		"SPDY": func() (httpstream.Dialer, error) {
			transport, upgrader, err := clientspdy.RoundTripperFor(shared.admin)
			return clientspdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, "POST", to), err
		},
		"websocket": func() (httpstream.Dialer, error) {
			return portforward.NewSPDYOverWebsocketDialerForStreaming(to, shared.admin)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dialer, err := dial()
			if err != nil {
				t.Fatal(err)
			}
			stop, ready := make(chan struct{}), make(chan struct{})
			f, err := portforward.NewOnAddressesForStreaming(dialer, []string{"127.0.0.1"}, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- f.ForwardPorts() }()
			defer func() { close(stop); <-done }()
			select {
			case <-ready:
			case err := <-done:
				done <- err
				t.Fatalf("forward: %v", err)
			case <-time.After(15 * time.Second):
				t.Fatal("not ready after 15 s")
			}
			ports, err := f.GetPorts()
			if err != nil {
				t.Fatal(err)
			}
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			fmt.Fprint(conn, "hello")
			_ = conn.(*net.TCPConn).CloseWrite()
			if got, err := io.ReadAll(conn); err != nil || string(got) != "port 8080: hello" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestNodeProxy(t *testing.T) {
	onKubelet(t, "node-proxy", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", r.Method, r.URL.RequestURI())
	})
	node, err := shared.client.CoreV1().Nodes().Get(t.Context(), "node-proxy", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	port := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	for _, name := range []string{"node-proxy", fmt.Sprintf("node-proxy:%d", port), fmt.Sprintf("https:node-proxy:%d", port)} {
		got, err := shared.client.CoreV1().RESTClient().Get().Resource("nodes").Name(name).SubResource("proxy").Suffix("metrics/x").Param("a", "b").DoRaw(t.Context())
		if err != nil || string(got) != "GET /metrics/x?a=b" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	// Other ports are those of whoever listens there; never ones of the API server's own machine.
	_, err = shared.client.CoreV1().RESTClient().Get().Resource("nodes").Name("node-proxy:1").SubResource("proxy").DoRaw(t.Context())
	if !apierrors.IsBadRequest(err) {
		t.Errorf("another port of a loopback address: %v", err)
	}
}
