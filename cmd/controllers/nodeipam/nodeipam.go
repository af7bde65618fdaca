// Package nodeipam gives every node its ranges of pod addresses.
//
// The nodes themselves are the record: what is in use is read from them, so a crash
// loses nothing. One worker allocates, and remembers what it gave out until the
// cache shows it, so no range is given twice.
package nodeipam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// Controller syncs all nodes.
type Controller struct {
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	pools  []Pool
	events record.EventRecorder
	loop   *loop.Loop
	synced cache.InformerSynced
	// given holds ranges written to nodes whose cached copy does not show them yet. Only
	// the one worker touches it.
	given map[types.UID][]netip.Prefix
}

// New returns a Controller that has done nothing yet.
func New(client kubernetes.Interface, nodes coreinformers.NodeInformer, pools []Pool, events record.EventRecorder, log *slog.Logger) (*Controller, error) {
	if len(pools) == 0 {
		return nil, errors.New("node addresses wanted, but no --cluster-cidr given")
	}
	c := &Controller{
		client: client, nodes: nodes.Lister(), pools: pools, events: events, synced: nodes.Informer().HasSynced,
		given: map[types.UID][]netip.Prefix{},
	}
	c.loop = loop.New("nodeipam", c.sync, log)
	_, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: c.loop.AddObject,
		UpdateFunc: func(_, obj any) {
			if len(obj.(*corev1.Node).Spec.PodCIDRs) == 0 {
				c.loop.AddObject(obj)
			}
		},
		DeleteFunc: func(any) { c.addWaiting() }, // room for others
	})
	return c, err
}

// Run allocates until ctx ends. One worker: see the package comment.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 1, c.synced) }

func (c *Controller) addWaiting() {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return
	}
	for _, node := range nodes {
		if len(node.Spec.PodCIDRs) == 0 {
			c.loop.AddObject(node)
		}
	}
}

func (c *Controller) sync(ctx context.Context, name string) error {
	node, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) || err == nil && (node.DeletionTimestamp != nil || node.Spec.PodCIDR != "") {
		return nil
	} else if err != nil {
		return err
	}
	used, err := c.used()
	if err != nil {
		return err
	}
	ranges := c.given[node.UID]
	if ranges == nil {
		for _, pool := range c.pools {
			free, ok := pool.Free(used)
			if !ok {
				c.events.Eventf(node, corev1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: CIDRNotAvailable", name)
				return fmt.Errorf("no free range in %s", pool.Range)
			}
			ranges = append(ranges, free)
		}
	}
	c.given[node.UID] = ranges // before the write: after a lost answer it may be there
	texts, err := json.Marshal(ranges)
	if err != nil {
		return err
	}
	patch := fmt.Sprintf(`{"metadata":{"uid":%q},"spec":{"podCIDR":%q,"podCIDRs":%s}}`, node.UID, ranges[0], texts)
	_, err = c.client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		delete(c.given, node.UID)
		return nil
	}
	if err != nil {
		return fmt.Errorf("write pod ranges of node: %w", err)
	}
	return nil
}

// used lists the ranges that are taken, by the cache and by our own memory.
func (c *Controller) used() ([]netip.Prefix, error) {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var used []netip.Prefix
	there := map[types.UID]bool{}
	for _, node := range nodes {
		there[node.UID] = true
		for _, text := range node.Spec.PodCIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				used = append(used, p)
			}
		}
		if len(node.Spec.PodCIDRs) > 0 {
			delete(c.given, node.UID)
		}
	}
	for uid, ranges := range c.given {
		if !there[uid] {
			delete(c.given, uid)
			continue
		}
		used = append(used, ranges...)
	}
	slices.SortFunc(used, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return used, nil
}
