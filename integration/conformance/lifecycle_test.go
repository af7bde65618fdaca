package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// kind is an API whose verbs a row wants to see: served, listed in discovery,
// and working from create to deletecollection.
type kind struct {
	resource string // group/version/plural, or version/plural
	object   string // YAML below metadata; $X is a text and $N a number of its own in each object, $W the namespace
	name     string // with $X; "" for conf-$X
	cluster  bool   // not in a namespace
	status   string // what to write to /status, as JSON; "" where there is none or none is wanted
	change   string // a merge patch of the object, beside the annotation that always is
	slow     bool   // a controller takes its time to let go of it
}

func gvr(resource string) schema.GroupVersionResource {
	parts := strings.Split(resource, "/")
	if len(parts) == 2 {
		parts = append([]string{""}, parts...)
	}
	return schema.GroupVersionResource{Group: parts[0], Version: parts[1], Resource: parts[2]}
}

func (k kind) make(t *testing.T, ns, label string, x int) *unstructured.Unstructured {
	t.Helper()
	name := k.name
	if name == "" {
		name = "conf-$X"
	}
	text := strings.NewReplacer("$X", fmt.Sprintf("%s%d", label, x), "$N", fmt.Sprint(x), "$W", ns).Replace("metadata: {name: '" + name + "', labels: {conf: " + label + "}}\n" + k.object)
	o := &unstructured.Unstructured{}
	ok(t, yaml.Unmarshal([]byte(text), &o.Object))
	if o.GetAPIVersion() == "" {
		o.SetAPIVersion(gvr(k.resource).GroupVersion().String())
	}
	return o
}

func (k kind) run(t *testing.T, c *clustertest.Cluster) {
	k.discovered(t, c)
	var api dynamic.ResourceInterface = must(dynamic.NewForConfig(c.Config))(t).Resource(gvr(k.resource))
	ns := ""
	if !k.cluster {
		ns = c.Namespace(t)
		api = api.(dynamic.NamespaceableResourceInterface).Namespace(ns)
	}
	label := "x" + rand.String(6)
	list := metav1.ListOptions{LabelSelector: "conf=" + label}
	ctx := t.Context()
	w := must(api.Watch(ctx, list))(t)
	defer w.Stop()

	made := must(api.Create(ctx, k.make(t, ns, label, 1), metav1.CreateOptions{}))(t)
	t.Cleanup(func() {
		api.DeleteCollection(context.WithoutCancel(ctx), metav1.DeleteOptions{}, list)
	})
	name := made.GetName()
	if got := must(api.Get(ctx, name, metav1.GetOptions{}))(t); got.GetUID() != made.GetUID() {
		t.Errorf("get returned another object than create made: %s", got.GetUID())
	}
	if got := must(api.List(ctx, list))(t); len(got.Items) != 1 {
		t.Errorf("%d objects in the list, want 1", len(got.Items))
	}
	saw(t, w, watch.Added, func(*unstructured.Unstructured) bool { return true })
	k.changed(t, api, name, w)
	if k.status != "" {
		k.statusChanged(t, api, name)
	}
	ok(t, api.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: ptr[int64](0)}))
	saw(t, w, watch.Deleted, func(*unstructured.Unstructured) bool { return true })
	gone(t, c, api, list)

	for x := range 3 {
		must(api.Create(ctx, k.make(t, ns, label, x+2), metav1.CreateOptions{}))(t)
	}
	if got := must(api.List(ctx, list))(t); len(got.Items) != 3 {
		t.Errorf("%d objects in the list, want 3", len(got.Items))
	}
	ok(t, api.DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: ptr[int64](0)}, list))
	gone(t, c, api, list)
}

func gone(t *testing.T, c *clustertest.Cluster, api dynamic.ResourceInterface, list metav1.ListOptions) {
	t.Helper()
	c.Eventually(t, 30*time.Second, "objects to go", func(ctx context.Context) error {
		got, err := api.List(ctx, list)
		if err == nil && len(got.Items) > 0 {
			err = fmt.Errorf("%d are left: %s", len(got.Items), got.Items[0].GetFinalizers())
		}
		return err
	})
}

// discovered wants the group, the version and the resource in discovery, with all verbs.
func (k kind) discovered(t *testing.T, c *clustertest.Cluster) {
	t.Helper()
	g := gvr(k.resource)
	if g.Group != "" {
		groups := must(c.Client.Discovery().ServerGroups())(t)
		if !slices.ContainsFunc(groups.Groups, func(a metav1.APIGroup) bool {
			return a.Name == g.Group && slices.ContainsFunc(a.Versions, func(v metav1.GroupVersionForDiscovery) bool { return v.Version == g.Version })
		}) {
			t.Fatalf("%s is not among the groups", g.GroupVersion())
		}
	}
	served := must(c.Client.Discovery().ServerResourcesForGroupVersion(g.GroupVersion().String()))(t)
	verbs := map[string][]string{}
	for _, r := range served.APIResources {
		verbs[r.Name] = r.Verbs
	}
	for _, v := range []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"} {
		if !slices.Contains(verbs[g.Resource], v) {
			t.Errorf("discovery does not list the verb %s of %s", v, g.Resource)
		}
	}
	if k.status != "" {
		for _, v := range []string{"get", "patch", "update"} {
			if !slices.Contains(verbs[g.Resource+"/status"], v) {
				t.Errorf("discovery does not list the verb %s of %s/status", v, g.Resource)
			}
		}
	}
}

func (k kind) changed(t *testing.T, api dynamic.ResourceInterface, name string, w watch.Interface) {
	t.Helper()
	ctx := t.Context()
	patch := `{"metadata":{"annotations":{"patched":"yes"}}}`
	if got := must(api.Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}))(t); got.GetAnnotations()["patched"] != "yes" {
		t.Errorf("the patch is not in what the server answered: %v", got.GetAnnotations())
	}
	saw(t, w, watch.Modified, func(o *unstructured.Unstructured) bool { return o.GetAnnotations()["patched"] == "yes" })
	updated(t, api, name, func(o *unstructured.Unstructured) {
		o.SetAnnotations(map[string]string{"patched": "yes", "updated": "yes"})
	})
	saw(t, w, watch.Modified, func(o *unstructured.Unstructured) bool { return o.GetAnnotations()["updated"] == "yes" })
	if k.change == "" {
		return
	}
	var want map[string]any
	ok(t, json.Unmarshal([]byte(k.change), &want))
	got := must(api.Patch(ctx, name, types.MergePatchType, []byte(k.change), metav1.PatchOptions{}))(t)
	if !holdsAll(got.Object, want) {
		t.Errorf("after the patch %s it is %v", k.change, got.Object)
	}
}

// updated reads, changes and writes, again if another was quicker.
func updated(t *testing.T, api dynamic.ResourceInterface, name string, change func(*unstructured.Unstructured), sub ...string) *unstructured.Unstructured {
	t.Helper()
	var err error
	for range 5 {
		o := must(api.Get(t.Context(), name, metav1.GetOptions{}, sub...))(t)
		change(o)
		if o, err = api.Update(t.Context(), o, metav1.UpdateOptions{}, sub...); err == nil {
			return o
		}
	}
	t.Fatalf("update %s: %v", name, err)
	return nil
}

func (k kind) statusChanged(t *testing.T, api dynamic.ResourceInterface, name string) {
	t.Helper()
	var status map[string]any
	ok(t, json.Unmarshal([]byte(k.status), &status))
	want := map[string]any{"status": status}
	body := must(json.Marshal(want))(t)
	patched := must(api.Patch(t.Context(), name, types.MergePatchType, body, metav1.PatchOptions{}, "status"))(t)
	if !holdsAll(patched.Object, want) {
		t.Errorf("after the patch of /status: %v, want %v", patched.Object["status"], status)
	}
	o := updated(t, api, name, func(o *unstructured.Unstructured) { o.Object["status"] = status }, "status")
	if !holdsAll(o.Object, want) {
		t.Errorf("after the update of /status: %v, want %v", o.Object["status"], status)
	}
	if got := must(api.Get(t.Context(), name, metav1.GetOptions{}, "status"))(t); got.GetName() != name {
		t.Errorf("get of /status: %v", got.Object)
	}
}

// holdsAll says whether got has everything in want, which may be less.
func holdsAll(got, want any) bool {
	switch w := want.(type) {
	case map[string]any:
		g, is := got.(map[string]any)
		for key, v := range w {
			if !is || !holdsAll(g[key], v) {
				return false
			}
		}
		return true
	case []any:
		g, is := got.([]any)
		for i, v := range w {
			if !is || i >= len(g) || !holdsAll(g[i], v) {
				return false
			}
		}
		return true
	case float64:
		return fmt.Sprint(got) == fmt.Sprint(w)
	}
	return reflect.DeepEqual(got, want)
}

// saw waits for a watch event.
func saw(t *testing.T, w watch.Interface, event watch.EventType, match func(*unstructured.Unstructured) bool) {
	t.Helper()
	late := time.After(30 * time.Second)
	for {
		select {
		case e, open := <-w.ResultChan():
			if !open {
				t.Fatal("the watch ended")
			}
			if o, is := e.Object.(*unstructured.Unstructured); is && e.Type == event && match(o) {
				return
			}
		case <-late:
			t.Fatalf("the watch did not tell %s", event)
		}
	}
}
