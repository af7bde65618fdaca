package disruption

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

// Scales reads scale subresources of any kind.
type Scales struct {
	Objects   dynamic.Interface
	Discovery discovery.DiscoveryInterface
	Mapper    meta.RESTMapper
}

// owner is who wants how many pods.
type owner struct {
	uid      types.UID
	replicas int32
}

// owners finds the owners of pods and what they want.
type owners struct {
	scales      Scales
	controllers corelisters.ReplicationControllerLister
	deployments appslisters.DeploymentLister
	replicaSets appslisters.ReplicaSetLister
	stateful    appslisters.StatefulSetLister
	synced      []cache.InformerSynced
}

func newOwners(shared informers.SharedInformerFactory, scales Scales) *owners {
	core, apps := shared.Core().V1(), shared.Apps().V1()
	return &owners{
		scales: scales, controllers: core.ReplicationControllers().Lister(), deployments: apps.Deployments().Lister(),
		replicaSets: apps.ReplicaSets().Lister(), stateful: apps.StatefulSets().Lister(),
		synced: []cache.InformerSynced{
			core.ReplicationControllers().Informer().HasSynced, apps.Deployments().Informer().HasSynced,
			apps.ReplicaSets().Informer().HasSynced, apps.StatefulSets().Informer().HasSynced,
		},
	}
}

// scale adds up what the owners of pods want. strays are the names of pods that have none.
func (o *owners) scale(ctx context.Context, namespace string, pods []*corev1.Pod) (total int32, strays []string, err error) {
	byRef := map[types.UID]*owner{}
	counted := map[types.UID]bool{}
	for _, pod := range pods {
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref == nil {
			strays = append(strays, pod.Name)
			continue
		}
		if _, known := byRef[ref.UID]; known {
			continue
		}
		found, err := o.find(ctx, namespace, ref)
		if err != nil {
			return 0, nil, err
		}
		if found == nil {
			return 0, nil, fmt.Errorf("found no controllers for pod %q", pod.Name)
		}
		byRef[ref.UID] = found
		if !counted[found.uid] { // two ReplicaSets of one Deployment count once
			counted[found.uid] = true
			total += found.replicas
		}
	}
	return total, strays, nil
}

// find returns the one that ref leads to; nil where that one is gone.
func (o *owners) find(ctx context.Context, namespace string, ref *metav1.OwnerReference) (*owner, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, fmt.Errorf("read owner's apiVersion: %w", err)
	}
	switch (schema.GroupKind{Group: gv.Group, Kind: ref.Kind}) {
	case schema.GroupKind{Kind: "ReplicationController"}:
		rc, err := o.controllers.ReplicationControllers(namespace).Get(ref.Name)
		if err != nil || rc.UID != ref.UID {
			return absent(err)
		}
		return &owner{rc.UID, ptr.Deref(rc.Spec.Replicas, 1)}, nil
	case schema.GroupKind{Group: "apps", Kind: "ReplicaSet"}:
		return o.ofReplicaSet(namespace, ref)
	case schema.GroupKind{Group: "apps", Kind: "StatefulSet"}:
		ss, err := o.stateful.StatefulSets(namespace).Get(ref.Name)
		if err != nil || ss.UID != ref.UID {
			return absent(err)
		}
		return &owner{ss.UID, ptr.Deref(ss.Spec.Replicas, 1)}, nil
	}
	return o.byScale(ctx, namespace, schema.GroupKind{Group: gv.Group, Kind: ref.Kind}, gv.Version, ref)
}

func (o *owners) ofReplicaSet(namespace string, ref *metav1.OwnerReference) (*owner, error) {
	rs, err := o.replicaSets.ReplicaSets(namespace).Get(ref.Name)
	if err != nil || rs.UID != ref.UID {
		return absent(err)
	}
	above := metav1.GetControllerOfNoCopy(rs)
	if above == nil || above.Kind != "Deployment" {
		return &owner{rs.UID, ptr.Deref(rs.Spec.Replicas, 1)}, nil
	}
	d, err := o.deployments.Deployments(namespace).Get(above.Name)
	if err != nil || d.UID != above.UID {
		return absent(err)
	}
	return &owner{d.UID, ptr.Deref(d.Spec.Replicas, 1)}, nil
}

// absent turns "not found" into nothing.
func absent(err error) (*owner, error) {
	if err == nil || apierrors.IsNotFound(err) {
		return nil, nil
	}
	return nil, err
}

// byScale reads an owner's scale, which custom resources may have too.
func (o *owners) byScale(ctx context.Context, namespace string, kind schema.GroupKind, version string, ref *metav1.OwnerReference) (*owner, error) {
	mapping, err := o.scales.Mapper.RESTMapping(kind, version)
	if err != nil {
		return nil, fmt.Errorf("find resource of %s: %w", kind, err)
	}
	objects := o.scales.Objects.Resource(mapping.Resource).Namespace(namespace)
	scale, err := objects.Get(ctx, ref.Name, metav1.GetOptions{}, "scale")
	if apierrors.IsNotFound(err) {
		// Either the owner is gone, or its kind has no scale; the two need different cures.
		if has, err := o.hasScale(mapping.Resource); has || err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%s does not implement the scale subresource", mapping.Resource.GroupResource())
	}
	if err != nil {
		return nil, fmt.Errorf("read scale of %s %s: %w", kind, ref.Name, err)
	}
	if scale.GetUID() != ref.UID {
		return nil, nil
	}
	replicas, _, err := unstructured.NestedInt64(scale.Object, "spec", "replicas")
	if err != nil {
		return nil, fmt.Errorf("read scale of %s %s: %w", kind, ref.Name, err)
	}
	return &owner{ref.UID, int32(replicas)}, nil
}

func (o *owners) hasScale(gvr schema.GroupVersionResource) (bool, error) {
	list, err := o.scales.Discovery.ServerResourcesForGroupVersion(gvr.GroupVersion().String())
	if err != nil {
		return false, fmt.Errorf("discover %s: %w", gvr.GroupVersion(), err)
	}
	return slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == gvr.Resource+"/scale" }), nil
}
