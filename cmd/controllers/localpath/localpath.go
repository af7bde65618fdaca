// Package localpath provides claims with directories of nodes.
//
// It owns the volumes that it provisioned, the pods of kube-system that make and remove their directories, and
// nothing else; the binder binds. A directory is only ever made after the pod that makes it, with its volume
// written into it, is in the API, and only removed for a volume whose deletion has begun, which nobody can bind any
// more: whenever this is cut off, what is in the API says how to go on. The size that a claim asks for is not
// enforced: a directory has all the space that its file system has.
package localpath

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

const byUID = "uid"

// Controller follows claims, volumes, and its helper pods.
type Controller struct {
	client  kubernetes.Interface
	image   string
	claims  cache.SharedIndexInformer
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
	nodes   corelisters.NodeLister
	pods    corelisters.PodNamespaceLister
	events  record.EventRecorder
	now     func() time.Time
	loop    *loop.Loop
	synced  []cache.InformerSynced
}

// New returns a Controller that has done nothing yet. Its helpers run image, which must have orlop-agent's entry point
// and be on every node.
func New(client kubernetes.Interface, image string, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (*Controller, error) {
	core, classes := shared.Core().V1(), shared.Storage().V1().StorageClasses()
	claims, volumes, nodes, pods := core.PersistentVolumeClaims(), core.PersistentVolumes(), core.Nodes(), core.Pods()
	c := &Controller{
		client: client, image: image, events: events, now: time.Now,
		claims: claims.Informer(), volumes: volumes.Lister(), classes: classes.Lister(), nodes: nodes.Lister(), pods: pods.Lister().Pods(metav1.NamespaceSystem),
		synced: []cache.InformerSynced{claims.Informer().HasSynced, volumes.Informer().HasSynced, classes.Informer().HasSynced, nodes.Informer().HasSynced, pods.Informer().HasSynced},
	}
	c.loop = loop.New("local-path-provisioner", c.sync, log)
	err := claims.Informer().AddIndexers(cache.Indexers{byUID: func(obj any) ([]string, error) {
		claim, ok := obj.(*corev1.PersistentVolumeClaim)
		if !ok {
			return nil, nil
		}
		return []string{string(claim.UID)}, nil
	}})
	_, err1 := claims.Informer().AddEventHandler(loop.On(func(claim *corev1.PersistentVolumeClaim) {
		if claim.Annotations[provisionerAnnotation] == Provisioner {
			c.loop.Add(volumeName(claim))
		}
	}))
	_, err2 := volumes.Informer().AddEventHandler(loop.On(func(v *corev1.PersistentVolume) {
		if v.Annotations[provisionedBy] == Provisioner {
			c.loop.Add(v.Name)
		}
	}))
	_, err3 := pods.Informer().AddEventHandler(loop.On(func(pod *corev1.Pod) {
		if volume := pod.Labels[volumeLabel]; volume != "" && pod.Namespace == metav1.NamespaceSystem {
			c.loop.Add(volume)
		}
	}))
	_, err4 := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { c.wakeAll() }, DeleteFunc: func(any) { c.wakeAll() },
	})
	return c, errors.Join(err, err1, err2, err3, err4)
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 4, c.synced...) }

// wakeAll looks again at everything that may wait for a node, or for its end.
func (c *Controller) wakeAll() {
	if all, err := c.volumes.List(labels.Everything()); err == nil {
		for _, v := range all {
			if v.Annotations[provisionedBy] == Provisioner {
				c.loop.Add(v.Name)
			}
		}
	}
	for _, obj := range c.claims.GetStore().List() {
		if claim, ok := obj.(*corev1.PersistentVolumeClaim); ok && claim.Spec.VolumeName == "" && claim.Annotations[provisionerAnnotation] == Provisioner {
			c.loop.Add(volumeName(claim))
		}
	}
}

func (c *Controller) sync(ctx context.Context, name string) error {
	s, err := c.observe(ctx, name)
	if err != nil {
		return err
	}
	for _, a := range plan(s) {
		if err := c.carryOut(ctx, s, a); err != nil {
			return fmt.Errorf("%s: %w", a, err)
		}
	}
	return nil
}

// observe collects all that belongs to the volume called name.
func (c *Controller) observe(ctx context.Context, name string) (state, error) {
	s := state{name: name, nodes: map[string]*corev1.Node{}, now: c.now()}
	var err error
	if s.volume, err = c.volumes.Get(name); apierrors.IsNotFound(err) {
		s.volume = nil
	} else if err != nil {
		return s, err
	}
	found, err := c.claims.GetIndexer().ByIndex(byUID, strings.TrimPrefix(name, "pvc-"))
	if err != nil {
		return s, err
	}
	if len(found) > 0 {
		s.claim = found[0].(*corev1.PersistentVolumeClaim)
		if s.class, err = c.classes.Get(className(s.claim)); apierrors.IsNotFound(err) {
			s.class = nil
		} else if err != nil {
			return s, err
		}
	}
	if s.helpers, err = c.pods.List(labels.SelectorFromSet(labels.Set{volumeLabel: name})); err != nil {
		return s, err
	}
	return s, c.observeNodes(ctx, s)
}

func (c *Controller) observeNodes(ctx context.Context, s state) error {
	var names []string
	if s.claim != nil {
		names = append(names, s.claim.Annotations[selectedNode])
	}
	if s.volume != nil {
		names = append(names, s.volume.Annotations[nodeAnnotation])
	}
	for _, p := range s.helpers {
		names = append(names, p.Spec.NodeName)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if name == "" {
			continue
		}
		node, err := c.nodes.Get(name)
		if apierrors.IsNotFound(err) { // the cache may be behind, and what follows cannot be undone: ask
			node, err = c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		}
		if apierrors.IsNotFound(err) {
			continue
		} else if err != nil {
			return fmt.Errorf("read node %s: %w", name, err)
		}
		s.nodes[name] = node
	}
	return nil
}

func (c *Controller) carryOut(ctx context.Context, s state, a action) error {
	volumes := c.client.CoreV1().PersistentVolumes()
	switch a.do {
	case tell:
		c.tell(s, a)
		return nil
	case again:
		c.loop.AddAfter(s.name, a.after)
		return nil
	case makeHelper:
		return c.makeHelper(ctx, s, a.pod)
	case dropHelper:
		return c.dropHelper(ctx, a.pod, nil)
	case forceHelper:
		now := int64(0)
		return c.dropHelper(ctx, a.pod, &now)
	case makeVolume:
		return c.makeVolume(ctx, s, a.volume)
	case deleteVolume:
		return gone(volumes.Delete(ctx, s.name, metav1.DeleteOptions{Preconditions: preconditions(s.volume)}))
	case releaseVolume:
		return c.release(ctx, s.volume)
	case unselect:
		patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"resourceVersion":%q,"annotations":{%q:null}}}`, s.claim.UID, s.claim.ResourceVersion, selectedNode)
		_, err := c.client.CoreV1().PersistentVolumeClaims(s.claim.Namespace).Patch(ctx, s.claim.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		return gone(err)
	}
	return fmt.Errorf("no such act: %s", a.do)
}

// gone takes what is not there for removed.
func gone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// preconditions let nothing but exactly what was looked at be deleted.
func preconditions(v *corev1.PersistentVolume) *metav1.Preconditions {
	return &metav1.Preconditions{UID: &v.UID, ResourceVersion: &v.ResourceVersion}
}

func (c *Controller) tell(s state, a action) {
	kind := corev1.EventTypeNormal
	if a.warn {
		kind = corev1.EventTypeWarning
	}
	switch {
	case a.aboutTheClaim && s.claim != nil:
		c.events.Event(s.claim, kind, a.reason, a.text)
	case !a.aboutTheClaim && s.volume != nil:
		c.events.Event(s.volume, kind, a.reason, a.text)
	}
}

// makeHelper makes a pod, unless the API knows better than the caches on which the plan rests.
func (c *Controller) makeHelper(ctx context.Context, s state, pod *corev1.Pod) error {
	v, err := c.client.CoreV1().PersistentVolumes().Get(ctx, s.name, metav1.GetOptions{})
	switch {
	case err != nil && !apierrors.IsNotFound(err):
		return fmt.Errorf("read volume: %w", err)
	case pod.Labels[actLabel] == actMake && err == nil:
		return nil // it is there already: the cache will say so
	case pod.Labels[actLabel] == actRemove && (err != nil || v.UID != s.volume.UID || v.DeletionTimestamp == nil):
		return gone(err)
	case pod.Labels[actLabel] == actRemove && v.Spec.ClaimRef != nil:
		claim, err := c.client.CoreV1().PersistentVolumeClaims(v.Spec.ClaimRef.Namespace).Get(ctx, v.Spec.ClaimRef.Name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("read claim: %w", err)
		}
		if err == nil && claim.UID == v.Spec.ClaimRef.UID {
			return errors.New("its claim is still there")
		}
	}
	pod = pod.DeepCopy()
	pod.Spec.Containers[0].Image = c.image
	_, err = c.client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func (c *Controller) dropHelper(ctx context.Context, pod *corev1.Pod, grace *int64) error {
	return gone(c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: grace, Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
	}))
}

func (c *Controller) makeVolume(ctx context.Context, s state, v *corev1.PersistentVolume) error {
	_, err := c.client.CoreV1().PersistentVolumes().Create(ctx, v, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // by a former try, whose answer was lost, or cached late
	}
	if err != nil {
		c.tell(s, s.failed("%v", err))
		return err
	}
	c.tell(s, action{do: tell, reason: "ProvisioningSucceeded", text: "Successfully provisioned volume " + v.Name, aboutTheClaim: true})
	return nil
}

// release lets a volume go whose directory is removed, or is to stay.
func (c *Controller) release(ctx context.Context, v *corev1.PersistentVolume) error {
	left := slices.DeleteFunc(slices.Clone(v.Finalizers), func(f string) bool { return f == finalizer })
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": v.UID, "resourceVersion": v.ResourceVersion, "finalizers": left}})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().PersistentVolumes().Patch(ctx, v.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	return gone(err)
}
