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
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/client-go/discovery"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// Contents that take their time, such as pods, are looked at again soonest after the one and latest after the other.
const (
	soonest = time.Second
	latest  = 15 * time.Second
)

// pause is how long to wait before a namespace that has been ending for so long is looked at again: the longer it waited, the
// longer it may wait, because every look asks for all kinds there are.
func pause(ending time.Duration) time.Duration { return min(max(ending/8, soonest), latest) }

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
	if err == nil && ending(ns) {
		// The cache may show one that is gone, and another may have its name by now, whose contents are not to be touched. The
		// finalizer, which is ours, keeps this one from going meanwhile.
		ns, err = c.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) || err == nil && !ending(ns) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read namespace: %w", err)
	}
	found := c.empty(ctx, name)
	if ns, err = c.writeConditions(ctx, ns, found); err != nil {
		return err
	}
	if err := found.err(); err != nil {
		return err
	}
	if len(found.remaining) > 0 {
		c.loop.AddAfter(name, pause(time.Since(ns.DeletionTimestamp.Time)))
		return nil
	}
	return c.finalize(ctx, ns)
}

// ending tells that ns waits for this controller.
func ending(ns *corev1.Namespace) bool {
	return ns.DeletionTimestamp != nil && slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes)
}

// found is what one pass over a namespace saw.
type found struct {
	discovery, deletion []error
	// remaining and finalizers count what is left, by resource and by finalizer.
	remaining, finalizers map[string]int
}

func (f found) err() error {
	return utilerrors.NewAggregate(slices.Concat(f.discovery, f.deletion))
}

func (c *Controller) empty(ctx context.Context, name string) found {
	f := found{remaining: map[string]int{}, finalizers: map[string]int{}}
	var resources []schema.GroupVersionResource
	resources, f.discovery = c.resources()
	pods := corev1.SchemeGroupVersion.WithResource("pods")
	c.emptyResource(ctx, pods, name, &f)
	if len(f.remaining)+len(f.deletion) > 0 {
		return f
	}
	for _, gvr := range resources {
		c.emptyResource(ctx, gvr, name, &f)
	}
	return f
}

// resources lists what can be deleted from a namespace. A group that cannot be discovered
// is an error, beside the others.
func (c *Controller) resources() (all []schema.GroupVersionResource, errs []error) {
	lists, err := c.client.Discovery().ServerPreferredNamespacedResources()
	if err != nil {
		errs = append(errs, err)
	}
	lists = discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"delete", "list"}}, lists)
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, r := range list.APIResources {
			if gv.Group == "" && r.Name == "pods" || strings.Contains(r.Name, "/") {
				continue
			}
			all = append(all, gv.WithResource(r.Name))
		}
	}
	return all, errs
}

// emptyResource asks for all objects of one resource to be deleted, and notes those still there, or what went wrong.
func (c *Controller) emptyResource(ctx context.Context, gvr schema.GroupVersionResource, namespace string, f *found) {
	left, err := c.ask(ctx, gvr, namespace)
	if err != nil {
		f.deletion = append(f.deletion, err)
	}
	for _, item := range left {
		f.remaining[gvr.Resource+"."+gvr.Group]++ // so upstream names them, and a core one "pods."
		for _, finalizer := range item.Finalizers {
			f.finalizers[finalizer]++
		}
	}
}

// ask asks for all objects of one resource to be deleted, and returns those still there.
func (c *Controller) ask(ctx context.Context, gvr schema.GroupVersionResource, namespace string) ([]metav1.PartialObjectMetadata, error) {
	client := c.metadata.Resource(gvr).Namespace(namespace)
	background := metav1.DeletePropagationBackground
	list, err := client.List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", gvr.GroupResource(), err)
	}
	if len(list.Items) == 0 {
		return nil, nil
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
		return nil, fmt.Errorf("delete %s: %w", gvr.GroupResource(), err)
	}
	if list, err = client.List(ctx, metav1.ListOptions{}); err != nil {
		return nil, fmt.Errorf("list %s: %w", gvr.GroupResource(), err)
	}
	return list.Items, nil
}

// writeConditions says in live what f found, and returns it as it is then.
func (c *Controller) writeConditions(ctx context.Context, live *corev1.Namespace, f found) (*corev1.Namespace, error) {
	status := live.Status.DeepCopy()
	status.Phase = corev1.NamespaceTerminating
	status.Conditions = Conditions(status.Conditions, f, metav1.Now())
	if equality.Semantic.DeepEqual(*status, live.Status) {
		return live, nil
	}
	live.Status = *status
	written, err := c.client.CoreV1().Namespaces().UpdateStatus(ctx, live, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("write conditions: %w", err)
	}
	return written, nil
}

func (c *Controller) finalize(ctx context.Context, live *corev1.Namespace) error {
	live.Spec.Finalizers = slices.DeleteFunc(live.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	if _, err := c.client.CoreV1().Namespaces().Finalize(ctx, live, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("finalize: %w", err)
	}
	return nil
}
