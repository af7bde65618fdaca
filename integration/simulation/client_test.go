package simulation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	appsclient "k8s.io/client-go/kubernetes/typed/apps/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	policyclient "k8s.io/client-go/kubernetes/typed/policy/v1"
	storageclient "k8s.io/client-go/kubernetes/typed/storage/v1"
)

const namespace = "default"

var (
	errKilled = errors.New("the program is dead")
	errLost   = errors.New("connection reset by peer")
)

// client is one program's way to the world. What nobody in the simulation calls panics.
type client struct {
	kubernetes.Interface
	world *world
	from  *program
}

// IsWatchListSemanticsUnSupported lets reflectors list before they watch.
func (c client) IsWatchListSemanticsUnSupported() bool { return true }

// resource is one resource of the API for one program: T is its type, L its list's.
type resource[T, L any] struct {
	client
	name string
	list func(version string, items []T) *L
}

func as[T any](obj object) *T { return any(obj).(*T) }
func of[T any](obj *T) object { return any(obj).(object) }

func (r resource[T, L]) List(context.Context, metav1.ListOptions) (*L, error) {
	r.world.mu.Lock()
	defer r.world.mu.Unlock()
	if r.from.dead {
		return nil, errKilled
	}
	t := r.world.table(r.name)
	var items []T
	for _, name := range slices.Sorted(maps.Keys(t.objects)) {
		items = append(items, *as[T](t.objects[name]))
	}
	return r.list(strconv.FormatInt(r.world.version, 10), items), nil
}

func (r resource[T, L]) Watch(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
	return r.world.watch(r.from, r.name, o.ResourceVersion)
}

func (r resource[T, L]) Get(_ context.Context, name string, _ metav1.GetOptions) (*T, error) {
	r.world.mu.Lock()
	defer r.world.mu.Unlock()
	obj := r.world.table(r.name).objects[name]
	if r.from.dead {
		return nil, errKilled
	} else if obj == nil {
		return nil, gone(r.name, name)
	}
	return as[T](obj.DeepCopyObject().(object)), nil
}

func (r resource[T, L]) Create(_ context.Context, in *T, _ metav1.CreateOptions) (out *T, err error) {
	obj := of(in).DeepCopyObject().(object)
	err = r.world.ask(r.from, "create "+r.name+" "+obj.GetName()+obj.GetGenerateName(), func() error {
		if obj.GetName() == "" {
			obj.SetName(fmt.Sprintf("%s%04d", obj.GetGenerateName(), r.world.made+1))
		}
		if r.world.table(r.name).objects[obj.GetName()] != nil {
			return exists(r.name, obj.GetName())
		}
		obj.SetNamespace(namespace)
		obj.SetGeneration(1)
		if pod, ok := any(obj).(*corev1.Pod); ok {
			pod.Status.Phase = corev1.PodPending
		}
		r.world.put(r.name, obj)
		return nil
	})
	return as[T](obj.DeepCopyObject().(object)), err
}

func (r resource[T, L]) Update(_ context.Context, in *T, _ metav1.UpdateOptions) (*T, error) {
	return r.write("update ", of(in), func(was, obj object) {
		if specChanged(was, obj) {
			obj.SetGeneration(was.GetGeneration() + 1)
		}
		keepStatus(obj, was)
	})
}

func (r resource[T, L]) UpdateStatus(_ context.Context, in *T, _ metav1.UpdateOptions) (*T, error) {
	return r.write("status ", of(in), func(was, obj object) {
		status := obj.DeepCopyObject().(object)
		keepSpec(obj, was)
		keepStatus(obj, status)
	})
}

func (r resource[T, L]) write(verb string, in object, merge func(was, obj object)) (*T, error) {
	obj := in.DeepCopyObject().(object)
	err := r.world.ask(r.from, verb+r.name+" "+in.GetName(), func() error {
		was := r.world.table(r.name).objects[in.GetName()]
		switch {
		case was == nil:
			return gone(r.name, in.GetName())
		case was.GetResourceVersion() != in.GetResourceVersion() || was.GetUID() != in.GetUID():
			return stale(r.name, in.GetName())
		}
		merge(was, obj)
		r.world.put(r.name, obj)
		return nil
	})
	return as[T](obj.DeepCopyObject().(object)), err
}

func (r resource[T, L]) Patch(_ context.Context, name string, _ types.PatchType, data []byte, _ metav1.PatchOptions, sub ...string) (*T, error) {
	out := new(T)
	err := r.world.ask(r.from, fmt.Sprint("patch ", r.name, " ", name, " ", sub), func() error {
		was := r.world.table(r.name).objects[name]
		if was == nil {
			return gone(r.name, name)
		}
		old, err := json.Marshal(was)
		if err != nil {
			return err
		}
		merged, err := strategicpatch.StrategicMergePatch(old, data, new(T))
		if err != nil {
			return err
		}
		if err := json.Unmarshal(merged, out); err != nil {
			return err
		}
		if of(out).GetUID() != was.GetUID() {
			return stale(r.name, name)
		}
		r.world.put(r.name, of(out).DeepCopyObject().(object))
		return nil
	})
	return out, err
}

func (r resource[T, L]) Delete(_ context.Context, name string, o metav1.DeleteOptions) error {
	return r.world.ask(r.from, "delete "+r.name+" "+name, func() error {
		was := r.world.table(r.name).objects[name]
		if was == nil {
			return gone(r.name, name)
		}
		if o.Preconditions != nil && o.Preconditions.UID != nil && *o.Preconditions.UID != was.GetUID() {
			return stale(r.name, name)
		}
		r.world.remove(r.name, name)
		return nil
	})
}

// remove begins the end of an object: a pod on a node leaves when its kubelet says so.
func (w *world) remove(resource, name string) {
	was := w.table(resource).objects[name]
	pod, ok := was.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" {
		w.drop(resource, name)
		return
	}
	if pod.DeletionTimestamp == nil {
		pod = pod.DeepCopy()
		now := metav1.NewTime(time.Now())
		pod.DeletionTimestamp = &now
		w.put(resource, pod)
	}
}

func specChanged(a, b object) bool {
	switch a := a.(type) {
	case *appsv1.ReplicaSet:
		return !equality.Semantic.DeepEqual(a.Spec, b.(*appsv1.ReplicaSet).Spec)
	case *appsv1.Deployment:
		return !equality.Semantic.DeepEqual(a.Spec, b.(*appsv1.Deployment).Spec)
	}
	return false
}

// keepStatus gives obj the status of from.
func keepStatus(obj, from object) {
	switch obj := obj.(type) {
	case *appsv1.ReplicaSet:
		obj.Status = from.(*appsv1.ReplicaSet).Status
	case *appsv1.Deployment:
		obj.Status = from.(*appsv1.Deployment).Status
	case *policyv1.PodDisruptionBudget:
		obj.Status = from.(*policyv1.PodDisruptionBudget).Status
	}
}

// keepSpec gives obj all of from.
func keepSpec(obj, from object) {
	switch obj := obj.(type) {
	case *appsv1.ReplicaSet:
		*obj = *from.(*appsv1.ReplicaSet).DeepCopy()
	case *appsv1.Deployment:
		*obj = *from.(*appsv1.Deployment).DeepCopy()
	case *policyv1.PodDisruptionBudget:
		*obj = *from.(*policyv1.PodDisruptionBudget).DeepCopy()
	}
}

// Below, the API's shape: each group embeds one level deeper the whole interface, so that what is written here wins.

type (
	coreRest    struct{ coreclient.CoreV1Interface }
	appsRest    struct{ appsclient.AppsV1Interface }
	policyRest  struct{ policyclient.PolicyV1Interface }
	storageRest struct {
		storageclient.StorageV1Interface
	}
	core struct {
		coreRest
		client client
	}
	apps struct {
		appsRest
		client client
	}
	policy struct {
		policyRest
		client client
	}
	storage struct {
		storageRest
		client client
	}
)

func (c client) CoreV1() coreclient.CoreV1Interface          { return core{client: c} }
func (c client) AppsV1() appsclient.AppsV1Interface          { return apps{client: c} }
func (c client) PolicyV1() policyclient.PolicyV1Interface    { return policy{client: c} }
func (c client) StorageV1() storageclient.StorageV1Interface { return storage{client: c} }

type podRest struct{ coreclient.PodInterface }

type podClient struct {
	resource[corev1.Pod, corev1.PodList]
	podRest
}

func (g core) Pods(string) coreclient.PodInterface {
	return podClient{resource: resource[corev1.Pod, corev1.PodList]{g.client, "pods", func(v string, items []corev1.Pod) *corev1.PodList {
		return &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: v}, Items: items}
	}}}
}

type nodeRest struct{ coreclient.NodeInterface }

type nodeClient struct {
	resource[corev1.Node, corev1.NodeList]
	nodeRest
}

func (g core) Nodes() coreclient.NodeInterface {
	return nodeClient{resource: resource[corev1.Node, corev1.NodeList]{g.client, "nodes", func(v string, items []corev1.Node) *corev1.NodeList {
		return &corev1.NodeList{ListMeta: metav1.ListMeta{ResourceVersion: v}, Items: items}
	}}}
}

type namespaceRest struct{ coreclient.NamespaceInterface }

type namespaceClient struct {
	resource[corev1.Namespace, corev1.NamespaceList]
	namespaceRest
}

func (g core) Namespaces() coreclient.NamespaceInterface {
	return namespaceClient{resource: resource[corev1.Namespace, corev1.NamespaceList]{g.client, "namespaces", func(v string, items []corev1.Namespace) *corev1.NamespaceList {
		return &corev1.NamespaceList{ListMeta: metav1.ListMeta{ResourceVersion: v}, Items: items}
	}}}
}

type persistentVolumeClaimRest struct {
	coreclient.PersistentVolumeClaimInterface
}

type persistentVolumeClaimClient struct {
	resource[corev1.PersistentVolumeClaim, corev1.PersistentVolumeClaimList]
	persistentVolumeClaimRest
}

func (g core) PersistentVolumeClaims(string) coreclient.PersistentVolumeClaimInterface {
	return persistentVolumeClaimClient{resource: resource[corev1.PersistentVolumeClaim, corev1.PersistentVolumeClaimList]{g.client, "persistentvolumeclaims", func(v string, items []corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaimList {
		return &corev1.PersistentVolumeClaimList{ListMeta: metav1.ListMeta{ResourceVersion: v}, Items: items}
	}}}
}

type persistentVolumeRest struct {
	coreclient.PersistentVolumeInterface
}

type persistentVolumeClient struct {
	resource[corev1.PersistentVolume, corev1.PersistentVolumeList]
	persistentVolumeRest
}

func (g core) PersistentVolumes() coreclient.PersistentVolumeInterface {
	return persistentVolumeClient{resource: resource[corev1.PersistentVolume, corev1.PersistentVolumeList]{g.client, "persistentvolumes", func(v string, items []corev1.PersistentVolume) *corev1.PersistentVolumeList {
		return &corev1.PersistentVolumeList{ListMeta: metav1.ListMeta{ResourceVersion: v}, Items: items}
	}}}
}

type serviceRest struct{ coreclient.ServiceInterface }

type serviceClient struct {
	resource[corev1.Service, corev1.ServiceList]
	serviceRest
}

func (g core) Services(string) coreclient.ServiceInterface {
	return serviceClient{resource: resource[corev1.Service, corev1.ServiceList]{g.client, "services", func(v string, items []corev1.Service) *corev1.ServiceList {
		return &corev1.ServiceList{ListMeta: metav1.ListMeta{ResourceVersion: v}, Items: items}
	}}}
}

type replicationControllerRest struct {
	coreclient.ReplicationControllerInterface
}

type replicationControllerClient struct {
	resource[corev1.ReplicationController, corev1.ReplicationControllerList]
	replicationControllerRest
}

func (g core) ReplicationControllers(string) coreclient.ReplicationControllerInterface {
	return replicationControllerClient{resource: resource[corev1.ReplicationController, corev1.ReplicationControllerList]{g.client, "replicationcontrollers", func(v string, items []corev1.ReplicationController) *corev1.ReplicationControllerList {
		return &corev1.ReplicationControllerList{ListMeta: metav1.ListMeta{ResourceVersion: v}, Items: items}
	}}}
}

type replicaSetRest struct{ appsclient.ReplicaSetInterface }

type replicaSetClient struct {
	resource[appsv1.ReplicaSet, appsv1.ReplicaSetList]
	replicaSetRest
}

func (g apps) ReplicaSets(string) appsclient.ReplicaSetInterface {
	return replicaSetClient{resource: resource[appsv1.ReplicaSet, appsv1.ReplicaSetList]{g.client, "replicasets", func(v string, items []appsv1.ReplicaSet) *appsv1.ReplicaSetList {
		return &appsv1.ReplicaSetList{ListMeta: metav1.ListMeta{ResourceVersion: v}, Items: items}
	}}}
}

type deploymentRest struct{ appsclient.DeploymentInterface }

type deploymentClient struct {
	resource[appsv1.Deployment, appsv1.DeploymentList]
	deploymentRest
}

func (g apps) Deployments(string) appsclient.DeploymentInterface {
	return deploymentClient{resource: resource[appsv1.Deployment, appsv1.DeploymentList]{g.client, "deployments", func(v string, items []appsv1.Deployment) *appsv1.DeploymentList {
		return &appsv1.DeploymentList{ListMeta: metav1.ListMeta{ResourceVersion: v}, Items: items}
	}}}
}

type statefulSetRest struct {
	appsclient.StatefulSetInterface
}

type statefulSetClient struct {
	resource[appsv1.StatefulSet, appsv1.StatefulSetList]
	statefulSetRest
}

func (g apps) StatefulSets(string) appsclient.StatefulSetInterface {
	return statefulSetClient{resource: resource[appsv1.StatefulSet, appsv1.StatefulSetList]{g.client, "statefulsets", func(v string, items []appsv1.StatefulSet) *appsv1.StatefulSetList {
		return &appsv1.StatefulSetList{ListMeta: metav1.ListMeta{ResourceVersion: v}, Items: items}
	}}}
}

type podDisruptionBudgetRest struct {
	policyclient.PodDisruptionBudgetInterface
}

type podDisruptionBudgetClient struct {
	resource[policyv1.PodDisruptionBudget, policyv1.PodDisruptionBudgetList]
	podDisruptionBudgetRest
}

func (g policy) PodDisruptionBudgets(string) policyclient.PodDisruptionBudgetInterface {
	return podDisruptionBudgetClient{resource: resource[policyv1.PodDisruptionBudget, policyv1.PodDisruptionBudgetList]{g.client, "poddisruptionbudgets", func(v string, items []policyv1.PodDisruptionBudget) *policyv1.PodDisruptionBudgetList {
		return &policyv1.PodDisruptionBudgetList{ListMeta: metav1.ListMeta{ResourceVersion: v}, Items: items}
	}}}
}

type storageClassRest struct {
	storageclient.StorageClassInterface
}

type storageClassClient struct {
	resource[storagev1.StorageClass, storagev1.StorageClassList]
	storageClassRest
}

func (g storage) StorageClasses() storageclient.StorageClassInterface {
	return storageClassClient{resource: resource[storagev1.StorageClass, storagev1.StorageClassList]{g.client, "storageclasses", func(v string, items []storagev1.StorageClass) *storagev1.StorageClassList {
		return &storagev1.StorageClassList{ListMeta: metav1.ListMeta{ResourceVersion: v}, Items: items}
	}}}
}

// Bind puts a pod on a node, once.
func (c podClient) Bind(_ context.Context, b *corev1.Binding, _ metav1.CreateOptions) error {
	return c.world.ask(c.from, "bind pods "+b.Name, func() error {
		was := c.world.table("pods").objects[b.Name]
		if was == nil {
			return gone("pods", b.Name)
		}
		pod := was.(*corev1.Pod).DeepCopy()
		if pod.Spec.NodeName != "" || pod.UID != b.UID || pod.DeletionTimestamp != nil {
			return stale("pods", b.Name)
		}
		pod.Spec.NodeName = b.Target.Name
		c.world.put("pods", pod)
		return nil
	})
}
