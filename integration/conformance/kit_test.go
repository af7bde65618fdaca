package conformance

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// must is a value that has to be there: must(f())(t).
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused fails the test unless err is there and speaks of word.
func refused(t *testing.T, err error, word string) {
	t.Helper()
	if err == nil {
		t.Fatalf("it was accepted; wanted an error about %q", word)
	}
	if !strings.Contains(err.Error(), word) {
		t.Fatalf("the error does not speak of %q: %v", word, err)
	}
}

func createPod(t *testing.T, c *clustertest.Cluster, ns string, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	return must(c.Client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}))(t)
}

// logs is what the pod's container (its only one, or the one named) printed.
func logs(t *testing.T, c *clustertest.Cluster, ns, pod string, container ...string) string {
	t.Helper()
	opts := &corev1.PodLogOptions{Container: strings.Join(container, "")}
	return string(must(c.Client.CoreV1().Pods(ns).GetLogs(pod, opts).DoRaw(context.WithoutCancel(t.Context())))(t))
}

func configMap(t *testing.T, c *clustertest.Cluster, ns, name string, data map[string]string) {
	t.Helper()
	_, err := c.Client.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data,
	}, metav1.CreateOptions{})
	ok(t, err)
}

func secret(t *testing.T, c *clustertest.Cluster, ns, name string, data map[string]string) {
	t.Helper()
	_, err := c.Client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: data,
	}, metav1.CreateOptions{})
	ok(t, err)
}

// first changes a pod's first container.
func first(change func(*corev1.Container)) func(*corev1.Pod) {
	return func(p *corev1.Pod) { change(&p.Spec.Containers[0]) }
}

// sh is a pod whose first container runs a script.
func sh(script string, more ...func(*corev1.Pod)) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Command, p.Spec.Containers[0].Args = []string{"sh", "-c", script}, nil
		for _, m := range more {
			m(p)
		}
	}
}

func ptr[T any](v T) *T { return &v }

// record keeps what a watch tells from now on; the function that it returns ends the watch, after what it was told is enough or 10 s, and
// says what that was.
func record(t *testing.T, w watch.Interface) func(enough ...func([]watch.Event) bool) []watch.Event {
	t.Helper()
	var mu sync.Mutex
	var events []watch.Event
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range w.ResultChan() {
			if e.Type != watch.Error { // what it says when it is stopped
				mu.Lock()
				events = append(events, e)
				mu.Unlock()
			}
		}
	}()
	t.Cleanup(w.Stop)
	seen := func(enough func([]watch.Event) bool) bool {
		mu.Lock()
		defer mu.Unlock()
		return enough(events)
	}
	return func(enough ...func([]watch.Event) bool) []watch.Event {
		for _, e := range enough {
			for end := time.Now().Add(10 * time.Second); !seen(e) && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			}
		}
		w.Stop()
		<-done
		return events
	}
}
