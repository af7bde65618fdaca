package serviceaccount

import (
	"context"
	"errors"
	"log/slog"
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

func over(t *testing.T, client *fake.Clientset) (*Controller, informers.SharedInformerFactory) {
	t.Helper()
	shared := informers.NewSharedInformerFactory(client, 0)
	c, err := New(client, shared, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c, shared
}

func TestSync(t *testing.T) {
	ending := apierrors.NewForbidden(corev1.Resource("serviceaccounts"), name, errors.New("no"))
	ending.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	for about, tc := range map[string]struct {
		objs []runtime.Object
		// answer is the API's to a creation.
		answer          error
		creates, faulty bool
	}{
		"missing":          {[]runtime.Object{space("shop", corev1.NamespaceActive)}, nil, true, false},
		"there":            {[]runtime.Object{space("shop", corev1.NamespaceActive), account}, nil, false, false},
		"no namespace":     {nil, nil, false, false},
		"ending":           {[]runtime.Object{space("shop", corev1.NamespaceTerminating)}, nil, false, false},
		"there by now":     {[]runtime.Object{space("shop", corev1.NamespaceActive)}, apierrors.NewAlreadyExists(corev1.Resource("serviceaccounts"), name), true, false},
		"ending by now":    {[]runtime.Object{space("shop", corev1.NamespaceActive)}, ending, true, false},
		"gone by now":      {[]runtime.Object{space("shop", corev1.NamespaceActive)}, apierrors.NewNotFound(corev1.Resource("namespaces"), "shop"), true, false},
		"not allowed":      {[]runtime.Object{space("shop", corev1.NamespaceActive)}, apierrors.NewForbidden(corev1.Resource("serviceaccounts"), name, errors.New("no")), true, true},
		"nobody to ask":    {[]runtime.Object{space("shop", corev1.NamespaceActive)}, errors.New("connection refused"), true, true},
		"another's is not": {[]runtime.Object{space("shop", corev1.NamespaceActive), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: name}}}, nil, true, false},
	} {
		client := fake.NewClientset(tc.objs...)
		if tc.answer != nil {
			client.PrependReactor("create", "serviceaccounts", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, tc.answer })
		}
		c, shared := over(t, client)
		shared.Start(t.Context().Done())
		shared.WaitForCacheSync(t.Context().Done())
		client.ClearActions()
		if err := c.sync(t.Context(), "shop"); (err != nil) != tc.faulty || err != nil && !errors.Is(err, tc.answer) {
			t.Errorf("%s: %v", about, err)
		}
		creates := false
		for _, a := range client.Actions() {
			creates = creates || a.GetVerb() == "create"
		}
		if creates != tc.creates {
			t.Errorf("%s: created %t, %v", about, creates, client.Actions())
		}
	}
}

// The account comes back when it is deleted; no other does.
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
		accounts := client.CoreV1().ServiceAccounts("shop")
		time.Sleep(time.Second)
		if _, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "till"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, victim := range []string{name, "till"} {
			if err := accounts.Delete(ctx, victim, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		left, err := accounts.List(ctx, metav1.ListOptions{})
		if err != nil || len(left.Items) != 1 || left.Items[0].Name != name {
			t.Errorf("%+v %v", left, err)
		}
	})
}
