package rootca

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func space(name string, phase corev1.NamespacePhase) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NamespaceStatus{Phase: phase}}
}

func bundle(annotated bool, data map[string]string) *corev1.ConfigMap {
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: Name, Labels: map[string]string{"of": "a user"}}, Data: data}
	if annotated {
		m.Annotations = map[string]string{description: "as it was"}
	}
	return m
}

// over returns a Controller whose caches show what client has.
func over(t *testing.T, client *fake.Clientset) (*Controller, informers.SharedInformerFactory) {
	t.Helper()
	shared := informers.NewSharedInformerFactory(client, 0)
	c, err := New(client, []byte("PEM"), shared.Core().V1().Namespaces(), shared.Core().V1().ConfigMaps(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c, shared
}

func TestSync(t *testing.T) {
	whole := map[string]string{key: "PEM"}
	for name, tc := range map[string]struct {
		ns     *corev1.Namespace
		was    *corev1.ConfigMap
		writes string
	}{
		"missing":            {space("shop", corev1.NamespaceActive), nil, "create"},
		"as it should be":    {space("shop", corev1.NamespaceActive), bundle(true, whole), ""},
		"another CA":         {space("shop", corev1.NamespaceActive), bundle(true, map[string]string{key: "old"}), "update"},
		"something besides":  {space("shop", corev1.NamespaceActive), bundle(true, map[string]string{key: "PEM", "x": "y"}), "update"},
		"emptied":            {space("shop", corev1.NamespaceActive), bundle(true, nil), "update"},
		"without annotation": {space("shop", corev1.NamespaceActive), bundle(false, whole), "update"},
		"no namespace":       {space("other", corev1.NamespaceActive), nil, ""},
		"ending":             {space("shop", corev1.NamespaceTerminating), nil, ""},
		"ending, changed":    {space("shop", corev1.NamespaceTerminating), bundle(true, nil), ""},
	} {
		objs := []runtime.Object{tc.ns}
		if tc.was != nil {
			objs = append(objs, tc.was)
		}
		client := fake.NewClientset(objs...)
		c, shared := over(t, client)
		shared.Start(t.Context().Done())
		shared.WaitForCacheSync(t.Context().Done())
		client.ClearActions()
		if err := c.sync(t.Context(), "shop"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		writes := ""
		for _, a := range client.Actions() {
			if verb := a.GetVerb(); verb != "list" && verb != "watch" { // which the informers go on with
				writes += verb
			}
		}
		if writes != tc.writes {
			t.Errorf("%s: did %q, want %q", name, writes, tc.writes)
		}
		if tc.writes == "" {
			continue
		}
		got, err := client.CoreV1().ConfigMaps("shop").Get(t.Context(), Name, metav1.GetOptions{})
		if err != nil || !maps.Equal(got.Data, whole) || got.Annotations[description] == "" || tc.was != nil && got.Labels["of"] == "" {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
}

// Nothing is wrong when somebody else was first, or the namespace went; anything else is said, and tried again.
func TestRefusals(t *testing.T) {
	ending := apierrors.NewForbidden(corev1.Resource("configmaps"), Name, errors.New("no"))
	ending.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
	for name, tc := range map[string]struct {
		err  error
		told bool
	}{
		"there by now":        {apierrors.NewAlreadyExists(corev1.Resource("configmaps"), Name), false},
		"namespace ending":    {ending, false},
		"namespace gone":      {apierrors.NewNotFound(corev1.Resource("namespaces"), "shop"), false},
		"not allowed":         {apierrors.NewForbidden(corev1.Resource("configmaps"), Name, errors.New("no")), true},
		"nobody there to ask": {errors.New("connection refused"), true},
	} {
		client := fake.NewClientset(space("shop", corev1.NamespaceActive))
		client.PrependReactor("create", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, tc.err })
		c, shared := over(t, client)
		shared.Start(t.Context().Done())
		shared.WaitForCacheSync(t.Context().Done())
		if err := c.sync(t.Context(), "shop"); (err != nil) != tc.told || err != nil && !errors.Is(err, tc.err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What somebody changes or deletes is put back, a new namespace gets its own, and other ConfigMaps are nobody's business.
func TestKeepsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(space("shop", corev1.NamespaceActive))
		c, shared := over(t, client)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		shared.Start(ctx.Done())
		synctest.Wait() // what comes between the list and the watch is lost to a fake
		go func() { ended <- c.Run(ctx) }()
		defer func() { stop(); <-ended; shared.Shutdown() }()
		there := func(what, namespace string) {
			t.Helper()
			time.Sleep(time.Second)
			got, err := client.CoreV1().ConfigMaps(namespace).Get(ctx, Name, metav1.GetOptions{})
			if err != nil || got.Data[key] != "PEM" {
				t.Errorf("%s: %v %v", what, got, err)
			}
		}
		there("at first", "shop")
		maps := client.CoreV1().ConfigMaps("shop")
		if err := maps.Delete(ctx, Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		there("deleted", "shop")
		if _, err := maps.Update(ctx, bundle(true, map[string]string{key: "evil"}), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		there("changed", "shop")
		if _, err := client.CoreV1().Namespaces().Create(ctx, space("new", corev1.NamespaceActive), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		there("a new namespace", "new")
		other := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "other"}, Data: map[string]string{key: "mine"}}
		if _, err := maps.Create(ctx, other, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if got, err := maps.Get(ctx, "other", metav1.GetOptions{}); err != nil || got.Data[key] != "mine" {
			t.Errorf("a ConfigMap of a user: %v %v", got, err)
		}
	})
}
