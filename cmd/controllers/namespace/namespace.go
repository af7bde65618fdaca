// Package namespace empties namespaces that are being deleted, and then lets them go.
//
// What a namespace can hold comes from discovery, so custom resources are emptied too.
// Pods go first: what they use must outlive them.
package namespace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// again is how long to wait for contents that take their time, such as pods.
const again = time.Second

// Controller syncs all namespaces.
type Controller struct {
	client     kubernetes.Interface
	metadata   metadata.Interface
	namespaces corelisters.NamespaceLister
	loop       *loop.Loop
	synced     cache.InformerSynced
}

// New returns a Controller that has done nothing yet.
func New(client kubernetes.Interface, metadata metadata.Interface, namespaces coreinformers.NamespaceInformer, log *slog.Logger) (*Controller, error) {
	c := &Controller{client: client, metadata: metadata, namespaces: namespaces.Lister(), synced: namespaces.Informer().HasSynced}
	c.loop = loop.New("namespace", c.sync, log)
	_, err := namespaces.Informer().AddEventHandler(loop.On(func(ns *corev1.Namespace) {
		if ns.DeletionTimestamp != nil {
			c.loop.AddObject(ns)
		}
	}))
	return c, err
}

// Run syncs until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 5, c.synced) }

func (c *Controller) sync(ctx context.Context, name string) error {
	ns, err := c.namespaces.Get(name)
	if apierrors.IsNotFound(err) || err == nil && ns.DeletionTimestamp == nil {
		return nil
	} else if err != nil {
		return err
	}
	if !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return nil
	}
	found := c.empty(ctx, name)
	if err := c.writeConditions(ctx, name, found); err != nil {
		return err
	}
	if err := found.err(); err != nil {
		return err
	}
	if len(found.remaining) > 0 {
		c.loop.AddAfter(name, again)
		return nil
	}
	return c.finalize(ctx, name)
}

// found is what one pass over a namespace saw.
type found struct {
	discovery, deletion error
	// remaining and finalizers count what is left, by resource and by finalizer.
	remaining, finalizers map[string]int
}

func (f found) err() error { return errors.Join(f.discovery, f.deletion) }

func (c *Controller) empty(ctx context.Context, name string) found {
	f := found{remaining: map[string]int{}, finalizers: map[string]int{}}
	resources, err := c.resources()
	f.discovery = err
	pods := corev1.SchemeGroupVersion.WithResource("pods")
	if err := c.emptyResource(ctx, pods, name, &f); err != nil {
		f.deletion = err
		return f
	}
	if len(f.remaining) > 0 {
		return f
	}
	var errs []error
	for _, gvr := range resources {
		errs = append(errs, c.emptyResource(ctx, gvr, name, &f))
	}
	f.deletion = errors.Join(errs...)
	return f
}

// resources lists what can be deleted from a namespace. A group that cannot be discovered
// is an error, beside the others.
func (c *Controller) resources() ([]schema.GroupVersionResource, error) {
	lists, err := c.client.Discovery().ServerPreferredNamespacedResources()
	lists = discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"delete", "list"}}, lists)
	var all []schema.GroupVersionResource
	for _, list := range lists {
		gv, parseErr := schema.ParseGroupVersion(list.GroupVersion)
		if parseErr != nil {
			err = errors.Join(err, parseErr)
			continue
		}
		for _, r := range list.APIResources {
			if gv.Group == "" && r.Name == "pods" || strings.Contains(r.Name, "/") {
				continue
			}
			all = append(all, gv.WithResource(r.Name))
		}
	}
	return all, err
}

// emptyResource asks for all objects of one resource to be deleted and counts those still there.
func (c *Controller) emptyResource(ctx context.Context, gvr schema.GroupVersionResource, namespace string, f *found) error {
	client := c.metadata.Resource(gvr).Namespace(namespace)
	background := metav1.DeletePropagationBackground
	list, err := client.List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list %s: %w", gvr.GroupResource(), err)
	}
	if len(list.Items) == 0 {
		return nil
	}
	err = client.DeleteCollection(ctx, metav1.DeleteOptions{PropagationPolicy: &background}, metav1.ListOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
		err = nil
		for _, item := range list.Items {
			if e := client.Delete(ctx, item.Name, metav1.DeleteOptions{PropagationPolicy: &background}); e != nil && !apierrors.IsNotFound(e) {
				err = errors.Join(err, e)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", gvr.GroupResource(), err)
	}
	if list, err = client.List(ctx, metav1.ListOptions{}); err != nil {
		return fmt.Errorf("list %s: %w", gvr.GroupResource(), err)
	}
	for _, item := range list.Items {
		f.remaining[gvr.GroupResource().String()]++
		for _, finalizer := range item.Finalizers {
			f.finalizers[finalizer]++
		}
	}
	return nil
}

func (c *Controller) writeConditions(ctx context.Context, name string, f found) error {
	live, err := c.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read namespace: %w", err)
	}
	status := live.Status.DeepCopy()
	status.Phase = corev1.NamespaceTerminating
	status.Conditions = Conditions(status.Conditions, f, metav1.Now())
	if equality.Semantic.DeepEqual(*status, live.Status) {
		return nil
	}
	live.Status = *status
	if _, err = c.client.CoreV1().Namespaces().UpdateStatus(ctx, live, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write conditions: %w", err)
	}
	return nil
}

func (c *Controller) finalize(ctx context.Context, name string) error {
	live, err := c.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read namespace: %w", err)
	}
	live.Spec.Finalizers = slices.DeleteFunc(live.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	if _, err = c.client.CoreV1().Namespaces().Finalize(ctx, live, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("finalize: %w", err)
	}
	return nil
}
