// Package nodettl tells kubelets, by an annotation of their Node, for how long they may keep
// Secrets and ConfigMaps that they have read: the longer, the more nodes there are.
package nodettl

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// step is how long contents are kept, in seconds, in clusters of those sizes. Sizes overlap, so
// that a node that comes and goes does not change all others.
type step struct{ least, most, seconds int }

func steps() []step {
	return []step{{0, 100, 0}, {90, 500, 15}, {450, 1000, 30}, {900, 2000, 60}, {1800, math.MaxInt, 300}}
}

// Step returns the step for a cluster of so many nodes that was at step current.
func Step(current, nodes int) int {
	all := steps()
	for current > 0 && nodes < all[current].least {
		current--
	}
	for nodes > all[current].most {
		current++
	}
	return current
}

// Controller keeps the annotation of all nodes.
type Controller struct {
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	loop   *loop.Loop
	synced cache.InformerSynced

	mu   sync.Mutex
	step int
}

// New returns a Controller that has done nothing yet.
func New(client kubernetes.Interface, nodes coreinformers.NodeInformer, log *slog.Logger) (*Controller, error) {
	c := &Controller{client: client, nodes: nodes.Lister(), synced: nodes.Informer().HasSynced}
	c.loop = loop.New("ttl", c.sync, log)
	_, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { c.counted(); c.loop.AddObject(obj) },
		UpdateFunc: func(old, obj any) {
			if old.(*corev1.Node).Annotations[corev1.ObjectTTLAnnotationKey] != obj.(*corev1.Node).Annotations[corev1.ObjectTTLAnnotationKey] {
				c.loop.AddObject(obj)
			}
		},
		DeleteFunc: func(any) { c.counted() },
	})
	return c, err
}

// Run annotates until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 2, c.synced) }

// counted looks at all nodes again where their number makes a difference.
func (c *Controller) counted() {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return
	}
	c.mu.Lock()
	before := c.step
	c.step = Step(before, len(nodes))
	changed := c.step != before
	c.mu.Unlock()
	if !changed {
		return
	}
	for _, node := range nodes {
		c.loop.AddObject(node)
	}
}

func (c *Controller) sync(ctx context.Context, name string) error {
	node, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	c.mu.Lock()
	want := strconv.Itoa(steps()[c.step].seconds)
	c.mu.Unlock()
	if node.Annotations[corev1.ObjectTTLAnnotationKey] == want {
		return nil
	}
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, corev1.ObjectTTLAnnotationKey, want)
	_, err = c.client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("annotate node: %w", err)
	}
	return nil
}
