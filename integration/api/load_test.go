package api

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/orlop-io/orlop/integration/bareserver"
)

// Many write and watch at once, with the controllers and the scheduler beside them. What goes wrong then is for the
// race detector to say: make test-race runs this against programs that were built with it.
func TestManyAtOnce(t *testing.T) {
	t.Parallel() // it has servers of its own, and waits much
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	s, err := bareserver.Start(ctx, bareserver.Config{Program: filepath.Join(bin, "orlop-server"), Dir: t.TempDir()})
	ok(t, err)
	parts := []string{"kube-controller-manager", "kube-scheduler"}
	for _, part := range parts {
		ok(t, s.Run(part, "--secure-port=0"))
	}
	ns := "load"
	_, err = s.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
	ok(t, err)
	eventually(t, 60*time.Second, "the namespace's service account", func() error {
		_, err := s.Client.CoreV1().ServiceAccounts(ns).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	for i := range 3 {
		_, err := s.Client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i)}}, metav1.CreateOptions{})
		ok(t, err)
	}
	var seen atomic.Int64
	watching, stop := context.WithCancel(ctx)
	var watchers errgroup.Group
	for range 5 {
		for _, open := range []func(context.Context, metav1.ListOptions) (watch.Interface, error){
			s.Client.CoreV1().Pods(ns).Watch, s.Client.CoreV1().ConfigMaps("").Watch, s.Client.AppsV1().Deployments(ns).Watch, s.Client.CoreV1().Nodes().Watch,
		} {
			w, err := open(watching, metav1.ListOptions{})
			ok(t, err)
			watchers.Go(func() error {
				defer w.Stop()
				for range w.ResultChan() {
					seen.Add(1)
				}
				return nil
			})
		}
	}
	var writers errgroup.Group
	for i := range 8 {
		writers.Go(func() error { return write(ctx, s, ns, i) })
	}
	ok(t, writers.Wait())
	ok(t, s.Client.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{}))
	eventually(t, 2*time.Minute, "the namespace's end", func() error {
		_, err := s.Client.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New("it is still there"))
	})
	stop()
	ok(t, watchers.Wait())
	ok(t, s.Stop())
	t.Logf("%d events seen", seen.Load())
	for _, program := range append(parts, "etcd", "kube-apiserver") {
		log, err := s.Log(program)
		ok(t, err)
		for _, word := range []string{"DATA RACE", "Observed a panic", "panic:"} {
			if at := strings.Index(log, word); at >= 0 {
				t.Errorf("the log of %s speaks of %q:\n%s", program, word, log[at:min(len(log), at+6000)])
			}
		}
	}
}

// write makes, changes, lists and deletes objects of a few kinds.
func write(ctx context.Context, s *bareserver.Server, ns string, writer int) error {
	for i := range 12 {
		name := fmt.Sprintf("o-%d-%d", writer, i)
		pod := corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "nowhere.invalid/none"}}}
		labels := map[string]string{"app": name}
		if _, err := s.Client.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			return err
		}
		replicas := int32(2)
		if _, err := s.Client.AppsV1().Deployments(ns).Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod}}}, metav1.CreateOptions{}); err != nil {
			return err
		}
		if _, err := s.Client.CoreV1().Services(ns).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{}); err != nil {
			return err
		}
		apply := fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"shared"},"data":{"w%d":"%d"}}`, writer, i)
		force := true
		if _, err := s.Client.CoreV1().ConfigMaps(ns).Patch(ctx, "shared", types.ApplyPatchType, []byte(apply), metav1.PatchOptions{FieldManager: fmt.Sprint("w", writer), Force: &force}); err != nil {
			return err
		}
		if _, err := s.Client.AppsV1().Deployments(ns).Patch(ctx, name, types.StrategicMergePatchType, []byte(`{"spec":{"replicas":1}}`), metav1.PatchOptions{}); err != nil {
			return err
		}
		if _, err := s.Client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{LabelSelector: "app=" + name}); err != nil {
			return err
		}
		if i%2 == 0 {
			if err := s.Client.CoreV1().Services(ns).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
				return err
			}
		}
	}
	return nil
}
