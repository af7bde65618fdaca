package apiserver

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// filled makes a namespace with so many config maps, and returns the version of the list of them.
func filled(t *testing.T, name string, n int) (ns, version string) {
	t.Helper()
	ns = namespace(t, name)
	for i := range n {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c%02d", i)}}
		if _, err := shared.client.CoreV1().ConfigMaps(ns).Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := shared.client.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return ns, list.ResourceVersion
}

// compact makes etcd forget all versions but the present one.
func compact(t *testing.T) {
	t.Helper()
	e := shared.etcd.Server
	if _, err := e.Compact(t.Context(), &etcdserverpb.CompactionRequest{Revision: e.KV().Rev(), Physical: true}); err != nil {
		t.Fatal(err)
	}
}

// Events are not in the watch cache, so that a list of them shows what etcd has forgotten at once.
func TestChunks(t *testing.T) {
	ns := namespace(t, "chunks")
	ctx := t.Context()
	events := shared.client.CoreV1().Events(ns)
	add := func(name string) {
		t.Helper()
		e := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: name}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: "p"}}
		if _, err := events.Create(ctx, e, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 10 {
		add(fmt.Sprintf("c%02d", i))
	}
	first, err := events.List(ctx, metav1.ListOptions{Limit: 4})
	if err != nil || len(first.Items) != 4 || first.Continue == "" || first.RemainingItemCount == nil || *first.RemainingItemCount != 6 {
		t.Fatalf("first chunk: %v, %v", first, err)
	}
	add("c99") // after the list began: it belongs to no chunk of it
	second, err := events.List(ctx, metav1.ListOptions{Limit: 4, Continue: first.Continue})
	if err != nil || len(second.Items) != 4 || second.ResourceVersion != first.ResourceVersion {
		t.Fatalf("second chunk: %v, %v, want four more of the same version", second, err)
	}
	// The version is gone: the server says so, and how to go on with what there is now.
	compact(t)
	_, err = events.List(ctx, metav1.ListOptions{Limit: 4, Continue: second.Continue})
	status, ok := err.(apierrors.APIStatus)
	if !apierrors.IsResourceExpired(err) || !ok || status.Status().Code != 410 || status.Status().Continue == "" {
		t.Fatalf("chunk of a compacted version: %v, want 410 with a token", err)
	}
	rest, err := events.List(ctx, metav1.ListOptions{Continue: status.Status().Continue})
	if err != nil || rest.ResourceVersion == first.ResourceVersion || rest.Continue != "" {
		t.Fatalf("going on: %v, %v", rest, err)
	}
	var names []string
	for _, e := range rest.Items {
		names = append(names, e.Name)
	}
	if got := fmt.Sprint(names); got != "[c08 c09 c99]" {
		t.Errorf("going on inconsistently: %s, want [c08 c09 c99]", got)
	}
	// A watch from there cannot know what it missed.
	w, err := events.Watch(ctx, metav1.ListOptions{ResourceVersion: first.Items[0].ResourceVersion})
	if err == nil {
		defer w.Stop()
		err = apierrors.FromObject(next(t, w).Object)
	}
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		t.Errorf("watch from a version that is gone: %v", err)
	}
	if _, err := events.List(ctx, metav1.ListOptions{Continue: "nonsense"}); !apierrors.IsBadRequest(err) {
		t.Errorf("a token that is none: %v", err)
	}
}

func TestListVersions(t *testing.T) {
	t.Parallel() // the server waits for a version that does not come
	ns, version := filled(t, "versions", 2)
	ctx := t.Context()
	maps := shared.client.CoreV1().ConfigMaps(ns)
	if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "late"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		o     metav1.ListOptions
		items int
		bad   func(error) bool
	}{
		{name: "exactly", o: metav1.ListOptions{ResourceVersion: version, ResourceVersionMatch: metav1.ResourceVersionMatchExact}, items: 2},
		{name: "not older", o: metav1.ListOptions{ResourceVersion: version, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}, items: 2},
		{name: "newest", o: metav1.ListOptions{}, items: 3},
		{name: "match without a version", o: metav1.ListOptions{ResourceVersionMatch: metav1.ResourceVersionMatchExact}, bad: apierrors.IsInvalid},
		{name: "exactly any", o: metav1.ListOptions{ResourceVersion: "0", ResourceVersionMatch: metav1.ResourceVersionMatchExact}, bad: apierrors.IsInvalid},
		{name: "no version", o: metav1.ListOptions{ResourceVersion: "x"}, bad: apierrors.IsBadRequest},
		{name: "initial events of a list", o: metav1.ListOptions{SendInitialEvents: new(bool)}, bad: apierrors.IsInvalid},
	} {
		list, err := maps.List(ctx, tt.o)
		switch {
		case tt.bad != nil && !tt.bad(err):
			t.Errorf("%s: %v", tt.name, err)
		case tt.bad == nil && (err != nil || len(list.Items) < tt.items):
			t.Errorf("%s: %v, %v, want %d", tt.name, list, err, tt.items)
		}
	}
	// A version from the future makes the server wait, and then ask to try again.
	short, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	err := shared.client.CoreV1().RESTClient().Get().Namespace(ns).Resource("configmaps").Param("resourceVersion", "999999999").MaxRetries(0).Do(short).Error()
	if !apierrors.IsTimeout(err) || !apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge) {
		t.Errorf("a version from the future: %v", err)
	}
}

// next is the next event that says more than that nothing happened.
func next(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	select {
	case e, open := <-w.ResultChan():
		if !open {
			t.Fatal("the watch ended")
		}
		return e
	case <-time.After(15 * time.Second):
		t.Fatal("no event for 15 s")
	}
	return watch.Event{}
}

func TestWatchResumes(t *testing.T) {
	ns, version := filled(t, "resume", 1)
	ctx := t.Context()
	maps := shared.client.CoreV1().ConfigMaps(ns)
	for _, value := range []string{"1", "2"} {
		if _, err := maps.Update(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c00", Labels: map[string]string{"v": value}}}, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	w, err := maps.Watch(ctx, metav1.ListOptions{ResourceVersion: version})
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"1", "2"} {
		if e := next(t, w); e.Type != watch.Modified || e.Object.(*corev1.ConfigMap).Labels["v"] != value {
			t.Errorf("event %v, want the change to %s", e, value)
		}
	}
	w.Stop()
	// An object that leaves the selection is as good as deleted.
	if w, err = maps.Watch(ctx, metav1.ListOptions{LabelSelector: "v=2"}); err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if e := next(t, w); e.Type != watch.Added {
		t.Fatalf("event %v, want what is there", e)
	}
	if _, err := maps.Update(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c00", Labels: map[string]string{"v": "3"}}}, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if e := next(t, w); e.Type != watch.Deleted {
		t.Errorf("event %v, want a deletion", e)
	}
}

func TestWatchListAndBookmarks(t *testing.T) {
	ns, version := filled(t, "watchlist", 3)
	ctx := t.Context()
	yes := true
	w, err := shared.client.CoreV1().ConfigMaps(ns).Watch(ctx, metav1.ListOptions{
		SendInitialEvents: &yes, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for i := range 3 {
		if e := next(t, w); e.Type != watch.Added || e.Object.(*corev1.ConfigMap).Name != fmt.Sprintf("c%02d", i) {
			t.Errorf("initial event %v", e)
		}
	}
	e := next(t, w)
	cm, ok := e.Object.(*corev1.ConfigMap)
	if e.Type != watch.Bookmark || !ok || cm.Annotations[metav1.InitialEventsAnnotationKey] != "true" || len(cm.ResourceVersion) < len(version) {
		t.Errorf("event %v, want the bookmark that ends the initial events", e)
	}
	if _, err := shared.client.CoreV1().ConfigMaps(ns).Watch(ctx, metav1.ListOptions{SendInitialEvents: &yes}); !apierrors.IsInvalid(err) {
		t.Errorf("initial events without a match: %v", err)
	}
}
