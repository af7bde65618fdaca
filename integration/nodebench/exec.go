package nodebench

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	streamspdy "k8s.io/streaming/pkg/httpstream/spdy"
)

const wantExec = 10 * time.Millisecond

// execs runs one command many times, in turns through the API server and by the runtime's own stream.
func (b *bench) execs(ctx context.Context) error {
	p := b.pod("exec", b.agnhost, func(p *corev1.Pod) { p.Spec.Containers[0].Args = []string{"pause"} })
	if _, err := b.create(ctx, p); err != nil {
		return err
	}
	if _, err := b.pods.when(ctx, p.Name, "ready"); err != nil {
		return err
	}
	var id string
	if _, err := b.pods.shows(ctx, p.Name, func(p *corev1.Pod) bool {
		id = strings.TrimPrefix(p.Status.ContainerStatuses[0].ContainerID, "containerd://")
		return id != ""
	}); err != nil {
		return err
	}
	h, err := b.status(ctx, b.host)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(fmt.Sprintf("unix:///proc/%d/root/run/containerd/containerd.sock", h.Containerd.Pid), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	direct := func() error { return execCRI(ctx, runtimeapi.NewRuntimeServiceClient(conn), h.Pid, id) }
	api := func() error { return b.execAPI(ctx, b.config, p) }
	spare, err := newSpare(b.config)
	if err != nil {
		return err
	}
	defer spare.close()
	warm := func() error { return b.execAPI(ctx, spare.config(), p) }
	var by, through, kept []time.Duration
	for i := range 2*rounds + 1 {
		for _, way := range []struct {
			run  func() error
			took *[]time.Duration
		}{{direct, &by}, {api, &through}, {warm, &kept}} {
			if err := spare.ready(ctx); err != nil {
				return err
			}
			begun := time.Now()
			if err := way.run(); err != nil {
				return err
			}
			if i > 0 { // the first has rights to look up
				*way.took = append(*way.took, time.Since(begun))
			}
		}
	}
	b.heading("%d times in turns, ms", 2*rounds)
	b.row("exec of a command by the runtime's stream", by, "")
	for _, way := range []struct {
		name string
		took []time.Duration
	}{{"the same through the API server, with a connection of its own", through}, {"the same on a connection that was there", kept}} {
		b.row(way.name, way.took, "<= the runtime's + "+ms(wantExec))
		if more := percentile(way.took, 0.5) - percentile(by, 0.5); more > wantExec {
			b.miss("%s: an exec takes %v more than by the runtime's stream: wanted %v", way.name, more, wantExec)
		}
	}
	_, err = b.delete(ctx, p.Name)
	return err
}

func (b *bench) execAPI(ctx context.Context, at *rest.Config, p *corev1.Pod) error {
	server, err := url.Parse(at.Host)
	if err != nil {
		return err
	}
	u := b.client.CoreV1().RESTClient().Get().Resource("pods").Namespace(p.Namespace).Name(p.Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: "c", Command: []string{"true"}, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
	u.Scheme, u.Host = server.Scheme, server.Host
	e, err := remotecommand.NewWebSocketExecutor(at, http.MethodGet, u.String())
	if err != nil {
		return err
	}
	return e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: io.Discard, Stderr: io.Discard})
}

// execCRI runs the command as the kubelet would, at the runtime of a host whose first process is pid.
func execCRI(ctx context.Context, rt runtimeapi.RuntimeServiceClient, pid int, id string) error {
	r, err := rt.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"true"}, Stdout: true, Stderr: true})
	if err != nil {
		return err
	}
	u, err := url.Parse(r.Url)
	if err != nil {
		return err
	}
	trip, err := streamspdy.NewRoundTripperWithConfig(streamspdy.RoundTripperConfig{UpgradeTransport: &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return dialIn(ctx, pid, network, addr)
		},
	}})
	if err != nil {
		return err
	}
	e, err := remotecommand.NewSPDYExecutorForTransports(trip, spdy.NewUpgraderForStreaming(trip), http.MethodPost, u)
	if err != nil {
		return err
	}
	return e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: io.Discard, Stderr: io.Discard})
}

// dialIn connects from within the network namespace of a process.
func dialIn(ctx context.Context, pid int, network, addr string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this function
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err != nil {
			done <- result{err: err}
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{err: fmt.Errorf("enter network of process %d: %w", pid, err)}
			return
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}
