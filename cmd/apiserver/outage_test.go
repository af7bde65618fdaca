package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// etcdQuota is small enough for a test to fill.
const etcdQuota = 32 << 20

// link passes connections on from one socket to another, until it is cut.
type link struct {
	to string

	mu    sync.Mutex
	down  bool
	conns map[net.Conn]bool
}

func newLink(at, to string) (*link, error) {
	listener, err := net.Listen("unix", at)
	if err != nil {
		return nil, err
	}
	l := &link{to: to, conns: map[net.Conn]bool{}}
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go l.pass(c)
		}
	}()
	return l, nil
}

func (l *link) pass(from net.Conn) {
	defer from.Close()
	to, err := net.Dial("unix", l.to)
	if err != nil {
		return
	}
	defer to.Close()
	l.mu.Lock()
	if l.down {
		l.mu.Unlock()
		return
	}
	l.conns[from], l.conns[to] = true, true
	l.mu.Unlock()
	go func() { _, _ = io.Copy(to, from); to.Close(); from.Close() }()
	_, _ = io.Copy(from, to)
	l.mu.Lock()
	delete(l.conns, from)
	delete(l.conns, to)
	l.mu.Unlock()
}

// cut breaks all connections and refuses new ones until it is mended.
func (l *link) cut(down bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = down
	if down {
		for c := range l.conns {
			c.Close()
		}
	}
}

// health asks a health endpoint.
func health(t *testing.T, path string) (int, string) {
	t.Helper()
	var code int
	body, _ := shared.client.Discovery().RESTClient().Get().AbsPath(strings.Split(path, "?")[0]).Param("verbose", "").MaxRetries(0).Do(t.Context()).StatusCode(&code).Raw()
	return code, string(body)
}

func TestEtcdAway(t *testing.T) {
	ns := namespace(t, "away")
	ctx := t.Context()
	maps := shared.client.CoreV1().ConfigMaps(ns)
	if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "before"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	watching, err := maps.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer watching.Stop()
	if e := <-watching.ResultChan(); e.Type != watch.Added {
		t.Fatalf("first event: %v", e)
	}
	shared.link.cut(true)
	mended := false
	mend := func() {
		if !mended {
			shared.link.cut(false)
			mended = true
		}
	}
	defer mend()
	until(t, "the health of etcd to fail", func() bool {
		ready, text := health(t, "/readyz")
		live, _ := health(t, "/livez")
		return ready == http.StatusInternalServerError && live == http.StatusInternalServerError && strings.Contains(text, "[-]etcd failed")
	})
	if code, text := health(t, "/livez/ping"); code != http.StatusOK {
		t.Errorf("ping without etcd: %d %s", code, text)
	}
	// A write says within its time what is wrong, and that it may be tried again.
	start := time.Now()
	short, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	err = shared.client.CoreV1().RESTClient().Post().Namespace(ns).Resource("configmaps").Param("timeout", "2s").MaxRetries(0).
		Body(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "during"}}).Do(short).Error()
	if err == nil || time.Since(start) > 10*time.Second {
		t.Errorf("write without etcd: %v after %v", err, time.Since(start))
	}
	t.Logf("write without etcd: %v", err)
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Code < 500 {
		t.Errorf("write without etcd: %v, want an error of the server", err)
	}
	// What the server has seen, it still tells to who does not ask for more.
	if list, err := maps.List(ctx, metav1.ListOptions{ResourceVersion: "0"}); err != nil || len(list.Items) == 0 {
		t.Errorf("list from the cache without etcd: %v", err)
	}
	mend()
	until(t, "the server to recover", func() bool {
		_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "after"}}, metav1.CreateOptions{})
		return err == nil || apierrors.IsAlreadyExists(err)
	})
	until(t, "readiness to recover", func() bool { code, _ := health(t, "/readyz"); return code == http.StatusOK })
	// The watch goes on, or ends and can be begun again; it never stays silent.
	deadline := time.After(30 * time.Second)
	for seen := false; !seen; {
		select {
		case e, open := <-watching.ResultChan():
			if open {
				cm, _ := e.Object.(*corev1.ConfigMap)
				seen = cm != nil && cm.Name == "after"
				continue
			}
			if watching, err = maps.Watch(ctx, metav1.ListOptions{}); err != nil {
				t.Fatal(err)
			}
		case <-deadline:
			t.Fatal("the watch told nothing of what came after")
		}
	}
}

func TestEtcdFull(t *testing.T) {
	ns := namespace(t, "full")
	ctx := t.Context()
	maps := shared.client.CoreV1().ConfigMaps(ns)
	big := map[string]string{"x": strings.Repeat("x", 900<<10)}
	var err error
	for i := 0; err == nil && i < 2*etcdQuota>>20; i++ {
		_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c%d", i)}, Data: big}, metav1.CreateOptions{})
	}
	if err == nil || !strings.Contains(err.Error(), "etcdserver: mvcc: database space exceeded") {
		t.Fatalf("writing over the quota: %v", err)
	}
	t.Logf("writing over the quota: %v", err)
	// Reading and deleting go on: that is how one gets out of it.
	if _, err := maps.Get(ctx, "c0", metav1.GetOptions{}); err != nil {
		t.Errorf("read while full: %v", err)
	}
	if err := maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Errorf("delete while full: %v", err)
	}
	e := shared.etcd.Server
	if _, err := e.Compact(ctx, &etcdserverpb.CompactionRequest{Revision: e.KV().Rev(), Physical: true}); err != nil {
		t.Fatal(err)
	}
	if err := e.Backend().Defrag(); err != nil {
		t.Fatal(err)
	}
	alarm := &etcdserverpb.AlarmRequest{Action: etcdserverpb.AlarmRequest_DEACTIVATE, Alarm: etcdserverpb.AlarmType_NOSPACE, MemberID: uint64(e.MemberID())}
	if _, err := e.Alarm(ctx, alarm); err != nil {
		t.Fatal(err)
	}
	until(t, "writes after space was made", func() bool {
		_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "after"}}, metav1.CreateOptions{})
		return err == nil || apierrors.IsAlreadyExists(err)
	})
}
