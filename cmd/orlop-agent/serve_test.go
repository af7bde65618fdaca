package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/proxy"
)

// stuck is a backend that takes nothing while it is full.
type stuck struct{ full atomic.Bool }

func (s *stuck) Apply(proxy.Change) error {
	if s.full.Load() {
		return errors.New("no room")
	}
	return nil
}

func (s *stuck) Sweep(time.Time) (more bool, _ error) { return false, nil }

// Balancers are told to send nobody to a node that is about to go, or where services have been late for a minute; whoever restarts what does not live is told
// of the second alone.
func TestHealthIsAsKubeProxys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		a, b, m := &agent{proxying: make(chan struct{})}, &stuck{}, newKubeMetrics(proxy.ModeEBPF)
		p, err := proxy.New(proxy.Config{Synced: func(context.Context) error { return nil }, Ready: func() { close(a.proxying) }, Log: slog.New(slog.DiscardHandler)}, b)
		if err != nil {
			t.Fatal(err)
		}
		a.proxy = p
		expect := func(when string, healthz, livez int, eligible bool) {
			t.Helper()
			for path, want := range map[string]int{"/healthz": healthz, "/livez": livez} {
				w := httptest.NewRecorder()
				a.healthHandler(m).ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
				var body map[string]any
				text, _ := io.ReadAll(w.Result().Body)
				if err := json.Unmarshal(text, &body); err != nil || w.Code != want || body["lastUpdated"] == nil || body["currentTime"] == nil {
					t.Errorf("%s: %s: %d %s, want %d", when, path, w.Code, text, want)
				}
				if got, is := body["nodeEligible"]; is != (path == "/healthz") || is && got != eligible {
					t.Errorf("%s: %s: %s, want the node eligible: %v", when, path, text, eligible)
				}
			}
		}
		expect("before the start", 503, 503, true)
		go func() { _ = p.Run(ctx) }()
		synctest.Wait()
		expect("in force", 200, 200, true)
		here, leaving, going := node("a", "", "192.0.2.1"), node("a", "", "192.0.2.1"), node("a", "", "192.0.2.1")
		leaving.Spec.Taints = []corev1.Taint{{Key: "ToBeDeletedByClusterAutoscaler", Effect: corev1.TaintEffectNoSchedule}}
		going.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		for n, eligible := range map[*corev1.Node]bool{leaving: false, going: false} {
			c := clusterOf([]*corev1.Node{n}, "a")
			a.cluster.Store(&c)
			expect("the node is leaving", 503, 200, eligible)
		}
		c := clusterOf([]*corev1.Node{here, node("b", "", "192.0.2.2")}, "a")
		a.cluster.Store(&c)
		expect("it stays", 200, 200, true)
		b.full.Store(true)
		p.SetService("ns/web", proxy.Service{Key: "ns/web"}.Pack())
		time.Sleep(50 * time.Second)
		synctest.Wait()
		expect("late", 200, 200, true)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		expect("too late", 503, 503, true)
		b.full.Store(false)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		expect("in force again", 200, 200, true)
		cancel()
		synctest.Wait()
	})
}
