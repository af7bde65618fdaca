package system

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/cmd/localcluster/layout"
	"github.com/orlop-io/orlop/integration/clustertest"
)

// outside runs f on a machine beside the nodes that is none of them: sockets that f opens are on their link, and in no node's cgroup.
func outside(c *clustertest.Cluster, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine, in that namespace
		ns, err := netns.GetFromPath(layout.FabricHandle(c.Name))
		if err == nil {
			defer ns.Close()
			err = netns.Set(ns)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// askFromOutside asks so many times, by a connection each, and returns the lines.
func askFromOutside(c *clustertest.Cluster, url string, times int) (string, error) {
	var all strings.Builder
	err := outside(c, func() error {
		for range times {
			// By hand: a transport dials on a goroutine, and so on a thread, of its own.
			host, path, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/")
			conn, err := net.DialTimeout("tcp", host, 5*time.Second)
			if err != nil {
				return err
			}
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			_, err = fmt.Fprintf(conn, "GET /%s HTTP/1.0\r\nHost: %s\r\n\r\n", path, host)
			b, readErr := io.ReadAll(conn)
			conn.Close()
			if err != nil || readErr != nil {
				return fmt.Errorf("ask %s: %w, %w", url, err, readErr)
			}
			_, body, _ := strings.Cut(string(b), "\r\n\r\n")
			all.WriteString(strings.TrimSpace(body) + "\n")
		}
		return nil
	})
	return all.String(), err
}

// nodePortFromOutside is a NodePort asked by a machine that is no node: every node leads to every replica, and under externalTrafficPolicy Local to
// its own, which see who asks.
func nodePortFromOutside(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	names, _ := serve(t, c, ns, func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort })
	services := c.Client.CoreV1().Services(ns)
	s, err := services.Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	at := func(node, path string) string {
		return fmt.Sprintf("http://%s:%d/%s", nodeAddress(t, c, node), s.Spec.Ports[0].NodePort, path)
	}
	for _, node := range c.Nodes {
		answersFromAll(t, "NodePort of "+node, names, func() (string, error) { return askFromOutside(c, at(node, "hostname"), 10) })
	}
	if _, err := services.Patch(t.Context(), "web", types.MergePatchType, []byte(`{"spec":{"externalTrafficPolicy":"Local"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, node := range c.Nodes {
		here := map[string]bool{}
		for _, p := range podsOf(t, c, ns, "web") {
			if p.Spec.NodeName == node {
				here[p.Name] = true
			}
		}
		if len(here) == 0 {
			continue
		}
		c.Eventually(t, 10*time.Second, "the client's own address at "+node, func(ctx context.Context) error {
			seen, err := askFromOutside(c, at(node, "clientip"), 1)
			if err == nil && !strings.HasPrefix(seen, layout.Gateway().String()+":") {
				err = fmt.Errorf("a replica sees %s", seen)
			}
			return err
		})
		out, err := askFromOutside(c, at(node, "hostname"), 20)
		if err != nil {
			t.Error(err)
		}
		for name := range strings.Lines(out) {
			if !here[strings.TrimSpace(name)] {
				t.Errorf("%s leads to %s, which runs elsewhere", node, name)
			}
		}
	}
}

// towardsOutside is a pod that asks a machine beside the nodes, which knows no way to pods: it sees the pod's node.
func towardsOutside(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	var l net.Listener
	err := outside(c, func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(layout.Gateway().String(), "0"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		_, _ = io.WriteString(w, host)
	})}
	t.Cleanup(func() { server.Close() })
	go func() { _ = server.Serve(l) }()
	for i, node := range c.Nodes {
		pod := c.RunPod(t, ns, c.Pod(fmt.Sprint("p", i), []string{"pause"}, clustertest.On(node)))
		out, err := c.InPod(ns, pod.Name, "wget", "-q", "-T", "5", "-O", "-", "http://"+l.Addr().String()+"/")
		if want := nodeAddress(t, c, node); err != nil || strings.TrimSpace(out) != want {
			state, _ := c.Exec(node, "sh", "-c", "ip neigh; ip route; nft list table ip orlop; grep "+l.Addr().(*net.TCPAddr).IP.String()+" /proc/net/nf_conntrack; ip -s link")
			t.Errorf("the machine outside sees a pod of %s as %q (%v), want %s; the node has\n%s", node, out, err, want, state)
		}
	}
}
