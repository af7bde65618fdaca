// Package garbage deletes objects whose owners are gone, and carries out the deletions
// that go through dependents: foreground, background and orphaning.
//
// It watches the metadata of every resource that can be deleted, custom ones too, and
// keeps a graph of who owns whom. What the graph says only starts a look: before
// anything is deleted, the object and owners not in the graph are read from the API server.
package garbage

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// unseen is when an object is looked at again whose owner is there, but not in the graph yet: if the owner ends before it is
// in the graph, nothing else would tell.
const unseen = 30 * time.Second

// rediscover is how often resources that have come or gone are looked for.
const rediscover = 30 * time.Second

// Collector owns the graph.
type Collector struct {
	discovery discovery.DiscoveryInterface
	follow    Follow
	act       metadata.Interface
	events    record.EventRecorder
	log       *slog.Logger
	graph     *graph
	loop      *loop.Loop

	mu       sync.Mutex
	mapper   meta.RESTMapper
	monitors map[schema.GroupVersionResource]*monitor
}

// Follow fills store with the metadata of all objects of a resource, and tells it of each change, until ctx ends.
type Follow func(ctx context.Context, gvr schema.GroupVersionResource, store cache.ReflectorStore)

// New returns a Collector that has done nothing yet. It learns by follow, and reads and deletes by act.
func New(discovery discovery.DiscoveryInterface, follow Follow, act metadata.Interface, events record.EventRecorder, log *slog.Logger) *Collector {
	c := &Collector{
		discovery: discovery, follow: follow, act: act, events: events, log: log, graph: newGraph(), monitors: map[schema.GroupVersionResource]*monitor{},
	}
	c.loop = loop.New("garbagecollector", c.sync, log)
	return c
}

// Run collects until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	c.resync(ctx, &wg)
	c.settle(ctx)
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(rediscover):
				c.resync(ctx, &wg)
			}
		}
	})
	err := c.loop.Run(ctx, 10)
	wg.Wait()
	return err
}

// settle waits until all monitors are filled, but not for long: one broken resource must not
// stop the others, and owners not seen yet are asked for anyway.
func (c *Collector) settle(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	c.mu.Lock()
	var synced []cache.InformerSynced
	for _, m := range c.monitors {
		synced = append(synced, m.synced)
	}
	c.mu.Unlock()
	cache.WaitForCacheSync(limited.Done(), synced...)
}

// resync starts and stops monitors, so that there is one for each resource that can be deleted.
func (c *Collector) resync(ctx context.Context, wg *sync.WaitGroup) {
	groups, lists, err := c.discovery.ServerGroupsAndResources()
	if len(lists) == 0 {
		if ctx.Err() == nil {
			c.log.Warn("discover resources", "err", err)
		}
		return
	}
	wanted := resources(discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"delete", "list", "watch"}}, preferred(groups, lists)))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mapper = restmapper.NewDiscoveryRESTMapper(groupResources(groups, lists))
	for gvr, m := range c.monitors {
		// A group that failed to answer may still be there; its monitor goes on.
		if _, served := wanted[gvr]; !served && err == nil {
			m.stop()
			delete(c.monitors, gvr)
			c.graph.drop(gvr)
		}
	}
	for gvr, namespaced := range wanted {
		if _, running := c.monitors[gvr]; !running {
			c.monitors[gvr] = c.startMonitor(ctx, gvr, wg)
		}
		c.monitors[gvr].namespaced = namespaced
	}
}

func fromMetadata(gvr schema.GroupVersionResource, o *metav1.PartialObjectMetadata) *object {
	return &object{
		identity: identity{gvr, o.Namespace, o.Name, o.UID},
		owners:   o.OwnerReferences, finalizers: o.Finalizers, deleting: o.DeletionTimestamp != nil,
	}
}

func (c *Collector) look(uids []types.UID) {
	for _, uid := range uids {
		c.loop.Add(string(uid))
	}
}

// sync looks at one object, by its UID.
func (c *Collector) sync(ctx context.Context, key string) error {
	known, dependents := c.graph.get(types.UID(key))
	if known == nil {
		return nil
	}
	live, err := c.act.Resource(known.gvr).Namespace(known.namespace).Get(ctx, known.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && live.UID != known.uid {
		c.look(c.graph.remove(known.uid))
		return nil
	} else if err != nil {
		return fmt.Errorf("read %s %s: %w", known.gvr.Resource, known.name, err)
	}
	o := fromMetadata(known.gvr, live)
	owners, err := c.states(ctx, o)
	if err != nil {
		return err
	}
	if circle := c.graph.circle(o.uid); len(circle) > 0 && o.foreground() {
		dependents = slices.DeleteFunc(dependents, func(d *object) bool { return circle[d.uid] })
	}
	return c.carryOut(ctx, o, live, decide(o, dependents, owners))
}

// states finds out what became of o's owners.
func (c *Collector) states(ctx context.Context, o *object) (map[types.UID]state, error) {
	if o.deleting {
		return nil, nil
	}
	states := map[types.UID]state{}
	for _, ref := range o.owners {
		owner, _ := c.graph.get(ref.UID)
		if owner != nil && (owner.namespace == "" || owner.namespace == o.namespace) {
			states[ref.UID] = alive
			if owner.foreground() {
				states[ref.UID] = waiting
			}
			continue
		}
		if owner != nil {
			c.tellInvalid(o, owner, ref)
			if o.namespace == "" {
				states[ref.UID] = alive // it can have no such owner, so that the owner's end is nothing to it
				continue
			}
		}
		s, err := c.ask(ctx, o.namespace, ref)
		if err != nil {
			return nil, fmt.Errorf("read owner %s %s of %s: %w", ref.Kind, ref.Name, o.name, err)
		}
		if states[ref.UID] = s; s != absent && owner == nil {
			c.loop.AddAfter(string(o.uid), unseen)
		}
	}
	return states, nil
}

// tellInvalid says that o names an owner of another namespace, which is none.
func (c *Collector) tellInvalid(o, owner *object, ref metav1.OwnerReference) {
	c.mu.Lock()
	mapper := c.mapper
	c.mu.Unlock()
	about := &corev1.ObjectReference{Namespace: o.namespace, Name: o.name, UID: o.uid}
	if kind, err := mapper.KindFor(o.gvr); err == nil {
		about.APIVersion, about.Kind = kind.GroupVersion().String(), kind.Kind
	}
	c.events.Eventf(about, corev1.EventTypeWarning, "OwnerRefInvalidNamespace", "ownerRef [%s/%s, namespace: %s, name: %s, uid: %s] does not exist in namespace %q",
		ref.APIVersion, ref.Kind, owner.namespace, ref.Name, ref.UID, o.namespace)
}

// ask reads an owner that the graph does not know.
func (c *Collector) ask(ctx context.Context, namespace string, ref metav1.OwnerReference) (state, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return alive, err
	}
	c.mu.Lock()
	mapper := c.mapper
	c.mu.Unlock()
	mapping, err := mapper.RESTMapping(schema.GroupKind{Group: gv.Group, Kind: ref.Kind}, gv.Version)
	if err != nil {
		return alive, err
	}
	if mapping.Scope.Name() == meta.RESTScopeNameRoot {
		namespace = ""
	} else if namespace == "" {
		return alive, errors.New("a cluster's object cannot belong to a namespace's")
	}
	owner, err := c.act.Resource(mapping.Resource).Namespace(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) || err == nil && owner.UID != ref.UID:
		return absent, nil
	case err != nil:
		return alive, err
	case fromMetadata(mapping.Resource, owner).foreground():
		return waiting, nil
	}
	return alive, nil
}

func (c *Collector) carryOut(ctx context.Context, o *object, live *metav1.PartialObjectMetadata, d Decision) error {
	client := c.act.Resource(o.gvr).Namespace(o.namespace)
	var err error
	switch d.step {
	case nothing:
		return nil
	case wait:
		c.look(d.look)
		return nil
	case remove:
		err = client.Delete(ctx, o.name, metav1.DeleteOptions{
			PropagationPolicy: &d.policy, Preconditions: &metav1.Preconditions{UID: &o.uid, ResourceVersion: &live.ResourceVersion},
		})
	case disown:
		err = c.patchMeta(ctx, o.identity, live, "ownerReferences", without(live.OwnerReferences, d.owners))
	case finish:
		err = c.patchMeta(ctx, o.identity, live, "finalizers", withoutString(live.Finalizers, metav1.FinalizerDeleteDependents))
	case freeDependents:
		if err := c.free(ctx, o); err != nil {
			return err
		}
		err = c.patchMeta(ctx, o.identity, live, "finalizers", withoutString(live.Finalizers, metav1.FinalizerOrphanDependents))
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("collect %s %s/%s: %w", o.gvr.Resource, o.namespace, o.name, err)
	}
	return nil
}

// free takes owner out of the owners of its dependents. It asks the API server who they are: one that the graph does not
// know would lose its owner and be collected, though it was to stay.
func (c *Collector) free(ctx context.Context, owner *object) error {
	var errs []error
	for _, gvr := range c.below(owner) {
		list, err := c.act.Resource(gvr).Namespace(owner.namespace).List(ctx, metav1.ListOptions{})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsMethodNotSupported(err) {
			errs = append(errs, fmt.Errorf("list dependents among %s: %w", gvr.GroupResource(), err))
		}
		if err != nil {
			continue
		}
		for i := range list.Items {
			live := &list.Items[i]
			if !slices.ContainsFunc(live.OwnerReferences, func(r metav1.OwnerReference) bool { return r.UID == owner.uid }) {
				continue
			}
			err := c.patchMeta(ctx, fromMetadata(gvr, live).identity, live, "ownerReferences", without(live.OwnerReferences, []types.UID{owner.uid}))
			if err != nil && !apierrors.IsNotFound(err) {
				errs = append(errs, fmt.Errorf("free %s %s/%s: %w", gvr.Resource, live.Namespace, live.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// below lists the resources that dependents of owner may be of: one of a namespace has them there only.
func (c *Collector) below(owner *object) (all []schema.GroupVersionResource) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for gvr, m := range c.monitors {
		if owner.namespace == "" || m.namespaced {
			all = append(all, gvr)
		}
	}
	slices.SortFunc(all, func(a, b schema.GroupVersionResource) int { return cmp.Compare(a.String(), b.String()) })
	return all
}

// patchMeta sets one list of an object's metadata, if the object is still as it was read.
func (c *Collector) patchMeta(ctx context.Context, id identity, live *metav1.PartialObjectMetadata, field string, value any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": live.UID, "resourceVersion": live.ResourceVersion, field: value,
	}})
	if err != nil {
		return err
	}
	_, err = c.act.Resource(id.gvr).Namespace(id.namespace).Patch(ctx, id.name, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

func without(refs []metav1.OwnerReference, uids []types.UID) []metav1.OwnerReference {
	return slices.DeleteFunc(slices.Clone(refs), func(r metav1.OwnerReference) bool { return slices.Contains(uids, r.UID) })
}

func withoutString(list []string, s string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(x string) bool { return x == s })
}

// preferred keeps, of each group, each resource in one version only: the first in the group's order that has it.
func preferred(groups []*metav1.APIGroup, lists []*metav1.APIResourceList) []*metav1.APIResourceList {
	byVersion := map[string]*metav1.APIResourceList{}
	for _, l := range lists {
		byVersion[l.GroupVersion] = l
	}
	var result []*metav1.APIResourceList
	for _, g := range groups {
		have := map[string]bool{}
		versions := append([]metav1.GroupVersionForDiscovery{g.PreferredVersion}, g.Versions...)
		for _, v := range versions {
			l := byVersion[v.GroupVersion]
			if l == nil {
				continue
			}
			kept := &metav1.APIResourceList{GroupVersion: l.GroupVersion}
			for _, r := range l.APIResources {
				if !have[r.Name] {
					have[r.Name] = true
					kept.APIResources = append(kept.APIResources, r)
				}
			}
			result = append(result, kept)
		}
	}
	return result
}

// resources lists what is watched, and whether it is in namespaces: everything but events, which own nothing and come in floods.
func resources(lists []*metav1.APIResourceList) map[schema.GroupVersionResource]bool {
	all := map[schema.GroupVersionResource]bool{}
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			continue
		}
		for _, r := range l.APIResources {
			if r.Name != "events" {
				all[gv.WithResource(r.Name)] = r.Namespaced
			}
		}
	}
	return all
}

func groupResources(groups []*metav1.APIGroup, lists []*metav1.APIResourceList) []*restmapper.APIGroupResources {
	byVersion := map[string][]metav1.APIResource{}
	for _, l := range lists {
		byVersion[l.GroupVersion] = l.APIResources
	}
	var result []*restmapper.APIGroupResources
	for _, g := range groups {
		r := &restmapper.APIGroupResources{Group: *g, VersionedResources: map[string][]metav1.APIResource{}}
		for _, v := range g.Versions {
			if list, ok := byVersion[v.GroupVersion]; ok {
				r.VersionedResources[v.Version] = list
			}
		}
		result = append(result, r)
	}
	return result
}
