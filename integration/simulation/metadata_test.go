package simulation

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
)

// served is what there is to discover, by name.
var served = map[string]struct{ group, kind string }{
	"configmaps": {"v1", "ConfigMap"}, "pods": {"v1", "Pod"}, "services": {"v1", "Service"}, "deployments": {"apps/v1", "Deployment"},
	"replicasets": {"apps/v1", "ReplicaSet"}, "jobs": {"batch/v1", "Job"}, "cronjobs": {"batch/v1", "CronJob"},
}

// discovered answers what resources there are.
type discovered struct {
	discovery.DiscoveryInterfaces
	world *world
}

func (c client) Discovery() discovery.DiscoveryInterfaces { return discovered{world: c.world} }

func (d discovered) ServerPreferredNamespacedResources() (lists []*metav1.APIResourceList, err error) {
	for _, name := range slices.Sorted(slices.Values(d.world.kinds)) {
		of := served[name]
		lists = append(lists, &metav1.APIResourceList{GroupVersion: of.group, APIResources: []metav1.APIResource{
			{Name: name, Kind: of.kind, Namespaced: true, Verbs: metav1.Verbs{"delete", "deletecollection", "list", "watch"}}}})
	}
	return lists, nil
}

func (d discovered) ServerGroupsAndResources() (groups []*metav1.APIGroup, lists []*metav1.APIResourceList, err error) {
	single, err := d.ServerPreferredNamespacedResources()
	for _, list := range single {
		if i := slices.IndexFunc(lists, func(l *metav1.APIResourceList) bool { return l.GroupVersion == list.GroupVersion }); i >= 0 {
			lists[i].APIResources = append(lists[i].APIResources, list.APIResources...)
			continue
		}
		lists = append(lists, list)
		gv, _ := schema.ParseGroupVersion(list.GroupVersion) // as above
		version := metav1.GroupVersionForDiscovery{GroupVersion: list.GroupVersion, Version: gv.Version}
		groups = append(groups, &metav1.APIGroup{Name: gv.Group, Versions: []metav1.GroupVersionForDiscovery{version}, PreferredVersion: version})
	}
	return groups, lists, err
}

// metaClient is one program's way to the metadata of objects of any kind.
type metaClient struct{ client }

func (m metaClient) Resource(gvr schema.GroupVersionResource) metadata.Getter {
	return metaResource{client: m.client, name: gvr.Resource}
}

type metaResource struct {
	metadata.ResourceInterface
	client
	name string
}

func (m metaResource) Namespace(string) metadata.ResourceInterface { return m }

// metadataOf is what obj says of itself.
func metadataOf(obj object) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion(), OwnerReferences: obj.GetOwnerReferences(),
		Finalizers: obj.GetFinalizers(), DeletionTimestamp: obj.GetDeletionTimestamp(), Labels: obj.GetLabels()}}
}

// ask sends a request about one object, which do is given; it returns the object after it.
func (m metaResource) ask(ctx context.Context, verb, name string, do func(was object) (object, error)) (*metav1.PartialObjectMetadata, error) {
	c := &call{verb: verb, resource: m.name, name: name}
	c.do = func() (err error) {
		was := m.world.table(m.name).objects[name]
		if was == nil {
			return gone(m.name, name)
		}
		c.out, err = do(was)
		return err
	}
	if err := m.send(ctx, c); err != nil {
		return nil, err
	}
	return metadataOf(c.out), nil
}

func (m metaResource) Get(ctx context.Context, name string, _ metav1.GetOptions, _ ...string) (*metav1.PartialObjectMetadata, error) {
	return m.ask(ctx, "get", name, func(was object) (object, error) { return was, nil })
}

func (m metaResource) List(ctx context.Context, _ metav1.ListOptions) (*metav1.PartialObjectMetadataList, error) {
	list := &metav1.PartialObjectMetadataList{}
	c := &call{verb: "list", resource: m.name}
	c.do = func() error {
		for _, obj := range all[object](m.world, m.name) {
			list.Items = append(list.Items, *metadataOf(obj))
		}
		return nil
	}
	return list, m.send(ctx, c)
}

// collect is the verb of a deletion by metadata, clear of many, and mark of a change.
func (m metaResource) Delete(ctx context.Context, name string, o metav1.DeleteOptions, _ ...string) error {
	_, err := m.ask(ctx, "collect", name, func(was object) (object, error) {
		if p := o.Preconditions; p != nil && (p.UID != nil && *p.UID != was.GetUID() || p.ResourceVersion != nil && *p.ResourceVersion != was.GetResourceVersion()) {
			return nil, stale(m.name, name)
		}
		m.world.end(m.name, name, o)
		return was, nil
	})
	return err
}

func (m metaResource) DeleteCollection(ctx context.Context, o metav1.DeleteOptions, _ metav1.ListOptions) error {
	c := &call{verb: "clear", resource: m.name}
	c.do = func() error {
		for _, obj := range all[object](m.world, m.name) {
			m.world.end(m.name, obj.GetName(), o)
		}
		return nil
	}
	return m.send(ctx, c)
}

func (m metaResource) Patch(ctx context.Context, name string, _ types.PatchType, data []byte, _ metav1.PatchOptions, _ ...string) (*metav1.PartialObjectMetadata, error) {
	return m.ask(ctx, "mark", name, func(was object) (object, error) {
		var asked metav1.PartialObjectMetadata
		if err := json.Unmarshal(data, &asked); err != nil {
			return nil, err
		}
		if asked.UID != was.GetUID() || asked.ResourceVersion != was.GetResourceVersion() {
			return nil, stale(m.name, name)
		}
		out := was.DeepCopyObject().(object)
		if bytes.Contains(data, []byte(`"finalizers"`)) {
			out.SetFinalizers(asked.Finalizers)
		}
		if bytes.Contains(data, []byte(`"ownerReferences"`)) {
			out.SetOwnerReferences(asked.OwnerReferences)
		}
		m.world.put(m.name, out)
		return out, nil
	})
}

// follow lets the story tell store what becomes of a resource, until ctx ends.
func (p *program) follow(ctx context.Context, gvr schema.GroupVersionResource, store cache.ReflectorStore) {
	p.world.mu.Lock()
	in := p.caches.add(&informer{resource: gvr.Resource, of: "collector's "})
	in.listeners = append(in.listeners, &listener{in: in, handler: follower{store}})
	p.world.mu.Unlock()
	<-ctx.Done()
}

// follower is what a store is told.
type follower struct{ store cache.ReflectorStore }

func (f follower) OnAdd(obj any, _ bool) { _ = f.store.Add(metadataOf(obj.(object))) }
func (f follower) OnUpdate(_, obj any)   { _ = f.store.Update(metadataOf(obj.(object))) }
func (f follower) OnDelete(obj any)      { _ = f.store.Delete(metadataOf(obj.(object))) }
func (f follower) replaced(all []object) {
	list := make([]any, len(all))
	for i, obj := range all {
		list[i] = metadataOf(obj)
	}
	_ = f.store.Replace(list, "")
}

// Finalize takes from a namespace what keeps it.
func (c namespaceClient) Finalize(ctx context.Context, in *corev1.Namespace, _ metav1.UpdateOptions) (*corev1.Namespace, error) {
	return c.write(ctx, "finalize", in, func(was, obj object) object {
		out := was.(*corev1.Namespace).DeepCopy()
		out.Spec.Finalizers = obj.(*corev1.Namespace).Spec.Finalizers
		return out
	})
}
