package apiserver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
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

func TestExecOverBothProtocols(t *testing.T) {
	ns := namespace(t, "exec")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	kubelet := httptest.NewTLSServer(http.HandlerFunc(echo))
	defer kubelet.CloseClientConnections()
	addr := kubelet.Listener.Addr().(*net.TCPAddr)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "exec"}, Status: corev1.NodeStatus{
		Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: addr.IP.String()}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(addr.Port)}},
	}}
	if _, err := shared.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p := pod("p", nil)
	p.Spec.NodeName = "exec"
	if _, err := shared.client.CoreV1().Pods(ns).Create(ctx, p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	url := shared.client.CoreV1().RESTClient().Post().Namespace(ns).Resource("pods").Name("p").SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Stdin: true, Stdout: true, Command: []string{"cat"}}, scheme.ParameterCodec).URL()
	for name, make := range map[string]func() (remotecommand.Executor, error){
		"SPDY": func() (remotecommand.Executor, error) {
			return remotecommand.NewSPDYExecutor(shared.admin, "POST", url)
		},
		"websocket": func() (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutor(shared.admin, "GET", url.String())
		},
	} {
		t.Run(name, func(t *testing.T) {
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
